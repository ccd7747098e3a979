"""Every line on stderr whole and by itself, and nothing that stderr does can hold the supervisor up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from pgidle.lifecycle.transitions import State
from pgidle.settings.options import LogFormat
from pgidle.system.log import LONGEST, Log

TEXT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC \[(\d+)\] pgidle: (.*)\n")

WRITE_MUCH = """
import os, sys
from pgidle.lifecycle.transitions import State
from pgidle.system.log import Log
from pgidle.settings.options import LogFormat
log = Log(LogFormat.TEXT)
for number in range(2000):
    log.line(State.AWAKE, f"line {number} " + "x" * 500)
print("done", flush=True)
sys.stdin.readline()
log.line(State.ASLEEP, "there is room again")
"""


def test_a_change_of_state_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    Log(LogFormat.TEXT).line(State.AWAKE, "Postgres accepts", State.STARTING, gate="shared")
    found = TEXT.fullmatch(capfd.readouterr().err)
    assert found
    assert found.groups() == (str(os.getpid()), "awake: Postgres accepts")


def test_json_has_every_field(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(LogFormat.JSON)
    log.line(State.AWAKE, "first\nsecond", State.STARTING, gate="shared")
    log.note("look", "failed")
    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert first | {"time": ""} == {
        "time": "",
        "pid": os.getpid(),
        "state": "awake",
        "from": "starting",
        "reason": "first\nsecond",
        "gate": "shared",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert second["topic"] == "look"


@pytest.mark.parametrize("mean", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x85b", "a\u2028b", "a\udcffb", "a\x00b"])
def test_nobody_s_name_makes_a_line_of_its_own(mean: str, capfd: pytest.CaptureFixture[str]) -> None:
    Log(LogFormat.TEXT).line(State.AWAKE, f"session of {mean}")
    written = capfd.readouterr().err
    assert written.endswith("b\n")
    assert written[:-1].isprintable()


@pytest.mark.parametrize("format", list(LogFormat))
def test_the_longest_line_is_still_one_write_and_well_formed(
    format: LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    Log(format).line(State.AWAKE, "begin " + "\N{SNOWMAN}" * 10_000)
    written = capfd.readouterr().err
    assert len(written.encode()) <= LONGEST
    assert "begin" in written
    if format is LogFormat.JSON:
        assert json.loads(written)["reason"].startswith("begin")


def test_a_failure_is_said_once_until_it_changes(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(LogFormat.TEXT)
    log.forget("look")
    for text in ("timed out", "timed out", "refused", "refused"):
        log.once("look", text)
    log.forget("look")
    log.forget("look")
    log.once("look", "refused")
    said = [found[2] for found in TEXT.finditer(capfd.readouterr().err)]
    assert said == ["look: timed out", "look: refused", "look: that is over: refused", "look: refused"]


def test_a_reader_that_stops_reading_stops_nothing() -> None:
    command = [sys.executable, "-c", WRITE_MUCH]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "done\n"
        _, written = process.communicate("\n")
    assert process.returncode == 0
    said = [found[2] for found in TEXT.finditer(written)]
    assert len(said) == len(written.splitlines()) < 2000, "every line that came is whole"
    lost = re.fullmatch(r"asleep: there is room again \((\d+) lines before this one were lost\)", said[-1])
    if lost:
        assert int(lost[1]) == 2001 - len(said)


@pytest.mark.parametrize("how", ["os.close(2)", "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"])
def test_a_stderr_that_takes_nothing_stops_nothing(how: str) -> None:
    code = f"import os, sys\n{how}\n{WRITE_MUCH}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input="\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")
