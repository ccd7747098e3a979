"""Debian's Chromium, driven by Playwright, for tests of the page."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

PATIENCE = 60_000
"""Milliseconds after which what a test waits for never comes."""


def missing() -> str:
    """What is not installed; empty if all is there."""
    if shutil.which("chromium") is None:
        return "no Chromium (apt-get install chromium)"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "no Playwright (pip install playwright)"
    return ""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    # Its sandbox refuses root, and needs user namespaces, which containers often lack.
    words = ["--no-sandbox"] if os.getuid() == 0 or os.environ.get("CI") == "true" else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=words)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, *, excused: str = "nothing", **options: object) -> Iterator[Page]:
    """A tab, as of a new user. Nothing may have gone wrong in it by the end: no error (but those with a text that is
    excused), no refusal by the policy, no dialog, no request to anywhere else."""
    settings: dict[str, object] = {"locale": "en-GB", "timezone_id": "Europe/Berlin"}
    context = browser.new_context(**settings | options)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: None if excused in said.text else wrong.append(f"console: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith("http://127.0.0.1:") else wrong.append(f"asks {asked.url}")
        ),
    )
    try:
        yield page
    finally:
        context.close()
    assert not wrong, wrong
