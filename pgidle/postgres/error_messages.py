"""Finds in Postgres's output its own words for what is wrong."""

from __future__ import annotations

PLAIN = r".*?\b(?P<level>LOG|WARNING|ERROR|FATAL|PANIC|DETAIL|CONTEXT|HINT):\s+(?P<text>.*)"

REFERS = "contains errors|could not load .*hba"
"""A fatal message that refers to the line before for the cause."""

FATAL = (
    "FATAL", "FATALE", "FATALT", "ВАЖНО", "ФАТАЛЬНО", "致命错误", "치명적오류", "ფატალური",
    "PANIC", "PANICO", "PANIK", "ПАНИКА", "ПАНІКА", "比致命错误还过分的错误", "손상", "პანიკა",
)  # fmt: skip
"""As lc_messages may have them (src/backend/po). A colon and two spaces follow (send_message_to_server_log)."""
ERROR = ("ERROR", "ERRORE", "ERREUR", "FEHLER", "FEL", "ОШИБКА", "ПОМИЛКА", "错误", "오류", "შეცდომა")

LONGEST = 500
"""Characters."""


def first_complaint(said: list[str]) -> str:
    """Why a trial in English has failed, in one line: the fatal message, after the message that it refers to."""
    import re

    lines = [found.group("level", "text") for line in said if (found := re.match(PLAIN, line)) is not None]
    fatal = next((at for at, (level, _) in enumerate(lines) if level in ("ERROR", "FATAL", "PANIC")), None)
    if fatal is None:
        return " ".join(said[-1:])  # Said before there is a log: "postgres: ..."
    text = lines[fatal][1]
    first = fatal
    if re.search(REFERS, text) is not None:
        first = max((at for at, (level, _) in enumerate(lines[:fatal]) if level == "LOG"), default=fatal)
    told = [part for level, part in lines[first:] if level in ("LOG", "CONTEXT", "DETAIL")]
    return ": ".join(dict.fromkeys([*told, text] if first < fatal else [text, *told]))


def last_complaint(said: bytes) -> str:
    """The last fatal message in a start's output, else the last error, in any language and encoding; empty if none.

    It comes after the line before it if it refers to that.
    """
    import re

    lines = said.decode(errors="replace").splitlines()
    for levels in (FATAL, ERROR):
        mark = re.compile(rf"(?:^|.*?[^\w])(?:{'|'.join(levels)}):  (.*)")
        found = [(at, match[1]) for at, line in enumerate(lines) if (match := mark.match(line)) is not None]
        if found:
            at, text = found[-1]
            refers = at > 0 and re.search(REFERS, text) is not None
            before = re.sub(r"^.*?\bLOG:  ", "", lines[at - 1]) if refers else ""
            return _cut(f"{before}: {text}" if before else text)
    # Said before there is a log: "postgres: ...", and what it goes on with.
    return "" if any(":  " in line for line in lines) else _cut(" ".join(lines[-3:]))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
