"""A real browser for the tests, in which nothing goes wrong unnoticed."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import typing as t
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from flask import Flask
from playwright.sync_api import Browser
from playwright.sync_api import BrowserContext
from playwright.sync_api import Page
from playwright.sync_api import Request
from playwright.sync_api import Response
from werkzeug.serving import make_server

from flask_referral.testing import BROWSER

#: The names that distributions give to Chromium.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# The browser asks its makers for updates and the like, which no test wants.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PHONE = {"width": 390, "height": 844}
NARROW = {"width": 320, "height": 640}
DESKTOP = {"width": 1280, "height": 900}
#: Milliseconds.
PATIENCE = 20_000
_axe = Axe()


def program() -> str | None:
    """Return the path of Chromium: the environment's ``CHROMIUM``, else an installed one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextlib.contextmanager
def serving(app: Flask) -> t.Iterator[str]:
    """Serve an application on a free port of this machine, and yield its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join(PATIENCE / 1000)
        server.server_close()


class Visitor:
    """Somebody with a browser of his own; ``page`` is what he looks at.

    :param expected: what the console may say, as of an answer that the test provokes.
    """

    def __init__(self, browser: Browser, base_url: str, **options: t.Any) -> None:
        settings: dict[str, t.Any] = {
            "base_url": base_url,
            "user_agent": BROWSER,
            "viewport": DESKTOP,
            "locale": "en-US",
            **options,
        }
        self.host = urlsplit(base_url).netloc
        self.wrong: list[str] = []
        self.context: BrowserContext = browser.new_context(**settings)
        self.context.set_default_timeout(PATIENCE)
        self.context.on("request", self._look_at_request)
        self.context.on("response", self._look_at_response)
        self.context.on("weberror", lambda error: self.wrong.append(f"script: {error.error}"))
        self.context.on("console", self._look_at_message)
        self.page: Page = self.context.new_page()

    def _look_at_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https") and address.netloc != self.host:
            self.wrong.append(f"another host was asked: {request.url}")

    def _look_at_response(self, response: Response) -> None:
        if response.status >= 500:
            self.wrong.append(f"{response.status}: {response.url}")

    def _look_at_message(self, message: t.Any) -> None:
        # Chromium reports each answer of 4xx, which a test may want.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.wrong.append(f"console: {message.text}")

    def go(self, path: str) -> Page:
        """Open a page, and return it."""
        self.page.goto(path)
        return self.page

    def check(self, ours: str | None = None) -> None:
        """Look for what must not be on any page: faults for axe, and what leaves the screen.

        :param ours: a selector of what is looked at by axe; default: all of the page.
        """
        found = _axe.run(self.page, context=ours)
        assert found.violations_count == 0, found.generate_report()
        sizes = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert sizes[0] <= sizes[1], f"{self.page.url} is {sizes[0]} px wide on {sizes[1]} px"
        self.check_quiet()

    def check_quiet(self) -> None:
        """Nothing was asked of another host, no script failed, and the console has no error."""
        assert self.wrong == []

    def close(self) -> None:
        self.context.close()
