"""Asks supervisors for their status, many at once and again and again; one that hangs holds up nobody.

What is asleep is not asked for its whole status: for that it would start its observer, which takes memory. The
supervisor itself tells that it still sleeps.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.control import sentence
from pgidle.control.client import NotRunning, request, request_url
from pgidle.control.status import NO_LOOK
from pgidle.history.events import Kind
from pgidle.history.files import last_event
from pgidle.history.sleeps import last_sleep
from pgidle.lifecycle.transitions import State
from pgidle.system.state_directory import last_failure

if TYPE_CHECKING:
    from collections.abc import Iterable

Status = dict[str, Any]

TIMEOUT = 4.0
"""Seconds that a supervisor gets to answer."""

HTTP_PORT = 8008
COUNTING = ("seconds_in_state", "uptime")
"""Seconds that go on while Postgres sleeps."""
HEALTH, STATUS = "/health", "/status"
ASLEEP = State.ASLEEP.noun
NOT_OURS = "what answers is not a pgidle of this version"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a supervisor said last: its status, or why there is none. `status` is checked for nothing but its state.
    `owner`: the user whose it is, if that is neither root nor who asks."""

    where: str
    status: Status | None
    error: str = ""
    owner: str = ""


class Target:
    """A supervisor that can be asked. What is known of one that sleeps stays true for as long as it sleeps."""

    def __init__(self, where: str, owner: str = "") -> None:
        self.where = where
        self.owner = owner
        self._slept: tuple[float, Status] | None = None
        """When it was asked last, and what it said, if it slept."""

    def ask(self) -> Status:
        """Its status. Raises PgidleError."""
        if (self._request(HEALTH).get("state")) == ASLEEP and (known := self._known()) is not None:
            return known
        said = _checked(self.where, self._request(STATUS))
        is_asleep = said["state"] == ASLEEP and isinstance(said.get("seconds_in_state"), int | float)
        self._slept = (time.monotonic(), said) if is_asleep else None
        return said

    def _known(self) -> Status | None:
        if self._slept is None:
            return None
        at, said = self._slept
        passed = time.monotonic() - at
        moved = {name: said[name] + passed for name in COUNTING if isinstance(said.get(name), int | float)}
        said = said | moved
        with contextlib.suppress(LookupError, TypeError, ValueError):  # Of another version, perhaps.
            said["summary"] = sentence.sentence(said, time.time())
        return said

    def _request(self, path: str) -> Status:
        raise NotImplementedError


class Local(Target):
    """The supervisor of a state directory. It looks at Postgres before it answers."""

    def ask(self) -> Status:
        try:
            return super().ask()
        except NotRunning:
            return left_behind(self.where)

    def _request(self, path: str) -> Status:
        return request(self.where, "GET", path, TIMEOUT)[1]


class OneOfMany(Local):
    """The same for a table of many: what sleeps is never asked, and what is awake tells what its last look saw."""

    def _known(self) -> Status | None:
        return asleep(self.where)

    def _request(self, path: str) -> Status:
        return super()._request(f"{path}?{NO_LOOK}" if path == STATUS else path)


class Remote(Target):
    """The supervisor at a URL."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError for what is no URL."""
        super().__init__(read_url(url))

    def _request(self, path: str) -> Status:
        return request_url(self.where, path, TIMEOUT)[1]


def read_url(text: str) -> str:
    """The URL of an HTTP port, completed. Raises SettingsError."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise SettingsError(f"{text!r} is no URL of a pgidle", f"write http://HOST:{HTTP_PORT}")
    if port is None and parts.scheme == "http":
        parts = parts._replace(netloc=f"{parts.netloc.removesuffix(':')}:{HTTP_PORT}")
    return parts._replace(fragment="").geturl().rstrip("/")


def _checked(where: str, said: Status) -> Status:
    """The status, if it is one at all. Raises PgidleError."""
    if not isinstance(said.get("state"), str) or said["state"] == sentence.NOT_RUNNING:
        raise PgidleError(f"{where} is no pgidle: {str(said.get('error') or 'it told no state')[:80]}")
    return said


def asleep(state_dir: str) -> Status:
    """What can be told of a Postgres that sleeps without asking for it."""
    last = last_sleep(state_dir)
    spent = max(0.0, time.time() - last.at) if last is not None else None
    return {
        "state": ASLEEP,
        "seconds_in_state": spent,
        "last_sleep": asdict(last) if last is not None else None,
    }


def left_behind(state_dir: str) -> Status:
    """The status where no supervisor runs: what the last one has left behind."""
    last, failed, event = last_sleep(state_dir), last_failure(state_dir), last_event(state_dir)
    ended = None
    if event is not None:
        has_exited = event.kind is Kind.EXITED
        state, why = (event.text("state"), event.text("why")) if has_exited else (sentence.LOST, "")
        ended = {"at": event.at, "state": state, "why": why}
    return {
        "state": sentence.NOT_RUNNING,
        "failure": {"why": failed[1], "at": failed[0]} if failed is not None else None,
        "last_sleep": asdict(last) if last is not None else None,
        "ended": ended,
    }


def ask(target: Target) -> Answer:
    """The answer of one supervisor, which may be an error."""
    try:
        return Answer(target.where, target.ask(), owner=target.owner)
    except PgidleError as error:
        return Answer(target.where, None, str(error), target.owner)
    except sentence.NONSENSE:
        return Answer(target.where, None, NOT_OURS, target.owner)


class Asking:
    """Asks each supervisor in a thread of its own, and writes a byte to `told` at every answer."""

    def __init__(self, every: float) -> None:
        self.news, self._told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._every = every
        self._lock = threading.Lock()
        self._answers: dict[str, Answer] = {}
        self._unanswered: set[str] = set()
        self._ended = threading.Event()

    def add(self, targets: Iterable[Target]) -> None:
        """Ask these too, those that are new."""
        for target in targets:
            with self._lock:
                if target.where in self._answers:
                    continue
                self._answers[target.where] = Answer(target.where, None, "no answer yet", target.owner)
                self._unanswered.add(target.where)
            threading.Thread(target=self._ask, args=(target,), daemon=True).start()

    def answers(self) -> list[Answer]:
        """The last answer of each; of one that has not answered yet, that."""
        with self._lock:
            return [answer for _, answer in sorted(self._answers.items())]

    def wait(self, seconds: float) -> None:
        """Until each has answered once, or so many seconds are over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with self._lock:
                if not self._unanswered:
                    return
            self._ended.wait(0.02)

    def tell(self) -> None:
        """Something is new."""
        try:
            os.write(self._told, b".")
        except BlockingIOError:
            return

    def _ask(self, target: Target) -> None:
        while True:
            answer = ask(target)
            with self._lock:
                self._answers[target.where] = answer
                self._unanswered.discard(target.where)
            self.tell()
            time.sleep(self._every)
