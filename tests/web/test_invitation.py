"""Who invited a visitor, on landing and sign-up pages."""

from __future__ import annotations

import typing as t

import pytest

from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import Clock
from ..visiting import COOKIE


def invite(host: Host) -> t.Callable[..., t.Any]:
    """Give a host a page that shows the invitation, and return a visitor's way to ask for it."""

    @host.app.get("/landing")
    def landing() -> t.Any:
        invitation = host.referral.invitation()
        return {"invitation": None if invitation is None else invitation.to_dict()}

    client = browser(host)
    return lambda query="": client.get(f"/landing{query}").json["invitation"]  # type: ignore[index]


def test_the_link_and_then_the_cookie_name_who_invited(make: MakeHost) -> None:
    host = make()
    referrer, code = add_referrer(host)
    ask = invite(host)
    assert ask() is None
    assert ask(f"?ref={code}") == {"code": code, "name": None}
    host.referral.display_name_loader(lambda user: "Ada" if user == referrer else None)
    assert ask() == {"code": code, "name": "Ada"}
    assert len(clicks(host)) == 1


def test_a_code_of_nobodys_leaves_the_cookies(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    ask = invite(host)
    assert ask("?ref=ZZZZZZZZ") is None
    ask(f"?ref={code}")
    assert ask("?ref=ZZZZZZZZ") == {"code": code, "name": None}


def test_nobody_invites_himself(make: MakeHost) -> None:
    host = make()
    referrer, code = add_referrer(host)
    ask = invite(host)
    ask(f"?ref={code}")
    host.current_user = referrer
    assert ask() is None


def test_an_invitation_ends_with_the_window(make: MakeHost, clock: Clock) -> None:
    host = make()
    _, code = add_referrer(host)
    ask = invite(host)
    assert ask(f"?ref={code}") is not None
    clock.turn(days=31)
    assert ask() is None


@pytest.mark.parametrize("value", ["", "x", "1.K7M2PQ9X.00.1.junk", "\\377", "a" * 300])
def test_junk_cookies_invite_nobody(make: MakeHost, value: str) -> None:
    host = make()
    invite(host)
    client = browser(host)
    client.set_cookie(COOKIE, value)
    answer = client.get("/landing")
    assert answer.json == {"invitation": None}


def test_it_takes_one_statement_and_none_without_a_visit(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    ask = invite(host)
    with host.statements() as seen:
        ask()
    assert seen == []
    ask(f"?ref={code}")
    with host.statements() as seen:
        ask()
    assert len(seen) == 1


def test_without_a_request_nobody_is_invited(make: MakeHost) -> None:
    host = make()
    with host.app.app_context():
        assert host.referral.invitation() is None
