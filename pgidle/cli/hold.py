"""`pgidle hold -- PROGRAM`: the process that took the hold becomes the program.

So there is nobody between the program and its caller: exit status, signals, terminal and job control are its own. The
supervisor watches the process, whose end ends the hold, however it ends. A descriptor that the program inherited would
not do: sudo closes them all, and a daemon that it leaves behind keeps them.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.control.holds import start_of
from pgidle.system.execute import execute

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

NOT_STARTED = 125
"""The exit status where the program was not even tried, as of env(1) and timeout(1)."""


def hold_for(words: list[str], take: Callable[[dict[str, object]], object]) -> NoReturn:
    """Take a hold for this process, by parameters of the order, and become the program.

    Raises PgidleError; its exit status is none that a program of a usual kind has.
    """
    name = os.path.basename(words[0])
    if not name:
        raise SettingsError(f"{words[0]!r} is no program", "name one behind --")
    # Nobody is woken for a program that is not there.
    if shutil.which(words[0]) is None and not os.path.exists(words[0]):
        execute(words, "")
    pid = os.getpid()
    try:
        take({"pid": pid, "started": start_of(pid) or 0, "program": name})
    except SettingsError:
        raise
    except PgidleError as error:
        error.status = NOT_STARTED
        raise
    execute(words, "")
