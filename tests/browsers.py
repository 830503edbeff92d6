"""Headless Chromium for tests, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser. Skips where there is none.

    For one module at a time: while it is open the thread has a running event loop.
    """
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no browser: install the Debian package chromium")
    # Root, as CI is, has no sandbox; containers have little shared memory.
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=[*sandbox, "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(context: BrowserContext) -> Iterator[Page]:
    """A page in which nothing may fail unseen: neither a script, nor a promise, nor its policy."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None,
    )
    yield page
    page.close()
    assert wrong == []
