"""The entry point of every command: `pgidle`, and `python -m pgidle`."""

from __future__ import annotations

import errno
import gc
import os
import sys

from pgidle.inherited import settle_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> None:
    """`run` and `health` without click where all is certain: its import alone would be felt in every wake."""
    # Nothing that an import leaves is garbage, and looking for some takes as long as ten imports. `run` turns it on.
    gc.disable()
    # Before descriptors get their numbers.
    is_heard = sys.stdout is not None or sys.argv[1:2] == ["run"]
    settle_streams()
    try:
        if not is_heard:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        _obey()
    except SystemExit as ended:
        if (error := _unwritten()) is None:
            raise
        _complain(error, ended.code)
    except OSError as error:
        if is_heard and _unwritten() is None:
            raise
        _complain(error, 1)


def _obey() -> None:
    if sys.argv[1:] == ["health"]:
        from pgidle.pulse import health

        if (answer := health(os.environ)) is not None:
            sys.stdout.write(f"{answer[0]}\n")
            sys.exit(answer[1])
    from pgidle.arguments import fast

    arguments = fast(sys.argv[2:]) if sys.argv[1:2] == ["run"] else None
    if arguments is None:
        from pgidle.cli import cli

        cli(prog_name="pgidle")
        return
    from pgidle.boot import run

    sys.exit(run(arguments.options, arguments.postgres_args))


def _unwritten() -> OSError | None:
    """Why standard output does not take what was to be written: a full disk, for one."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return error
    return None


def _complain(error: OSError, status: object) -> NoReturn:
    """One line, and no other attempt by the interpreter. A reader that has gone (a closed pipe) is told nothing."""
    try:
        if error.errno != errno.EPIPE:
            os.write(2, f"pgidle: cannot write to standard output: {error.strerror}\n".encode())
    finally:
        os._exit(status if isinstance(status, int) and status else 1)


if __name__ == "__main__":
    main()
