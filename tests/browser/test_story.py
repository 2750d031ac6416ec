"""From a link to a bonus and back, as somebody who tries the demo goes through it."""

from __future__ import annotations

import re
import typing as t

import pytest

from examples.demo import deploy

from .surfing import DESKTOP
from .surfing import NARROW
from .surfing import PHONE
from .surfing import Visitor

pytestmark = pytest.mark.browser

Visit = t.Callable[..., Visitor]


def log_in(visitor: Visitor, email: str) -> None:
    page = visitor.go("/login")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(deploy.PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out").wait_for()


def test_from_a_link_to_a_bonus_and_back(demo: str, visit: Visit) -> None:
    bob = visit(demo)
    bob.context.grant_permissions(["clipboard-read", "clipboard-write"])
    log_in(bob, "bob@example.com")
    page = bob.go("/account")
    page.get_by_role("button", name="Get my code").click()
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("status").filter(has_text="copied").wait_for()
    link: str = page.evaluate("navigator.clipboard.readText()")
    code = link.rpartition("/")[2]
    bob.check()

    friend = visit(demo, viewport=PHONE)
    page = friend.go(link)
    page.get_by_text("Bob invited you").wait_for()
    friend.check()
    page.get_by_role("main").get_by_role("link", name="Sign up").click()
    page.get_by_text("Bob invited you").wait_for()
    assert page.get_by_label("Referral code").input_value() == code
    friend.check()
    page.get_by_label("Name").fill("Frida")
    page.get_by_label("E-mail").fill("frida@example.com")
    page.get_by_label("Password").fill("a password of hers")
    page.get_by_role("main").get_by_role("button", name="Sign up").click()
    page.get_by_text("Welcome").first.wait_for()
    friend.check()
    page.get_by_role("link", name="Plans").click()
    page.get_by_role("button", name=re.compile("Buy Basic")).click()
    friend.check()

    page = bob.go("/referral/")
    page.get_by_text(re.compile(r"Bought on .* \$10\.00 is yours\.")).wait_for()
    bob.check()
    page = bob.go("/wallet")
    page.get_by_text("+$10.00").wait_for()
    bob.check()

    page = friend.go("/provider/")
    friend.check()
    page.get_by_role("button", name="Refund $9.00").click()
    friend.check()
    # What is refunded whole is neither refunded again nor delivered once more.
    assert page.get_by_role("button", name=re.compile("Refund|Replay")).count() == 0

    page = bob.go("/wallet")
    page.get_by_text("-$10.00").wait_for()
    bob.check()
    page = bob.go("/referral/")
    page.get_by_text(re.compile(r"\$10\.00 was taken back")).wait_for()
    bob.check()


@pytest.mark.parametrize(
    "way",
    [
        {"viewport": DESKTOP},
        {"viewport": PHONE, "color_scheme": "dark"},
        {"viewport": NARROW},
        {"viewport": PHONE, "java_script_enabled": True, "forced_colors": "active"},
    ],
    ids=["desktop", "dark phone", "narrow", "forced colours"],
)
def test_every_page_with_a_past_can_be_read(demo: str, visit: Visit, way: dict[str, t.Any]) -> None:
    stranger = visit(demo, **way)
    for path in ("/", "/signup", "/login", "/nowhere"):
        stranger.go(path)
        stranger.check()
    for email, paths in {
        "ada@example.com": ("/", "/account", "/referral/", "/wallet", "/plans", "/provider/"),
    }.items():
        visitor = visit(demo, **way)
        log_in(visitor, email)
        for path in paths:
            visitor.go(path)
            visitor.check()


def test_wrong_fields_say_what_is_wrong(demo: str, visit: Visit) -> None:
    visitor = visit(demo, viewport=PHONE)
    page = visitor.go("/signup")
    page.get_by_label("Referral code").fill("ZZZZ ZZZZ")
    page.get_by_label("Name").fill("Gil")
    page.get_by_label("E-mail").fill("gil@example.com")
    page.get_by_label("Password").fill("a password of his")
    page.get_by_role("main").get_by_role("button", name="Sign up").click()
    page.get_by_text("Nobody has this code").wait_for()
    visitor.check()
