"""Reads the end of the log collector's file (logging_collector), which gets the messages that stderr then lacks."""

from __future__ import annotations

import os
import stat

LONGEST = 16384
"""Bytes at its end that are read."""

FORMATS = ("stderr", "jsonlog", "csvlog")
CSV_SEVERITY, CSV_MESSAGE = 11, 13
"""Columns (write_csvlog in csvlog.c)."""


def end_of_log(data_dir: str, since: float) -> bytes:
    """The end of the current log file, in stderr's form; empty if it was not written since then (Unix time), or if it
    cannot be read.

    `current_logfiles` has lines of a format and a path, and outlives Postgres (syslogger.c).
    """
    try:
        with open(f"{data_dir}/current_logfiles", "rb") as file:
            named = dict(line.split(b" ", 1) for line in file.read(LONGEST).splitlines() if b" " in line)
        kind = next((one for one in FORMATS if one.encode() in named), None)
        if kind is None:
            return b""
        path = os.path.join(os.fsencode(data_dir), named[kind.encode()])
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            # File times may be whole seconds.
            if not stat.S_ISREG(found.st_mode) or found.st_mtime < int(since):
                return b""
            file.seek(max(0, found.st_size - LONGEST))
            said = file.read(LONGEST)
    except OSError:
        return b""
    return said if kind == "stderr" else "\n".join(_plain(said, kind)).encode()


def _plain(said: bytes, kind: str) -> list[str]:
    """Severity and message of each complete line."""
    text = said.decode(errors="replace")
    if kind == "csvlog":
        import csv

        rows = [row for row in csv.reader(text.splitlines()) if len(row) > CSV_MESSAGE]
        return [f"{row[CSV_SEVERITY]}:  {row[CSV_MESSAGE]}" for row in rows]
    import json

    lines = []
    for line in text.splitlines():
        try:
            found = json.loads(line)
            lines.append(f"{found['error_severity']}:  {found['message']}")
        except (ValueError, KeyError, TypeError):
            continue
    return lines
