"""The page at `/`: one file, made of those in `page/`, and the headers that keep it to itself.

Its script and its style are allowed by a nonce, and nothing else is: no other script, no other address, no frame, no
form. Nothing of what it shows is in the file; the script asks for that.
"""

from __future__ import annotations

import base64
import os

from pgidle.control.http_server import Answer

HTML = b"text/html; charset=utf-8"
FOLDER = os.path.join(os.path.dirname(__file__), "page")


def _part(name: str) -> str:
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()


# Read when this module is imported: a Python that only root can read is imported in whole before root is given up.
_SCRIPT = "".join(map(_part, ("texts.js", "facts.js", "chart.js", "page.js")))
_TEMPLATE = _part("page.html").replace("/* page.css */", _part("page.css")).replace("/* page.js */", _SCRIPT)


def page() -> Answer:
    """The page, with a nonce of its own."""
    nonce = base64.b64encode(os.urandom(18)).decode()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src 'nonce-{nonce}'",
            f"style-src 'nonce-{nonce}'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    headers = (
        (b"content-security-policy", policy.encode()),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
    )
    return Answer(200, HTML, _TEMPLATE.replace("NONCE", nonce).encode(), headers)
