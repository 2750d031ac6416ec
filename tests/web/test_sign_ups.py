"""A sign-up in the very request that brings the code: seen, and counted as one click."""

from __future__ import annotations

import typing as t

import pytest
from flask import Flask
from flask import request
from sqlalchemy import event

from flask_referral import AttributionReason as Reason
from flask_referral import signals

from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import Clock
from ..visiting import COOKIE
from ..visiting import cookie_value
from ..visiting import CRAWLER
from ..visiting import set_cookie

UNKNOWN = "ZZZZZZZZ"


class SignUps:
    """A host with a sign-up page, and what came of each sign-up."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.reasons: list[Reason] = []
        self.statements: list[str] = []
        self.values: dict[str, t.Any] = {"name": "new"}
        self.fails = False
        self.then: t.Callable[[], None] = lambda: None
        host.app.add_url_rule("/signup", view_func=self.sign_up, methods=["GET", "POST"])
        host.app.add_url_rule("/page", "page", view_func=lambda: "page")
        host.app.add_url_rule("/login", "login", view_func=lambda: host.referral.carry())

    def sign_up(self) -> str:
        user = self.host.User(**self.values)
        session = self.host.db.session
        session.add(user)
        session.flush()
        with self.host.statements() as self.statements:
            result = self.host.referral.attribute(user, code=request.form.get("code"))
        self.reasons.append(result.reason)
        if self.fails:
            session.rollback()
        else:
            session.commit()
        self.then()
        return "welcome"

    def bound(self) -> list[bool]:
        return [row.referred_user_id is not None for row in clicks(self.host)]


@pytest.fixture
def sign_ups(make: MakeHost) -> SignUps:
    return SignUps(make())


@pytest.fixture
def code(sign_ups: SignUps) -> str:
    return add_referrer(sign_ups.host)[1]


def test_a_form_with_cookies_blocked(sign_ups: SignUps, code: str) -> None:
    headers = {"Referer": "https://blog.example/post"}
    answer = browser(sign_ups.host).post(f"/signup?ref={code}", headers=headers)
    assert answer.status_code == 200
    assert sign_ups.reasons == [Reason.attributed]
    [row] = clicks(sign_ups.host)
    assert (row.referral_code, row.referred_user_id is not None) == (code, True)
    # As much of the visit as of any other.
    assert (row.referrer_url, "Firefox" in row.user_agent) == ("https://blog.example/post", True)
    assert len(sign_ups.statements) == 2


def test_the_forms_page_was_the_visit(sign_ups: SignUps, code: str) -> None:
    host = sign_ups.host
    browser(host).get(f"/page?ref={code}")
    browser(host).post(f"/signup?ref={code}")
    assert sign_ups.reasons == [Reason.attributed]
    assert sign_ups.bound() == [True]
    assert len(sign_ups.statements) == 2
    # Another person of the same computer.
    browser(host).post(f"/signup?ref={code}")
    assert sign_ups.bound() == [True, True]


def test_a_link_that_signs_up_at_once(sign_ups: SignUps, code: str) -> None:
    told: list[str] = []

    def clicked(app: Flask, **values: t.Any) -> None:
        told.append(f"click through {values['code']}")

    def attributed(app: Flask, **values: t.Any) -> None:
        told.append(f"sign-up through {values['code']}")

    with (
        signals.click_recorded.connected_to(clicked),
        signals.user_attributed.connected_to(attributed),
    ):
        answer = browser(sign_ups.host).get(f"/signup?ref={code}")
    assert sign_ups.reasons == [Reason.attributed]
    assert sign_ups.bound() == [True]
    assert told == [f"click through {code}", f"sign-up through {code}"]
    [row] = clicks(sign_ups.host)
    assert cookie_value(answer).split(".")[2] == row.id.hex


def test_one_click_also_at_midnight(sign_ups: SignUps, code: str, clock: Clock) -> None:
    clock.time = clock.time.replace(hour=23, minute=59)
    sign_ups.values = {"created_at": clock.time}
    sign_ups.then = lambda: clock.turn(minutes=2)
    browser(sign_ups.host).get(f"/signup?ref={code}")
    assert sign_ups.reasons == [Reason.attributed]
    assert sign_ups.bound() == [True]


def test_a_sign_up_that_is_rolled_back_leaves_a_click(sign_ups: SignUps, code: str) -> None:
    sign_ups.fails = True
    browser(sign_ups.host).get(f"/signup?ref={code}")
    assert sign_ups.reasons == [Reason.attributed]
    assert sign_ups.bound() == [False]


def test_a_script_signs_up(sign_ups: SignUps, code: str) -> None:
    headers = {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors"}
    browser(sign_ups.host).post(f"/signup?ref={code}", headers=headers)
    assert sign_ups.reasons == [Reason.attributed]
    assert sign_ups.bound() == [True]


def test_a_mangled_link(sign_ups: SignUps, code: str) -> None:
    browser(sign_ups.host).post(f"/signup?ref=producthunt&amp;ref={code}.")
    assert sign_ups.reasons == [Reason.attributed]


def test_a_typed_code_uses_the_visit_through_the_same(sign_ups: SignUps, code: str) -> None:
    _, other = add_referrer(sign_ups.host)
    browser(sign_ups.host).post(f"/signup?ref={code}", data={"code": code})
    [row] = clicks(sign_ups.host)
    assert "Firefox" in row.user_agent
    browser(sign_ups.host).post(f"/signup?ref={code}", data={"code": other})
    assert sign_ups.reasons == [Reason.attributed] * 2
    assert {row.referral_code for row in clicks(sign_ups.host)} == {code, other}


@pytest.mark.parametrize(
    "headers", [{"User-Agent": CRAWLER}, {"Sec-Purpose": "prefetch"}], ids=["bot", "prefetch"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_no_visit_binds_nobody(
    sign_ups: SignUps, code: str, headers: dict[str, str], method: str
) -> None:
    browser(sign_ups.host).open(f"/signup?ref={code}", method=method, headers=headers)
    assert sign_ups.reasons == [Reason.no_visit]
    assert clicks(sign_ups.host) == []


def test_a_picture_binds_nobody(sign_ups: SignUps, code: str) -> None:
    browser(sign_ups.host).get(f"/signup?ref={code}", headers={"Sec-Fetch-Dest": "image"})
    assert sign_ups.reasons == [Reason.no_visit]
    assert clicks(sign_ups.host) == []


def test_consent(sign_ups: SignUps, code: str) -> None:
    sign_ups.host.referral.consent_loader(lambda: False)
    browser(sign_ups.host).post(f"/signup?ref={code}")
    assert clicks(sign_ups.host) == []
    # What was typed needs none.
    browser(sign_ups.host).post(f"/signup?ref={code}", data={"code": code})
    assert sign_ups.reasons == [Reason.no_visit, Reason.attributed]
    [row] = clicks(sign_ups.host)
    assert row.user_agent is None


def test_broken_hook_does_not_break_the_sign_up(
    sign_ups: SignUps, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> bool:
        raise LookupError("broken hook")

    sign_ups.host.referral.consent_loader(broken)
    assert browser(sign_ups.host).post(f"/signup?ref={code}").status_code == 200
    assert sign_ups.reasons == [Reason.no_visit]
    assert "broken hook" in caplog.text


def test_an_unknown_code_does_not_cost_the_visit(sign_ups: SignUps, code: str) -> None:
    client = browser(sign_ups.host)
    client.get(f"/r/{code}")
    client.post(f"/signup?ref={UNKNOWN}")
    browser(sign_ups.host).post(f"/signup?ref={UNKNOWN}")
    assert sign_ups.reasons == [Reason.attributed, Reason.unknown_code]
    assert sign_ups.bound() == [True]


@pytest.mark.parametrize("touch", ["first", "last"])
def test_touch(make: MakeHost, touch: str) -> None:
    sign_ups = SignUps(make(REFERRAL_TOUCH=touch))
    codes = {"first": add_referrer(sign_ups.host)[1], "last": add_referrer(sign_ups.host)[1]}
    client = browser(sign_ups.host)
    client.get(f"/r/{codes['first']}")
    client.post(f"/signup?ref={codes['last']}")
    assert [row.referral_code for row in clicks(sign_ups.host) if row.referred_user_id] == [
        codes[touch]
    ]


def test_the_cookie_of_this_link_needs_no_second_click(
    sign_ups: SignUps, code: str, clock: Clock
) -> None:
    client = browser(sign_ups.host)
    client.get(f"/r/{code}")
    # Another network, where the same visit would be another click.
    client.post(f"/signup?ref={code}", environ_base={"REMOTE_ADDR": "198.51.100.7"})
    assert sign_ups.bound() == [True]


def test_recorded_by_another_request_just_now(make_postgresql: MakeHost) -> None:
    sign_ups = SignUps(make_postgresql())
    host = sign_ups.host
    _, code = add_referrer(host)
    visits = [f"/page?ref={code}"]

    def visit(connection: t.Any, cursor: t.Any, statement: str, *rest: t.Any) -> None:
        # Between the sign-up's look-up and its own insert.
        if visits and statement.startswith("INSERT INTO referral_clicks"):
            browser(host).get(visits.pop())

    with host.app.app_context():
        engine = host.db.engine
    event.listen(engine, "before_cursor_execute", visit)
    browser(host).post(f"/signup?ref={code}")
    event.remove(engine, "before_cursor_execute", visit)
    assert visits == []
    assert sign_ups.reasons == [Reason.attributed]
    assert sign_ups.bound() == [True]


class TestCarry:
    """Apple posts its answer from another site, and browsers send no cookie with that."""

    def carried(self, sign_ups: SignUps, url: str, cookie: str | None = None) -> str:
        client = browser(sign_ups.host)
        if cookie is not None:
            client.set_cookie(COOKIE, cookie)
        return client.get(url).get_data(as_text=True)

    def test_of_the_request_that_brings_the_code(self, sign_ups: SignUps, code: str) -> None:
        state = self.carried(sign_ups, f"/login?ref={code}")
        assert state != ""
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        browser(sign_ups.host).post("/signup", data={"code": state}, headers=headers)
        assert sign_ups.reasons == [Reason.attributed]
        assert sign_ups.bound() == [True]

    def test_unknown_code(self, sign_ups: SignUps, code: str) -> None:
        assert self.carried(sign_ups, f"/login?ref={UNKNOWN}") == ""
        cookie = cookie_value(browser(sign_ups.host).get(f"/r/{code}"))
        state = self.carried(sign_ups, f"/login?ref={UNKNOWN}", cookie)
        browser(sign_ups.host).post("/signup", data={"code": state})
        assert sign_ups.reasons == [Reason.attributed]

    def test_nothing_is_asked_without_a_code(self, sign_ups: SignUps, code: str) -> None:
        with sign_ups.host.statements() as sent:
            assert self.carried(sign_ups, "/login?x=1") == ""
        assert sent == []

    def test_no_visit(self, sign_ups: SignUps, code: str) -> None:
        sign_ups.host.referral.consent_loader(lambda: False)
        assert self.carried(sign_ups, f"/login?ref={code}") == ""


def test_automatically(make: MakeHost) -> None:
    host = make(REFERRAL_AUTO_ATTRIBUTE=True)
    referrer, code = add_referrer(host)

    def sign_up() -> str:
        host.db.session.add(host.User(name="new"))
        host.db.session.commit()
        return "welcome"

    host.app.add_url_rule("/signup", view_func=sign_up, methods=["GET", "POST"])
    answer = browser(host).get(f"/signup?ref={code}")
    assert set_cookie(answer) is not None
    [row] = clicks(host)
    assert (row.referrer_user_id, row.referred_user_id is not None) == (referrer, True)
