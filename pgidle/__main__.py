"""The entry point of every command: `pgidle`, and `python -m pgidle`."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys

from pgidle.run.sd_listen import settle_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from _typeshed import ReadableBuffer


class _Output(io.FileIO):
    """Standard output that remembers why a write failed, for example because the disk is full."""

    failed: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failed = error
            raise


def main() -> None:
    """Run a command; `run` and `health` without click wherever possible, whose import would slow down every wake."""
    # Imports leave no garbage, and collecting it takes as long as ten imports. `run` turns it on again.
    gc.disable()
    was, is_run = sys.stdout, sys.argv[1:2] == ["run"]
    # Before any other descriptor is opened.
    settle_streams()
    from pgidle.settings.arguments import fast

    if is_run and (arguments := fast(sys.argv[2:])) is not None:
        from pgidle.run.boot import run

        sys.exit(run(arguments.options, arguments.postgres_args))
    output = _Output(1, "w", closefd=False)
    if was is not None:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(output), was.encoding, was.errors, line_buffering=was.isatty()
        )
    elif not is_run:
        _complain(OSError(errno.EBADF, os.strerror(errno.EBADF)), 1)
    try:
        _obey()
    except SystemExit as ended:
        if (error := _unwritten(output)) is not None:
            _complain(error, ended.code)
        raise
    except OSError:
        if output.failed is None:
            raise
        _complain(output.failed, 1)


def _obey() -> None:
    if sys.argv[1:] == ["health"]:
        from pgidle.cli.health import health

        if (answer := health(os.environ)) is not None:
            sys.stdout.write(f"{answer[0]}\n")
            sys.exit(answer[1])
    from pgidle.cli.commands import cli

    cli(prog_name="pgidle")


def _unwritten(output: _Output) -> OSError | None:
    """Why some of the output could not be written; None if all of it was."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return error
    return output.failed


def _complain(error: OSError, status: object) -> NoReturn:
    """Exit with one line, before the interpreter tries to write again. If the reader has gone (EPIPE), without a
    line."""
    try:
        if error.errno != errno.EPIPE:
            os.write(2, f"pgidle: cannot write to standard output: {error.strerror}\n".encode())
    finally:
        os._exit(status if isinstance(status, int) and status else 1)


if __name__ == "__main__":
    main()
