"""The referrer's page: on a phone, in the dark, by keyboard, from right to left, without script."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from flask import render_template_string
from flask_babel import Babel
from flask_talisman import Talisman

from ..conftest import MakeHost
from ..hosts import Host
from ..money import pay
from ..money import refer
from ..money import refund
from ..visiting import make_code
from .surfing import DESKTOP
from .surfing import NARROW
from .surfing import PHONE
from .surfing import serving
from .surfing import Visitor

pytestmark = pytest.mark.browser

Visit = t.Callable[..., Visitor]
#: Ways to look at a page; "text" is a window at 200 %.
WAYS: dict[str, dict[str, t.Any]] = {
    "desktop": {"viewport": DESKTOP},
    "phone": {"viewport": PHONE, "has_touch": True},
    "narrow": {"viewport": NARROW},
    "text": {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2},
    "dark": {"viewport": PHONE, "color_scheme": "dark"},
    "forced colours": {"viewport": DESKTOP, "forced_colors": "active"},
    "no motion": {"viewport": DESKTOP, "reduced_motion": "reduce"},
}


@pytest.fixture
def host(make_sqlite: MakeHost) -> Host:
    """Return a program with a past: all states, several sources, a place among the best."""
    host = make_sqlite(
        REFERRAL_LEADERBOARD=True, REFERRAL_VELOCITY_LIMIT=4, REFERRAL_VANITY_CODES=True
    )
    host.current_user = host.add_user(name="referrer")
    host.referral.display_name_loader(lambda user: "Eve" if user == host.current_user else None)
    return host


def give_a_past(host: Host) -> None:
    people = [refer(host, host.current_user) for _ in range(6)]
    for number, person in enumerate(people[1:]):
        pay(host, person, f"mem_{number}")
    refund(host, "mem_0")
    refund(host, "mem_1", amount_cents=300)


@contextlib.contextmanager
def shown(host: Host, visit: Visit, **options: t.Any) -> t.Iterator[Visitor]:
    with serving(host.app) as url:
        visitor = visit(url, **options)
        visitor.go("/referral/")
        yield visitor


@pytest.mark.parametrize("is_full", [False, True], ids=["empty", "full"])
@pytest.mark.parametrize("way", WAYS)
def test_everybody_can_read_it(host: Host, visit: Visit, way: str, is_full: bool) -> None:
    if is_full:
        give_a_past(host)
    with shown(host, visit, **WAYS[way]) as visitor:
        page = visitor.page
        page.get_by_role("heading", name="Invite friends").wait_for()
        for summary in page.locator("summary").all():
            summary.click()
        visitor.check()


@pytest.mark.parametrize("locale", ["ar", "de", "es", "fr", "ja", "pt_BR"])
def test_it_reads_in_each_language(host: Host, visit: Visit, locale: str) -> None:
    Babel(host.app, locale_selector=lambda: locale)
    give_a_past(host)
    with shown(host, visit, viewport=NARROW) as visitor:
        html = visitor.page.locator("html")
        assert html.get_attribute("lang") == locale.replace("_", "-")
        assert html.get_attribute("dir") == ("rtl" if locale == "ar" else "ltr")
        assert visitor.page.get_by_role("heading", name="Invite friends").count() == 0
        visitor.check()


def test_one_press_makes_the_link_and_one_copies_it(host: Host, visit: Visit) -> None:
    with shown(host, visit) as visitor:
        page = visitor.page
        visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Get my code").click()
        link = page.get_by_role("textbox", name="Your link").input_value()
        code = page.get_by_role("textbox", name="Your code").input_value()
        assert link.endswith(f"/r/{code}")
        for name, text, said in (
            ("Copy link", link, "Link copied."),
            ("Copy code", code, "Code copied."),
        ):
            page.get_by_role("button", name=name).click()
            page.get_by_role("status").filter(has_text=said).wait_for()
            assert page.evaluate("navigator.clipboard.readText()") == text
        visitor.check()


def test_a_code_is_chosen_and_a_refusal_stands_at_its_field(host: Host, visit: Visit) -> None:
    with host.app.app_context():
        host.referral.set_code(host.add_user(), "EVE")
        host.db.session.commit()
    make_code(host, host.current_user)
    with shown(host, visit, viewport=PHONE, color_scheme="dark") as visitor:
        page = visitor.page
        page.get_by_text("Change your code").click()
        field = page.get_by_role("textbox", name="A code of your choice")
        field.fill("eve")
        page.get_by_role("button", name="Choose this code").click()
        page.get_by_text("Somebody else has this code").wait_for()
        assert field.input_value() == "eve"
        assert field.get_attribute("aria-invalid") == "true"
        visitor.check()
        field.fill("ada-lovelace")
        page.get_by_role("button", name="Choose this code").click()
        page.locator("input[value$='/r/ADALOVELACE']").wait_for()
        assert page.get_by_role("textbox", name="Your code").input_value() == "ADALOVELACE"
        visitor.check()


def test_the_keyboard_alone_copies_and_changes_the_period(host: Host, visit: Visit) -> None:
    give_a_past(host)
    with shown(host, visit) as visitor:
        page = visitor.page
        visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
        reached = []
        for _ in range(40):
            page.keyboard.press("Tab")
            name = page.evaluate("document.activeElement.textContent.trim()")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"the focus on {name!r} cannot be seen"
            reached.append(name)
            if name == "Copy link":
                page.keyboard.press("Enter")
                page.get_by_role("status").filter(has_text="Link copied.").wait_for()
            if name == "90 days":
                break
        assert {"Copy link", "Copy code", "E-mail", "30 days"} <= set(reached)
        page.evaluate("window.isTheSamePage = true")
        page.keyboard.press("Enter")
        page.locator("a[aria-current]", has_text="90 days").wait_for()
        assert page.evaluate("window.isTheSamePage")
        assert page.evaluate("document.activeElement.textContent.trim()") == "90 days"
        assert "days=90" in page.url
        visitor.check()


def test_without_script_everything_works(host: Host, visit: Visit) -> None:
    with shown(host, visit, java_script_enabled=False) as visitor:
        page = visitor.page
        page.get_by_role("button", name="Get my code").click()
        assert page.get_by_role("textbox", name="Your link").input_value()
        assert page.get_by_role("button", name="Copy link").count() == 0
        give_a_past(host)
        page.reload()
        page.get_by_role("link", name="90 days").click()
        assert "days=90" in page.url
        page.get_by_text("Show as a table").click()
        assert page.locator("table").first.get_by_role("row").count() > 10
        visitor.check_quiet()


def test_the_devices_own_share_sheet_is_offered_where_there_is_one(
    host: Host, visit: Visit
) -> None:
    make_code(host, host.current_user)
    with serving(host.app) as url:
        visitor = visit(url)
        visitor.context.add_init_script(
            "Object.defineProperty(navigator, 'share', "
            "{value: data => { window.shared = data; return Promise.resolve(); }})"
        )
        page = visitor.go("/referral/")
        page.get_by_role("button", name="Share").click()
        shared = page.evaluate("window.shared")
        assert "utm_source=share" in shared["url"] and shared["text"]
        for name in ("E-mail", "WhatsApp", "Telegram", "X", "LinkedIn"):
            address = page.get_by_role("link", name=name, exact=True).get_attribute("href")
            assert address is not None and "utm_source%3D" in address


def test_it_holds_under_a_policy_of_self_alone(host: Host, visit: Visit) -> None:
    Talisman(host.app, force_https=False, content_security_policy={"default-src": "'self'"})
    give_a_past(host)
    with shown(host, visit) as visitor:
        page = visitor.page
        # The stylesheet and the script are in force; a violation would stand on the console.
        page.get_by_role("button", name="Copy link").wait_for()
        card = page.locator(".referral-card").first
        radius = card.evaluate("card => getComputedStyle(card).borderRadius")
        assert radius != "0px"
        page.get_by_role("link", name="365 days").click()
        page.locator("a[aria-current]", has_text="365 days").wait_for()
        visitor.check_quiet()


HOSTILE = "<img src=x onerror=alert(1)>\"'`{{7*7}}"


def test_hostile_names_and_sources_are_texts(host: Host, visit: Visit) -> None:
    host.referral.display_name_loader(lambda user: HOSTILE)
    give_a_past(host)
    code = make_code(host, host.current_user)
    with serving(host.app) as url:
        stranger = visit(url)
        host.current_user, user = None, host.current_user
        host.app.get("/landing")(
            lambda: render_template_string(
                '<!doctype html><html lang="en"><title>Landing</title>'
                '{% import "referral/widgets.html" as referral %}{{ referral.stylesheet() }}'
                "<main><h1>Landing</h1>{{ referral.invited() }}</main></html>"
            )
        )
        page = stranger.page
        page.goto(f"/landing?ref={code}&utm_source=%3Cimg%20src=x%20onerror=alert(2)%3E")
        page.get_by_text(HOSTILE, exact=False).wait_for()
        stranger.check()
        host.current_user = user
        page.goto("/referral/")
        assert page.get_by_text(HOSTILE).count() > 5
        assert page.locator("img[src=x]").count() == 0
        stranger.check()
