"""The operator's desk in a real browser: the queue is worked, with and without a mouse."""

from __future__ import annotations

import re
import typing as t

import pytest
from playwright.sync_api import Page

from examples.demo import deploy

from .surfing import DESKTOP
from .surfing import NARROW
from .surfing import Visitor

pytestmark = pytest.mark.browser

Visit = t.Callable[..., Visitor]
VIEWS = ("overview", "codes", "referrals", "rewards", "deliveries", "disabled", "history")


def log_in(visitor: Visitor) -> Page:
    page = visitor.go("/login")
    page.get_by_label("E-mail").fill(deploy.OPERATOR[0])
    page.get_by_label("Password").fill(deploy.PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Overview").wait_for()
    return page


def open_first_held(page: Page) -> str:
    """Open what waits the longest on top of the queue, as one without a mouse does."""
    page.goto("/operator/referral_overview/")
    link = page.get_by_role("link", name=re.compile("held rewards? waits? for a decision"))
    link.focus()
    page.keyboard.press("Enter")
    first = page.locator("tbody a").first
    first.wait_for()
    first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Reward", exact=True).wait_for()
    return page.url


def test_the_queue_is_worked_without_a_mouse(demo: str, visit: Visit) -> None:
    operator = visit(demo)
    page = log_in(operator)
    reward = open_first_held(page)
    page.get_by_role("link", name="Release").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="What will happen").wait_for()
    operator.check("main")
    # The browser itself asks for the reason.
    page.get_by_role("button", name="Release").press("Enter")
    assert page.evaluate("document.activeElement.name") == "reason"
    page.keyboard.type("a known customer")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("status").filter(has_text="Released.").wait_for()
    assert page.url.startswith(reward)
    page.get_by_text("a known customer").wait_for()
    operator.check("main")

    open_first_held(page)
    page.get_by_role("link", name="Void").click()
    page.get_by_label("Reason").fill("his own cards")
    page.get_by_role("button", name="Void").click()
    page.get_by_role("status").filter(has_text="Given up.").wait_for()

    # Back in the browser, there is no form for what was decided.
    page.go_back()
    page.get_by_role("alert").wait_for()
    assert page.get_by_label("Reason").count() == 0
    operator.check("main")

    page.goto("/operator/referral_rewards/?status=credited")
    # A welcome bonus goes back in proportion.
    page.locator("tbody tr", has_text="referrer").first.get_by_role("link").first.click()
    page.get_by_role("link", name="Take back").click()
    page.get_by_label(re.compile("How much")).fill("100")
    page.get_by_role("button", name="Show what it does").click()
    page.get_by_text("-$1.00").first.wait_for()
    operator.check("main")
    page.get_by_label("Reason").fill("a part refunded")
    page.get_by_role("button", name="Take back").click()
    page.get_by_role("status").filter(has_text="Taken back.").wait_for()

    page.goto("/operator/referral_history/")
    for reason in ("a known customer", "his own cards", "a part refunded"):
        page.get_by_role("cell", name=reason).first.wait_for()


@pytest.mark.parametrize(
    "way",
    [{"viewport": DESKTOP}, {"viewport": NARROW}, {"viewport": NARROW, "color_scheme": "dark"}],
    ids=["desktop", "narrow", "dark phone"],
)
def test_every_page_of_the_desk_can_be_read(demo: str, visit: Visit, way: dict[str, t.Any]) -> None:
    operator = visit(demo, **way)
    page = log_in(operator)
    for view in VIEWS:
        operator.go(f"/operator/referral_{view}/")
        operator.check("main")
    operator.go("/operator/referral_overview/")
    page.get_by_role("button", name="Ask the doctor").click()
    page.get_by_role("heading", name="What the doctor finds").wait_for()
    operator.check("main")
    operator.go("/operator/referral_disabled/disable")
    operator.check("main")


def test_a_code_is_switched_off_and_on(demo: str, visit: Visit) -> None:
    operator = visit(demo)
    page = log_in(operator)
    operator.go("/operator/referral_disabled/")
    page.get_by_role("link", name="Switch a code off").click()
    page.get_by_label("User").fill("2")
    page.get_by_label("Reason").fill("bought clicks")
    page.get_by_role("button", name="Switch off").click()
    page.get_by_role("cell", name="bought clicks").wait_for()
    operator.check("main")
    page.get_by_role("link", name="Switch on 2").click()
    page.get_by_label("Reason").fill("explained")
    page.get_by_role("button", name="Switch on").click()
    page.get_by_text("There is nothing here yet.").wait_for()
