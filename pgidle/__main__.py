"""The entry point of every command: `pgidle`, and `python -m pgidle`."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """`run` and `health` without click where all is certain: its import alone would be felt in every wake."""
    # Nothing that an import leaves is garbage, and looking for some takes as long as ten imports. `run` turns it on.
    gc.disable()
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


if __name__ == "__main__":
    main()
