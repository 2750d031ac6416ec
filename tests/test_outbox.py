"""What is told of is kept in the transaction of what it tells, and with nothing else."""

from __future__ import annotations

import typing as t
import uuid

import pytest
import sqlalchemy as sa

from flask_referral import signals
from flask_referral.conversions.facts import Kind
from flask_referral.events import EVENTS

from .conftest import MakeHost
from .hosts import Host
from .hosts import KEYS
from .money import happen
from .money import mature
from .money import MONDAY
from .money import pay
from .money import refer
from .money import refund
from .visiting import add_referrer
from .visiting import browser
from .visiting import COOKIE


def kept(host: Host) -> list[t.Any]:
    """Return what is in the outbox, in its order."""
    table = host.referral.models.ReferralOutbox.__table__
    with host.app.app_context(), host.referral.state.engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)))


def names(host: Host) -> list[str]:
    return [row.event for row in kept(host)]


def heard(host: Host, work: t.Callable[[], t.Any]) -> list[tuple[str, dict[str, t.Any]]]:
    """Return what signals tell of while some work is done, without clicks."""
    found: list[tuple[str, dict[str, t.Any]]] = []

    def listen(name: str) -> t.Callable[..., None]:
        def hear(app: t.Any, **values: t.Any) -> None:
            found.append((name, values))

        EVENTS[name].signal.connect(hear, host.app, weak=False)
        return hear

    receivers = {name: listen(name) for name, event in EVENTS.items() if event.is_kept}
    try:
        work()
    finally:
        for name, receiver in receivers.items():
            EVENTS[name].signal.disconnect(receiver, host.app)
    return found


@pytest.mark.parametrize("key", KEYS)
def test_the_outbox_holds_what_the_signals_tell_of_in_their_order(make: MakeHost, key: str) -> None:
    host = make(key=key, REFERRAL_OUTBOX=True, REFERRAL_RENEWALS=None, REFERRAL_HOLD_DAYS=7)

    def work() -> None:
        _, code = add_referrer(host)
        client = browser(host)
        client.get(f"/r/{code}")
        cookie = client.get_cookie(COOKIE)
        assert cookie is not None
        friend = host.add_user()
        with host.app.test_request_context(headers={"Cookie": f"{COOKIE}={cookie.value}"}):
            host.referral.attribute(friend)
            host.db.session.commit()
        assert pay(host, friend, "mem", payment_id="pay_1") == "pending"
        assert pay(host, friend, "mem", payment_id="pay_2") == "pending"
        host.cli("void", str(rewards(host)[1]), "--yes", "--by", "grace", "--reason", "looked")
        mature(host, MONDAY.replace(year=2030))
        refund(host, "mem", payment_id="pay_1", amount_cents=100)
        for minutes, kind in enumerate((Kind.dispute_opened, Kind.dispute_won)):
            happen(host, kind, payment_id="pay_1", id="d", minutes=minutes)

    told = heard(host, work)
    assert {name for name, _ in told} >= {
        "code_created",
        "user_attributed",
        "conversion_created",
        "conversion_credited",
        "conversion_voided",
        "conversion_reversed",
        "conversion_reinstated",
    }
    keys: dict[str, t.Callable[[t.Any], t.Any]] = {"int": int, "uuid": uuid.UUID, "str": str}
    rows = kept(host)
    assert [row.event for row in rows] == [name for name, _ in told]
    for row, (name, values) in zip(rows, told, strict=True):
        event = EVENTS[name]
        restored = event.of(row.payload, keys[key])
        assert restored.values() == values
        assert row.subject == str(values[event.subject])
        assert (row.attempts, row.set_aside_at, row.done) == (0, None, None)
    assert len({row.message_id for row in rows}) == len(rows)


def rewards(host: Host) -> list[t.Any]:
    table = host.referral.models.ReferralReward.__table__
    with host.app.app_context(), host.referral.state.engine.connect() as connection:
        return list(connection.scalars(sa.select(table.c.id).order_by(table.c.created_at)))


def test_nothing_is_kept_where_the_outbox_is_off(make: MakeHost) -> None:
    host = make()
    referrer, _ = add_referrer(host)
    with host.statements() as seen:
        assert pay(host, refer(host, referrer)) == "converted"
    assert kept(host) == []
    assert not any("referral_outbox" in statement for statement in seen)


def test_what_is_rolled_back_leaves_nothing(make: MakeHost) -> None:
    host = make(REFERRAL_OUTBOX=True)
    referrer, _ = add_referrer(host)
    friend = refer(host, referrer)
    before = len(kept(host))
    with host.app.app_context():
        host.referral.convert(friend, "mem_1")
        host.db.session.rollback()
        host.db.session.commit()
        savepoint = host.db.session.begin_nested()
        host.referral.convert(friend, "mem_1")
        savepoint.rollback()
        host.db.session.commit()
    assert len(kept(host)) == before
    assert pay(host, friend) == "converted"
    assert names(host)[before:] == ["conversion_created", "conversion_credited"]


@pytest.mark.parametrize("is_open", [False, True])
def test_a_code_made_over_http_and_its_row_are_one_transaction(
    make: MakeHost, is_open: bool
) -> None:
    host = make(REFERRAL_OUTBOX=True, REFERRAL_VANITY_CODES=True)
    host.current_user = host.add_user()
    if is_open:

        @host.app.before_request
        def look() -> None:
            host.db.session.execute(sa.select(host.User.id))

    table = host.referral.models.ReferralOutbox.__table__
    broken = f"ALTER TABLE {table.name} RENAME TO gone", f"ALTER TABLE gone RENAME TO {table.name}"
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql(broken[0])
    host.app.config["PROPAGATE_EXCEPTIONS"] = False
    host.app.testing = False
    client = host.client()
    assert client.post("/api/referral/generate").status_code == 500
    with host.app.app_context(), host.db.engine.begin() as connection:
        codes = host.referral.models.ReferralCode.__table__
        assert connection.execute(sa.select(codes)).all() == []
        connection.exec_driver_sql(broken[1])
    made = client.post("/api/referral/generate").get_json()["code"]
    assert client.post("/api/referral/generate").get_json()["code"] == made
    chosen = client.put("/api/referral/code", json={"code": "ADA"})
    assert chosen.status_code == 200, chosen.get_json()
    assert [row.payload["code"] for row in kept(host)] == [made, "ADA"]
    assert set(names(host)) == {"code_created"}


def test_a_click_costs_no_second_row(make: MakeHost) -> None:
    host = make(REFERRAL_OUTBOX=True)
    _, code = add_referrer(host)
    before = len(kept(host))
    with host.statements() as seen:
        browser(host).get(f"/r/{code}")
    assert len(seen) == 1
    assert len(kept(host)) == before


def test_every_signal_is_of_one_event_and_every_event_has_a_signal() -> None:
    found = {
        name for name, value in vars(signals).items() if isinstance(value, signals.NamedSignal)
    }
    assert set(EVENTS) == found
