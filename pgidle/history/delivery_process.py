"""Passes new events on to a program or a web server: a fork of the supervisor, which ends once that is done.

The receiver is given the journal's lines, oldest first. A program gets all of them on its standard input, and what it
makes of them is its own business: failures are logged, and a program that is cut never gets the same lines again. A web
server gets one request for each, and what it does not take follows later.
"""

from __future__ import annotations

import os
import time

from pgidle.base.builtin_modules import signal
from pgidle.base.errors import FAULTS, fault_text
from pgidle.base.record import record
from pgidle.history.undelivered import find_undelivered, last_delivered, mark_delivered
from pgidle.settings.receiver import harmless_receiver, is_address
from pgidle.system.bounded_work import run_bounded
from pgidle.system.forked import SupervisorGone, settle
from pgidle.system.users import for_children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pgidle.system.bounded_work import Ended
    from pgidle.system.log import Log

LIMIT = 30.0
"""Seconds that a program gets, or a web server for all requests together."""

COMM = b"pgidle-events"
"""Its name in `ps -o comm`."""

PR_SET_NAME = 15
LOWEST = 19
"""The nice value of a delivery and of what it runs."""

DELIVERED, NOT_YET = 0, 3
"""Exit statuses: nothing is left to deliver, or another attempt may be worth it."""


@record
class Delivery:
    """What a delivery is given. `after`: run and number of the line after which lines count, if none has been delivered
    yet; `folder` is the state directory's descriptor, `environ` pgidle's environment."""

    receiver: str
    after: tuple[int, int]
    folder: int
    data_dir: str
    environ: Mapping[str, str]
    log: Log
    supervisor_pid: int


def deliver(delivery: Delivery) -> None:
    """Deliver what is new, in a fork of the supervisor; ends the process."""
    status = NOT_YET
    try:
        settle({delivery.folder}, delivery.supervisor_pid, signal.SIGTERM)
        signal.signal(signal.SIGTERM, _on_supervisor_gone)
        _take_name()
        os.nice(LOWEST)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        status = _deliver(delivery)
    except SupervisorGone:
        pass
    except FAULTS as error:
        delivery.log.note("on-event", f"cannot deliver events: {fault_text(error)}")
    os._exit(status)


def _deliver(delivery: Delivery) -> int:
    last = last_delivered(delivery.folder)
    if last is None:
        # So that the next run finds what this one may leave over.
        last = delivery.after
        _mark(delivery, last)
    found = find_undelivered(delivery.folder, last)
    if not found.lines:
        return DELIVERED
    texts = [line.text for line in found.lines]
    if found.dropped:
        texts.insert(0, _dropped(found.dropped))
        delivery.log.note(
            "on-event", f"{found.dropped} events are dropped, as too many have not been delivered"
        )
    is_program = not is_address(delivery.receiver)
    if is_program:
        # First, since an exit of pgidle cuts a slow program, and this process.
        _mark(delivery, found.lines[-1].place)
        count, failure = len(texts), _run_program(delivery, texts)
    else:
        count, failure = _post(delivery, texts)
    left = len(texts) - count
    if failure:
        rest = f"; {left} event{'s are' if left > 1 else ' is'} not delivered yet" if left else ""
        delivery.log.note("on-event", f"{harmless_receiver(delivery.receiver)}: {failure}{rest}")
    if not is_program and left < len(found.lines):
        _mark(delivery, found.lines[-left - 1].place)
    return NOT_YET if left else DELIVERED


def _mark(delivery: Delivery, last: tuple[int, int]) -> None:
    try:
        mark_delivered(delivery.folder, last)
    except OSError as error:
        delivery.log.note("on-event", f"events may be delivered again: {fault_text(error)}")


def _run_program(delivery: Delivery, texts: Sequence[bytes]) -> str:
    """Run the program with the lines on its standard input. Returns what went wrong."""
    program = delivery.receiver
    environment = for_children(delivery.environ) | {"PGDATA": delivery.data_dir}
    lines = _in_memory(texts)

    def execute(say: Callable[[str], None]) -> None:
        os.dup2(lines, 0)
        os.dup2(2, 1)
        os.chdir("/")
        try:
            os.execve(program, [program], environment)
        except OSError as error:
            say(f"it cannot be run: {error.strerror}")

    ended = run_bounded(execute, {lines}, LIMIT)
    return ended.said or _how(ended)


def _post(delivery: Delivery, texts: Sequence[bytes]) -> tuple[int, str]:
    """Post each line. Returns how many the server has taken or refuses for good, and what went wrong."""
    # How far the descriptor has been read tells how many were posted, even if the process is killed.
    lines = _in_memory(texts)

    def post(say: Callable[[str], None]) -> None:
        from pgidle.history.webhook import NotPosted, post_each

        refused, why = 0, ""
        try:
            for text, refusal in zip(texts, post_each(delivery.receiver, texts), strict=True):
                os.lseek(lines, len(text), os.SEEK_CUR)
                if refusal:
                    refused += 1
                    why = refusal
        except NotPosted as error:
            say(str(error))
        else:
            if refused:
                say(f"{refused} of {len(texts)} events are refused: {why}")

    ended = run_bounded(post, {lines}, LIMIT)
    read, count = os.lseek(lines, 0, os.SEEK_CUR), 0
    while read > 0:
        read -= len(texts[count])
        count += 1
    return count, ended.said or _how(ended)


def _how(ended: Ended) -> str:
    """What is wrong with how it ended; empty if nothing is."""
    if ended.status is None:
        return f"killed, as it took longer than {LIMIT:g} s"
    if ended.status < 0:
        return f"killed by signal {-ended.status}"
    return f"exited with status {ended.status}" if ended.status else ""


def _in_memory(texts: Sequence[bytes]) -> int:
    """A file in memory with these lines, at its start. Raises OSError."""
    file = os.memfd_create("pgidle-events")
    data = memoryview(b"".join(texts))
    while data:
        data = data[os.write(file, data) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _dropped(count: int) -> bytes:
    return f'{{"at":{time.time():.3f},"event":"dropped","count":{count}}}\n'.encode()


def _on_supervisor_gone(_number: int, _frame: object) -> None:
    raise SupervisorGone


def _take_name() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_NAME, COMM)
