"""Deliveries that wait are handled once more, with a reason, and pay once."""

from __future__ import annotations

import logging
import typing as t

import pytest
import sqlalchemy as sa

from ..hosts import Host
from ..money import amounts
from ..visiting import make_code
from ..whop import CONFIG
from ..whop import outcome
from ..whop import payment
from .conftest import MakeDesk

ADDRESS = "/admin/referral_deliveries/whop/evt_1"
REASON = {"reason": "the account is there now"}


@pytest.fixture
def host(make_desk: MakeDesk) -> Host:
    """Return a host where somebody without an account has paid."""
    host = make_desk(**CONFIG)
    host.referral.whop_user_loader(
        lambda payload: host.db.session.scalar(
            sa.select(host.User).filter_by(name=payload["data"]["user"]["id"])
        )
    )
    assert outcome(host, payment("nobody", metadata={}), id="evt_1") == "unknown_user"
    return host


def sign_up(host: Host) -> t.Any:
    """Sign the buyer up through a link, and return the referrer."""
    referrer = host.add_user()
    code = make_code(host, referrer)
    with host.app.test_request_context():
        user = host.User(name="user_1")
        host.db.session.add(user)
        assert host.referral.attribute(user, code=code).reason == "attributed"
        host.db.session.commit()
    return referrer


def test_what_waits_is_found_handled_once_more_and_pays_once(host: Host) -> None:
    referrer = sign_up(host)
    client = host.client()
    assert client.get("/admin/referral_deliveries/?status=waiting").text.count("<tr>") == 2
    shown = client.get(ADDRESS).text
    assert "was not found among the users" in shown and "pay_mem_1" in shown
    assert client.post(ADDRESS, data={"reason": " "}).status_code == 422
    assert amounts(host, referrer) == []
    assert client.post(ADDRESS, data=REASON).status_code == 303
    again = client.post(ADDRESS, data=REASON)
    assert again.status_code == 422 and "does not wait any more" in again.text
    assert amounts(host, referrer) == [1000]
    assert client.get("/admin/referral_deliveries/?status=waiting").text.count("<tr>") == 0
    history = client.get("/admin/referral_history/").text
    assert history.count(REASON["reason"]) == 1
    assert "outcome unknown_user" in history and "outcome converted" in history


def test_an_error_of_a_loader_is_a_sentence_and_in_the_log(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    sign_up(host)
    calls: list[object] = []

    def load(payload: t.Any) -> t.NoReturn:
        calls.append(payload)
        raise TypeError("what was kept has no e-mail")

    host.referral.whop_user_loader(load)
    with caplog.at_level(logging.ERROR):
        page = host.client().post(ADDRESS, data=REASON)
    assert page.status_code == 422 and "TypeError: what was kept has no e-mail" in page.text
    assert "Traceback" in caplog.text and len(calls) == 1
    assert host.client().get("/admin/referral_deliveries/?status=waiting").text.count("<tr>") == 2
    assert REASON["reason"] not in host.client().get("/admin/referral_history/").text


def test_there_is_no_page_of_what_did_not_come(host: Host) -> None:
    for path in ("/admin/referral_deliveries/whop/evt_2", "/admin/referral_deliveries/acme/evt_1"):
        assert host.client().get(path).status_code == 404
