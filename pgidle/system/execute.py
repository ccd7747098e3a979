"""Another program in our place: same pid, same terminal, and its exit status is the command's."""

from __future__ import annotations

import os

from pgidle.base.builtin_modules import signal
from pgidle.base.errors import PgidleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def execute(words: list[str], hint: str) -> NoReturn:
    """Become the program, which is found on PATH.

    Raises PgidleError with a shell's exit status where that cannot be: 127 where there is none, else 126.
    """
    # Python ignores these, and exec would leave them so: `yes | head` in a shell would no longer end in silence.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        said = PgidleError(f"{words[0]} cannot be run: {error.strerror}", hint)
        said.status = 127 if isinstance(error, FileNotFoundError) else 126
        raise said from None
