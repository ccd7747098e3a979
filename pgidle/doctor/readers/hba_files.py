"""Reads pg_hba.conf and pg_ident.conf, with the files that they include, for the pure readers: texts by path."""

from __future__ import annotations

from pathlib import Path

from pgidle.doctor.readers.hba_records import Texts, named_files
from pgidle.system.trusted_path import read_regular

MOST = 100
"""Files."""


def gather(path: str) -> Texts:
    """The file and every file that it names, as far as they can be read."""
    texts = Texts()
    waiting = [path]
    while waiting and len(texts.contents) + len(texts.unread) < MOST:
        one = waiting.pop(0)
        if one in texts.contents or one in texts.unread or one in texts.folders:
            continue
        try:
            if Path(one).is_dir():
                names = sorted(each.name for each in Path(one).iterdir())
                names = [name for name in names if name.endswith(".conf") and name[0] != "."]
                texts.folders[one] = tuple(f"{one}/{name}" for name in names)
                waiting += texts.folders[one]
                continue
            text = read_regular(one).decode("utf-8", "replace")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            texts.unread[one] = why or "no file has such a name"
            continue
        texts.contents[one] = text
        waiting += named_files(one, text)
    return texts
