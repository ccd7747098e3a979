"""A supervisor that only initialises, for tests to interrupt: prints its child's pid, then waits for it.

    python initialiser.py DATA_DIR BIN_DIR MAJOR USER [STEP]

With a STEP the child kills itself with -9 before it. As root it becomes USER, as pgidle does.
"""

from __future__ import annotations

import os
import signal
import sys

from pgidle.postgres.first_start import Initialisation
from pgidle.postgres.image_variables import first_start
from pgidle.postgres.initdb import Order
from pgidle.postgres.programs import Binaries
from pgidle.system.users import become, plan


def main(data_dir: str, bin_dir: str, major: str, user: str, fatal: str = "") -> str | None:
    first = first_start(os.environ)
    if (identity := plan(user, data_dir)) is not None:
        become(identity)

    def before(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    order = Order(Binaries(bin_dir, int(major)), first, os.environ, ("-c", "work_mem=5MB"))
    child = Initialisation(data_dir, order, before)
    signal.signal(signal.SIGTERM, lambda _number, _frame: child.stop())
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    return child.error()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
