"""The entry point of every command: `pgidle`, and `python -m pgidle`."""

from __future__ import annotations

import sys


def main() -> None:
    """`run` without click, where its arguments are certain: click's import alone would be felt in every wake."""
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
