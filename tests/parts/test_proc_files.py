"""What the kernel tells of this process and of the machine, beside what psutil makes of it."""

from __future__ import annotations

import os
import subprocess
import time

import psutil

from harness.postgres_fixture import wait_until
from pgidle.system.proc_files import BOOT, is_quiet, process_start, resident


def test_memory_is_what_psutil_says() -> None:
    assert abs(resident() - psutil.Process().memory_info().rss) < 2**20


def test_a_process_that_was_something_else_before_starts_now() -> None:
    age = time.time() - psutil.Process().create_time()
    told = time.monotonic() - process_start()
    assert told < 0.5 if age > BOOT + 1 else abs(told - age) < 1


def test_a_crowd_is_noticed_and_its_end() -> None:
    crowd = [
        subprocess.Popen(["nice", "-n", "19", "sh", "-c", "while :; do :; done"])
        for _ in range(2 * (os.cpu_count() or 1) + 2)
    ]
    try:
        wait_until(lambda: not is_quiet())
    finally:
        for one in crowd:
            one.kill()
            one.wait()
    wait_until(is_quiet)
