"""The host's wallet: what it refuses on a debit is an answer, what breaks is a fault."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from flask_referral.web import reports

from .conftest import MakeHost
from .money import amounts
from .money import balance
from .money import before_rows
from .money import execute
from .money import pay
from .money import refer
from .money import refund
from .money import refuse_rows
from .money import rewards
from .money import rows
from .money import withdraw


def test_a_refund_takes_what_there_is_and_records_the_rest(make: MakeHost) -> None:
    host = make(positive_wallet=True)
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    withdraw(host, referrer, 900)
    with host.app.app_context():
        host.db.session.add(host.User(name="the host's own"))
        result = host.referral.reverse("mem_1", reason="refund")
        host.db.session.commit()
        assert (result.reversed_cents, result.shortfall_cents) == (100, 900)
        assert host.db.session.scalar(sa.select(host.User).filter_by(name="the host's own"))
    (reward,) = rewards(host)
    assert (reward.status, reward.reversed_cents, reward.shortfall_cents) == ("reversed", 100, 900)
    assert balance(host, referrer) == 0


BELOW_ZERO = (
    "NEW.amount_cents + (SELECT coalesce(sum(amount_cents), 0) FROM wallet_transactions "
    "WHERE user_id = NEW.user_id AND status = 'completed') < 0"
)
# PT402 is PostgREST's; the others are a trigger's default, two of the standard's, one of nobody's.
CODES = ("PT402", "P0001", "22023", "23514", "ZZ999")


def test_whatever_a_trigger_refuses_with_is_an_answer(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    ways = [f"IF {BELOW_ZERO} THEN RAISE 'no' USING ERRCODE = '{code}'; END IF" for code in CODES]
    for number, way in enumerate([*ways, f"ASSERT NOT {BELOW_ZERO}"]):
        referrer = host.add_user()
        pay(host, refer(host, referrer), f"mem_{number}")
        withdraw(host, referrer, 700)
        before_rows(host, way)
        assert refund(host, f"mem_{number}") == ("reversed", 300, 700), way
        assert balance(host, referrer) == 0


def test_a_frozen_wallet_keeps_what_it_has(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    refuse_rows(host, "NEW.amount_cents < 0")
    assert refund(host) == ("reversed", 0, 1000)
    assert balance(host, referrer) == 1000


def test_money_that_is_not_completed_is_not_taken(make: MakeHost) -> None:
    host = make()
    refuse_rows(host, BELOW_ZERO)
    for pending in (0, 700, 5000):
        referrer = host.add_user()
        pay(host, refer(host, referrer), f"mem_{pending}")
        withdraw(host, referrer, 700)
        with host.app.app_context():
            row = {"user_id": referrer, "type": "deal_payment", "status": "pending"}
            host.db.session.add(host.Wallet(amount_cents=pending, **row))
            host.db.session.commit()
        assert refund(host, f"mem_{pending}") == ("reversed", 300, 700)
        assert amounts(host, referrer) == [1000, -700, pending, -300]


def test_a_fault_of_the_wallet_is_no_shortfall(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    execute(host, "CREATE UNIQUE INDEX forgotten ON wallet_transactions (reference_id)")
    with host.app.app_context():
        with pytest.raises(sa.exc.IntegrityError):
            host.referral.reverse("mem_1", reason="refund")
        # A refund that took nothing must not be kept as known.
        with pytest.raises(sa.exc.IntegrityError):
            host.db.session.commit()
    assert balance(host, referrer) == 1000
    assert [row.shortfall_cents for row in rewards(host)] == [0]
    execute(host, "DROP INDEX forgotten")
    assert refund(host) == ("reversed", 1000, 0)


def test_wallets_whose_owners_cannot_be_locked_are_locked_by_name(
    make_postgresql: MakeHost,
) -> None:
    """Row level security hides them, or the right to lock is missing: an advisory lock then."""
    host = make_postgresql()
    referrers = [host.add_user(), host.add_user()]
    referred = [refer(host, referrer) for referrer in referrers]
    tables = ("codes", "clicks", "conversions", "rewards", "events", "disabled")
    execute(
        host,
        "CREATE ROLE nolock_app LOGIN",
        "GRANT SELECT ON users TO nolock_app",
        "GRANT SELECT, INSERT ON wallet_transactions TO nolock_app",
        "GRANT USAGE ON SEQUENCE wallet_transactions_id_seq TO nolock_app",
        *(f"GRANT ALL ON referral_{table} TO nolock_app" for table in tables),
        *(
            f"CREATE POLICY service ON referral_{table} TO nolock_app USING (true)"
            for table in tables
        ),
    )
    try:
        for number, hide in enumerate((False, True)):
            if hide:
                execute(
                    host,
                    "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
                    "GRANT UPDATE ON users TO nolock_app",
                )
            with host.app.app_context():
                session = host.db.session
                session.execute(sa.text("SET LOCAL ROLE nolock_app"))
                assert host.referral.convert(referred[number], f"mem_{number}").created
                held = session.scalar(
                    sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
                )
                # The buyer's, too.
                assert held == 2
                session.commit()
            assert rows(host, referrers[number]) == [("referral_bonus", 1000, 1000)]
    finally:
        execute(host, "DROP OWNED BY nolock_app", "DROP ROLE nolock_app")


def test_owners_see_what_the_program_gave_and_took_newest_first(make: MakeHost) -> None:
    host = make()
    referrer, other = host.add_user(), host.add_user()
    pay(host, refer(host, referrer))
    withdraw(host, referrer, 100)
    refund(host, amount_cents=400, refund_id="re_1")
    pay(host, refer(host, other), "mem_2")
    with host.app.app_context():
        state = host.referral.state
        shown = reports.wallet_rows(state, referrer)
        assert [(row.amount_cents, row.balance_after_cents) for row in shown] == [
            (-400, 500),
            (1000, 1000),
        ]
        assert [row.amount_cents for row in reports.wallet_rows(state, referrer, 1)] == [-400]
        assert all(row.created_at is not None and row.created_at.tzinfo for row in shown)
        assert all(row.description for row in shown)


def test_a_program_without_a_wallet_shows_no_rows(make: MakeHost) -> None:
    host = make(wallet=False)
    user = host.add_user()
    with host.app.app_context(), host.statements() as seen:
        assert reports.wallet_rows(host.referral.state, user) == []
    assert seen == []
