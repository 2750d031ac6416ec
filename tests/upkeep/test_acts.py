"""What operators do is kept: who, when, why, before and after."""

from __future__ import annotations

import datetime as dt
import json
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.upkeep import acts

from .. import whop
from ..conftest import MakeHost
from ..hosts import Host
from ..money import pay
from ..money import refer
from ..visiting import add_referrer

WHO = ("--by", "grace", "--reason", "looked at it")


def kept(host: Host) -> list[acts.Entry]:
    """Return all acts, the first first."""
    event = host.referral.models.ReferralEvent.__table__
    query = sa.select(event).where(event.c.kind == acts.KIND).order_by(event.c.received_at)
    with host.app.app_context():
        return [acts.Entry.of(row) for row in host.db.session.execute(query)]


def says(host: Host, *args: str) -> t.Any:
    return json.loads(host.cli(*args, "--json").stdout)


def rewards(host: Host) -> list[t.Any]:
    reward = host.referral.models.ReferralReward.__table__
    with host.app.app_context():
        return list(host.db.session.execute(sa.select(reward).order_by(reward.c.created_at)))


def test_decisions_on_rewards_are_kept_with_who_why_before_and_after(make: MakeHost) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=0, REFERRAL_RENEWALS=None)
    referrer, _ = add_referrer(host)
    friend = refer(host, referrer)
    for number in range(2):
        assert pay(host, friend, "mem", payment_id=f"pay_{number}") == "held"
    first, second = (str(row.id) for row in rewards(host))
    host.cli("release", first, *WHO)
    host.cli("void", second, "--yes", *WHO)
    host.cli("reverse", "mem", "--payment-id", "pay_0", "--amount-cents", "400", *WHO)
    released, voided, reversed_ = kept(host)
    for entry in (released, voided, reversed_):
        assert (entry.by, entry.reason, entry.user_id) == ("grace", "looked at it", referrer)
        assert dt.datetime.now(dt.UTC) - entry.at < dt.timedelta(minutes=10)
    assert [entry.act for entry in (released, voided, reversed_)] == ["release", "void", "reverse"]
    assert [entry.reference for entry in (released, voided, reversed_)] == [first, second, first]
    statuses = [
        (entry.before["status"], entry.after["status"]) for entry in (released, voided, reversed_)
    ]
    assert statuses == [("held", "credited"), ("held", "void"), ("credited", "credited")]
    assert (reversed_.before["reversed_cents"], reversed_.after["reversed_cents"]) == (0, 400)


def test_what_is_refused_leaves_no_act(make: MakeHost) -> None:
    host = make()
    referrer, _ = add_referrer(host)
    pay(host, refer(host, referrer))
    (row,) = rewards(host)
    host.failure("release", str(row.id))
    host.failure("codes", "set", str(referrer), "admin")
    host.failure("codes", "disable", "99", *WHO)
    assert kept(host) == []


def test_codes_are_given_and_switched_on_the_record(make: MakeHost) -> None:
    host = make()
    referrer, code = add_referrer(host)
    told = says(host, "codes", "set", str(referrer), "ada", *WHO)
    assert told == {"user": referrer, "before": code, "code": "ADA"}
    # Nothing is done a second time.
    assert says(host, "codes", "set", str(referrer), "ada", *WHO)["before"] == "ADA"
    new = says(host, "codes", "rotate", str(referrer), *WHO)["code"]
    assert says(host, "codes", "disable", str(referrer), *WHO)["changed"] is True
    assert says(host, "codes", "disable", str(referrer), *WHO)["changed"] is False
    assert says(host, "codes", "enable", str(referrer), *WHO)["changed"] is True
    assert says(host, "codes", "enable", str(referrer), *WHO)["changed"] is False
    assert [(entry.act, entry.before, entry.after) for entry in kept(host)] == [
        ("set_code", {"code": code}, {"code": "ADA"}),
        ("rotate_code", {"code": "ADA"}, {"code": new}),
        ("disable", {"disabled": False}, {"disabled": True}),
        ("disable", {"disabled": True}, {"disabled": True}),
        ("enable", {"disabled": True}, {"disabled": False}),
    ]


def test_to_switch_a_user_off_a_reason_has_to_be_given(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    referrer, _ = add_referrer(host)
    assert "--reason" in host.failure("codes", "disable", str(referrer), status=2)
    assert "Say why" in host.failure("codes", "disable", str(referrer), "--reason", " ")


def test_the_login_is_who_acts_where_nobody_is_named(
    make_sqlite: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_sqlite()
    referrer, _ = add_referrer(host)
    monkeypatch.setenv("LOGNAME", "grace")
    host.cli("codes", "rotate", str(referrer))
    (entry,) = kept(host)
    assert (entry.by, entry.reason) == ("grace", "by an operator")

    def nobody() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr("getpass.getuser", nobody)
    host.cli("codes", "rotate", str(referrer))
    assert kept(host)[1].by.startswith("uid ")


def test_payments_corrections_and_retries_by_hand_are_kept(make: MakeHost) -> None:
    host = make(**whop.CONFIG)
    referrer, code = add_referrer(host)
    friend = refer(host, referrer)
    host.cli("convert", str(friend), "mem_1", *WHO)
    # Nothing is made the second time.
    host.cli("convert", str(friend), "mem_1", *WHO)
    newcomer = host.add_user()
    assert whop.outcome(host, whop.payment(newcomer, "mem_2"), id="evt") == "not_referred"
    host.cli("reattribute", str(newcomer), code, "--yes", *WHO)
    host.cli("events", "retry", "evt", *WHO)
    found = [(entry.act, entry.before, entry.user_id) for entry in kept(host)]
    assert found == [
        ("convert", {}, referrer),
        ("reattribute", {"code": None}, newcomer),
        ("retry", {"outcome": "not_referred"}, None),
    ]
    assert kept(host)[2].after == {"outcome": "converted"}


def test_a_run_from_cron_is_nobodys_act(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**whop.CONFIG)
    newcomer = host.add_user()
    assert whop.outcome(host, whop.payment(newcomer, "mem_2"), id="evt") == "not_referred"
    _, code = add_referrer(host)
    host.cli("reattribute", str(newcomer), code, "--yes")
    assert says(host, "events", "retry", "--all", "--yes")["outcomes"] == {"converted": 1}
    host.cli("events", "retry", "--all", "--yes")
    assert [entry.act for entry in kept(host)] == ["reattribute"]


def test_acts_are_no_deliveries_that_wait(make: MakeHost) -> None:
    host = make()
    referrer, _ = add_referrer(host)
    host.cli("codes", "rotate", str(referrer), *WHO)
    assert host.cli("events", "list").output == "No delivery waits.\n"
    with host.app.app_context():
        assert host.referral.retry_deliveries(referrer) == {}
    event = host.referral.models.ReferralEvent.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=365)
        connection.execute(sa.update(event).values(received_at=long_ago))
    host.cli("purge", "--clicks-older-than", "30", "--yes")
    (entry,) = kept(host)
    assert (entry.by, entry.act) == ("grace", "rotate_code")


def test_export_tells_a_user_what_was_done_and_not_who_did_it(make: MakeHost) -> None:
    host = make()
    referrer, _ = add_referrer(host)
    friend = refer(host, referrer)
    pay(host, friend)
    host.cli("reverse", "mem_1", *WHO)
    host.cli("codes", "disable", str(referrer), *WHO)
    told = says(host, "export", str(referrer))
    assert [act["type"] for act in told["acts"]] == ["reverse", "disable"]
    assert {act["reason"] for act in told["acts"]} == {"looked at it"}
    assert "grace" not in json.dumps(told)
    # The buyer is told nothing of what was done to somebody else's bonus.
    assert "looked at it" not in json.dumps({**says(host, "export", str(friend)), "events": []})
    kinds = {event["kind"] for event in says(host, "export", str(friend))["events"]}
    assert acts.KIND not in kinds


def test_erase_keeps_what_was_done_with_money_without_words(make: MakeHost) -> None:
    host = make()
    referrer, _ = add_referrer(host)
    pay(host, refer(host, referrer))
    host.cli("reverse", "mem_1", *WHO)
    host.cli("codes", "rotate", str(referrer), *WHO)
    host.cli("erase", str(referrer), "--yes", "--by", "grace")
    left = [(entry.act, entry.reason) for entry in kept(host)]
    assert left == [("reverse", ""), ("erase", "by an operator")]


def test_acts_go_with_the_account(make: MakeHost) -> None:
    host = make()
    referrer, _ = add_referrer(host)
    host.cli("codes", "rotate", str(referrer), *WHO)
    with host.app.app_context(), host.db.engine.begin() as connection:
        users = host.User.__table__
        connection.execute(sa.delete(users).where(users.c.id == referrer))
    assert kept(host) == []
