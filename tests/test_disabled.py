"""Users whose code an operator has switched off."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.errors import ReferralError
from flask_referral.errors import UnknownUser

from . import whop
from .conftest import MakeHost
from .hosts import Host
from .hosts import KEYS
from .money import pay
from .money import refer
from .visiting import add_referrer
from .visiting import browser
from .visiting import clicks

REASON = "buys from himself"


def disable(host: Host, user: t.Any, reason: str = REASON) -> bool:
    with host.app.app_context():
        changed = host.referral.disable(user, reason=reason)
        host.db.session.commit()
        return changed


def enable(host: Host, user: t.Any) -> bool:
    with host.app.app_context():
        changed = host.referral.enable(user)
        host.db.session.commit()
        return changed


def rows(host: Host) -> list[tuple[t.Any, str]]:
    disabled = host.referral.models.ReferralDisabled.__table__.c
    with host.app.app_context():
        query = sa.select(disabled.user_id, disabled.reason).order_by(disabled.since)
        return [(row.user_id, row.reason) for row in host.db.session.execute(query)]


@pytest.mark.parametrize("key", KEYS)
def test_links_lead_on_and_nobody_is_counted_until_it_is_on_again(make: MakeHost, key: str) -> None:
    host = make(key=key, REFERRAL_VANITY_CODES=True)
    referrer, code = add_referrer(host)
    with host.app.app_context():
        host.referral.set_code(referrer, "ADA")
        host.db.session.commit()
    assert disable(host, referrer)
    for each in (code, "ADA"):
        answer = browser(host).get(f"/r/{each}")
        assert (answer.status_code, answer.headers.get("Set-Cookie")) == (302, None)
        answer = browser(host).get(f"/?ref={each}")
        assert answer.headers.get("Set-Cookie") is None
        told: t.Any = host.client().get(f"/api/referral/codes/{each}").json
        assert told["valid"] is False
    assert clicks(host) == []
    assert enable(host, referrer)
    answer = browser(host).get("/r/ADA")
    assert answer.headers["Set-Cookie"]
    assert len(clicks(host)) == 1


def test_a_click_takes_one_statement_whether_it_is_off_or_on(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    referrer, code = add_referrer(host)
    for change in (disable, enable):
        change(host, referrer)
        client = browser(host)
        with host.statements() as seen:
            client.get(f"/r/{code}")
        assert len(seen) == 1


def test_new_sign_ups_are_not_bound_whatever_brought_them(make: MakeHost) -> None:
    """A cookie of before, and a typed code."""
    host = make()
    referrer, code = add_referrer(host)
    client = browser(host)
    client.get(f"/r/{code}")
    cookie: t.Any = client.get_cookie("virtuna_referral")
    header = {"Cookie": f"virtuna_referral={cookie.value}"}
    disable(host, referrer)
    for number in range(2):
        friend = host.add_user()
        with host.app.test_request_context(headers=header):
            outcome = host.referral.attribute(friend, code=None if number else code)
            assert (outcome.reason, outcome.click) == ("disabled", None)
            assert host.referral.invitation() is None
            host.db.session.commit()
    enable(host, referrer)
    with host.app.test_request_context(headers=header):
        invitation = host.referral.invitation()
        assert invitation is not None and invitation.code == code
        assert host.referral.attribute(friend).reason == "attributed"
        host.db.session.commit()


def test_purchases_earn_nothing_until_it_is_on_again_and_what_was_earned_stays(
    make: MakeHost,
) -> None:
    host = make(REFERRAL_RENEWALS=None, REFERRAL_HOLD_DAYS=1)
    referrer, _ = add_referrer(host)
    friend = refer(host, referrer)
    assert pay(host, friend, "mem_1", payment_id="pay_1") == "pending"
    disable(host, referrer)
    assert pay(host, friend, "mem_1", payment_id="pay_2") == "disabled"
    assert pay(host, friend, "mem_1", payment_id="pay_1") == "already_converted"
    # What was earned becomes the referrer's when its hold is over.
    assert "Credited 1 reward." in host.cli("mature", "--now", "2100-01-01").output
    enable(host, referrer)
    assert pay(host, friend, "mem_1", payment_id="pay_3") == "pending"
    with host.app.app_context():
        totals = host.referral.stats(referrer).totals
    assert (totals.conversions, totals.earned_cents, totals.pending_cents) == (1, 1000, 1000)


def test_a_webhook_of_a_purchase_ends_as_disabled_and_waits_for_nothing(make: MakeHost) -> None:
    host = make(**whop.CONFIG)
    referrer, _ = add_referrer(host)
    friend = refer(host, referrer)
    disable(host, referrer)
    assert whop.outcome(host, whop.payment(friend, "mem_1"), id="one") == "disabled"
    enable(host, referrer)
    assert host.cli("events", "list").output == "No delivery waits.\n"
    assert whop.outcome(host, whop.payment(friend, "mem_1"), id="one") == "duplicate"
    assert whop.outcome(host, whop.payment(friend, "mem_2"), id="two") == "converted"


def test_of_who_is_off_already_the_reason_changes(make: MakeHost) -> None:
    host = make()
    referrer, _ = add_referrer(host)
    assert disable(host, referrer)
    assert not disable(host, referrer, "asked for it")
    assert rows(host) == [(referrer, "asked for it")]
    assert enable(host, referrer)
    assert not enable(host, referrer)
    assert rows(host) == []


@pytest.mark.parametrize("reason", ["", "  ", "\x00", "x" * 501, None, 5])
def test_a_reason_is_asked_for(make_sqlite: MakeHost, reason: t.Any) -> None:
    host = make_sqlite()
    referrer, _ = add_referrer(host)
    with pytest.raises(ReferralError, match="Say why, for the record"):
        disable(host, referrer, reason)
    assert rows(host) == []


def test_unknown_users_are_neither_switched_off_nor_on(make: MakeHost) -> None:
    host = make()
    for change in (disable, enable):
        with pytest.raises(UnknownUser):
            change(host, 99)


def test_who_is_deleted_leaves_nothing_to_the_next_one_with_that_key(make: MakeHost) -> None:
    host = make(key="str")
    referrer, _ = add_referrer(host)
    disable(host, referrer)
    with host.app.app_context(), host.db.engine.begin() as connection:
        users = host.User.__table__
        connection.execute(sa.delete(users).where(users.c.id == referrer))
    assert rows(host) == []


def test_an_operator_moves_nobody_to_a_code_that_is_off(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    referrer, code = add_referrer(host)
    friend = host.add_user()
    disable(host, referrer)
    told = host.failure("reattribute", str(friend), code, "--yes")
    assert f"flask referral codes enable {referrer} switches it on again" in told
    assert clicks(host) == []


def test_who_is_off_reads_nothing_of_it(make_postgresql: MakeHost) -> None:
    """Row level security is on, and no policy shows a row."""
    host = make_postgresql()
    query = sa.text(
        "SELECT relrowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = pg_class.oid) "
        "FROM pg_class WHERE relname = 'referral_disabled'"
    )
    with host.app.app_context():
        assert tuple(host.db.session.execute(query).one()) == (True, 0)


def test_export_tells_and_erase_keeps_it_off_without_the_reason(make: MakeHost) -> None:
    host = make()
    referrer, _ = add_referrer(host)
    disable(host, referrer)
    with host.app.app_context():
        exported = host.cli("export", str(referrer)).output
    assert REASON in exported
    host.cli("erase", str(referrer), "--yes")
    assert rows(host) == [(referrer, "")]
