"""``convert`` and ``reverse``: one conversion, one credit, and every refund taken back once."""

from __future__ import annotations

import datetime as dt
import itertools
import typing as t
import uuid

import pytest
import sqlalchemy as sa

from flask_referral import clock
from flask_referral.conversions import facts
from flask_referral.conversions import maturity
from flask_referral.conversions import reversals
from flask_referral.conversions.facts import Fact
from flask_referral.conversions.facts import Kind
from flask_referral.errors import ReferralError
from flask_referral.results import ConversionReason
from flask_referral.results import Purchase
from flask_referral.results import ReversalReason
from flask_referral.results import Reward

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS

MONDAY = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> t.Callable[[dt.datetime], None]:
    """Return a function that sets the clock."""

    def set_clock(moment: dt.datetime) -> None:
        monkeypatch.setattr(clock, "now", lambda: moment)

    set_clock(MONDAY)
    return set_clock


def refer(host: Host, referrer: t.Any) -> t.Any:
    """Store a user whom ``referrer`` referred, and return the key."""
    referred = host.add_user()
    with host.app.app_context():
        code = host.referral.get_or_create_code(referrer)
        click = host.referral.models.ReferralClick()
        click.referral_code = code.code
        click.referrer_user_id = referrer
        click.referred_user_id = referred
        host.db.session.add(click)
        host.db.session.commit()
    return referred


def rows(host: Host, user: t.Any) -> list[tuple[str, int, int]]:
    """Return (type, amount, balance after) of a user's wallet, oldest first."""
    wallet = host.Wallet
    with host.app.app_context():
        query = sa.select(wallet.type, wallet.amount_cents, wallet.balance_after_cents)
        found = host.db.session.execute(query.filter_by(user_id=user).order_by(wallet.id)).all()
        return [tuple(row) for row in found]


def balance(host: Host, user: t.Any) -> int:
    found = rows(host, user)
    assert sum(amount for _, amount, _ in found) == (found[-1][2] if found else 0)
    return found[-1][2] if found else 0


@pytest.mark.parametrize("key", KEYS)
def test_one_conversion_and_one_credit(make: MakeHost, key: str) -> None:
    host = make(key=key)
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        first = host.referral.convert(referred, "mem_1", metadata={"plan": "gold"})
        host.db.session.commit()
        assert first.reason is ConversionReason.converted
        assert first.created
        assert first.bonus_cents == 1000
        assert first.conversion is not None
        assert first.conversion.status == "credited"
        assert first.conversion.referrer_user_id == referrer
        assert first.conversion.metadata_ == {"plan": "gold"}
        for membership in ("mem_1", "mem_2"):
            again = host.referral.convert(referred, membership)
            host.db.session.commit()
            assert again.reason is ConversionReason.already_converted
            assert not again.created
            assert again.bonus_cents == 1000
            assert again.conversion is first.conversion
        reference = host.db.session.scalar(sa.select(host.Wallet.reference_id))
        assert uuid.UUID(str(reference)) == first.conversion.id
    assert rows(host, referrer) == [("referral_bonus", 1000, 1000)]


def test_statement_budget(make: MakeHost) -> None:
    host = make()
    referred = refer(host, host.add_user())
    with host.app.app_context(), host.statements() as seen:
        host.referral.convert(referred, "mem_1")
        host.db.session.commit()
    assert len(seen) <= 5, seen


def test_it_joins_the_transaction_of_the_host(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        host.db.session.add(host.User(name="an order"))
        host.referral.convert(referred, "mem_1")
        host.db.session.rollback()
    assert rows(host, referrer) == []
    with host.app.app_context():
        models = host.referral.models
        for model in (models.ReferralConversion, models.ReferralEvent):
            assert host.db.session.scalar(sa.select(sa.func.count()).select_from(model)) == 0
        assert host.referral.convert(referred, "mem_1").created


def test_nobody_referred_the_user_or_the_bonus_is_nothing(make: MakeHost) -> None:
    host = make()
    stranger = host.add_user()
    referred = refer(host, host.add_user())
    with host.app.app_context():
        result = host.referral.convert(stranger, "mem_1")
        assert (result.reason, result.conversion) == (ConversionReason.not_referred, None)
        result = host.referral.convert(referred, "mem_1", bonus_cents=0)
        assert (result.reason, result.conversion) == (ConversionReason.no_bonus, None)
        assert host.db.session.scalar(sa.select(host.referral.models.ReferralEvent)) is None
        assert host.referral.convert(referred, "mem_1").created


@pytest.mark.parametrize("cents", [-1, 2**31, 1.5, True, "10"])
def test_a_bonus_that_cannot_be(make_sqlite: MakeHost, cents: t.Any) -> None:
    host = make_sqlite()
    referred = refer(host, host.add_user())
    with host.app.app_context(), pytest.raises(ReferralError, match="whole numbers of cents"):
        host.referral.convert(referred, "mem_1", bonus_cents=cents)


@pytest.mark.parametrize("cents", [-1, 0, 2**31, 1.5, True, "10"])
def test_a_reversal_that_cannot_be(make_sqlite: MakeHost, cents: t.Any) -> None:
    host = make_sqlite()
    with (
        host.app.app_context(),
        pytest.raises(ReferralError, match="whole number of cents from 1 to"),
    ):
        host.referral.reverse("mem_1", reason="refund", amount_cents=cents)


@pytest.mark.parametrize("id", ["", "x" * 256, "a\0b", "a\nb", None, 7, "\ud800"])
def test_a_membership_that_cannot_be(make_sqlite: MakeHost, id: t.Any) -> None:
    host = make_sqlite()
    referred = refer(host, host.add_user())
    with host.app.app_context():
        with pytest.raises(ReferralError, match="membership id"):
            host.referral.convert(referred, id)
        with pytest.raises(ReferralError, match="membership id"):
            host.referral.reverse(id, reason="refund", refund_id="r")


def test_two_users_one_membership(make: MakeHost) -> None:
    host = make()
    first, second = host.add_user(), host.add_user()
    with host.app.app_context():
        host.referral.convert(refer(host, first), "mem_1")
        host.db.session.commit()
        result = host.referral.convert(refer(host, second), "mem_1")
        host.db.session.commit()
        assert result.reason is ConversionReason.already_converted
    assert balance(host, first) == 1000
    assert rows(host, second) == []


def test_policy_and_two_sides(make: MakeHost) -> None:
    seen: list[Purchase] = []

    def policy(purchase: Purchase) -> Reward:
        seen.append(purchase)
        return Reward(referrer_cents=700, referred_cents=300)

    host = make(reward_policy=policy)
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        result = host.referral.convert(referred, "mem_1", metadata={"plan": "gold"})
        host.db.session.commit()
        assert result.bonus_cents == 700
    assert (seen[0].referrer_id, seen[0].referred_id) == (referrer, referred)
    assert (seen[0].membership_id, seen[0].metadata) == ("mem_1", {"plan": "gold"})
    assert rows(host, referrer) == [("referral_bonus", 700, 700)]
    assert rows(host, referred) == [("adjustment", 300, 300)]
    with host.app.app_context():
        host.referral.reverse("mem_1", reason="refund", amount_cents=350)
        host.db.session.commit()
    assert (balance(host, referrer), balance(host, referred)) == (350, 150)
    with host.app.app_context():
        host.referral.reverse("mem_1", reason="refund", refund_id="rest")
        host.db.session.commit()
    assert (balance(host, referrer), balance(host, referred)) == (0, 0)


def test_without_a_wallet(make: MakeHost) -> None:
    host = make(wallet=False)
    referred = refer(host, host.add_user())
    with host.app.app_context():
        result = host.referral.convert(referred, "mem_1")
        assert (result.reason, result.bonus_cents) == (ConversionReason.converted, 1000)
        back = host.referral.reverse("mem_1", reason="refund")
        assert (back.reason, back.reversed_cents) == (ReversalReason.reversed, 1000)


def test_a_membership_is_never_credited_again(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred, other = refer(host, referrer), refer(host, referrer)
    with host.app.app_context():
        host.referral.convert(referred, "mem_1")
        host.db.session.commit()
        # What ON DELETE CASCADE does when the host removes the user.
        host.db.session.execute(sa.delete(host.referral.models.ReferralConversion))
        host.db.session.commit()
        result = host.referral.convert(referred, "mem_1")
        assert result.reason is ConversionReason.already_converted
        assert result.conversion is None
        assert not host.referral.convert(other, "mem_1").created


def test_partial_refunds(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    with host.app.app_context():
        host.referral.convert(refer(host, referrer), "mem_1")
        results = []
        for refund, amount in (("a", 300), ("a", 300), ("b", 900), ("c", 1), ("d", None)):
            results.append(
                host.referral.reverse(
                    "mem_1", reason="refund", refund_id=refund, amount_cents=amount
                )
            )
            host.db.session.commit()
        assert [(result.reason.value, result.reversed_cents) for result in results] == [
            ("reversed", 300),
            ("already_reversed", 0),
            ("reversed", 700),
            ("nothing_to_reverse", 0),
            ("nothing_to_reverse", 0),
        ]
        conversion = results[-1].conversion
        assert conversion is not None
        assert (conversion.status, conversion.reversed_cents) == ("reversed", 1000)
    assert [amount for _, amount, _ in rows(host, referrer)] == [1000, -300, -700]
    assert balance(host, referrer) == 0


def test_refund_before_its_payment(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        first = host.referral.reverse("mem_1", reason="refund", amount_cents=400)
        assert first.reason is ReversalReason.unknown_membership
        again = host.referral.reverse("mem_1", reason="refund", amount_cents=400)
        assert again.reason is ReversalReason.already_reversed
        host.db.session.commit()
        result = host.referral.convert(referred, "mem_1")
        host.db.session.commit()
        assert result.created
        assert result.conversion is not None
        assert result.conversion.reversed_cents == 400
        assert not host.referral.convert(referred, "mem_1").created
    assert balance(host, referrer) == 600


def test_every_order_nets_the_same(make: MakeHost) -> None:
    host = make()

    def purchase(membership: str, referred: t.Any) -> None:
        host.referral.convert(referred, membership)

    def fact(kind: Kind, id: str, amount: int | None = None) -> t.Any:
        def deliver(membership: str, referred: t.Any) -> None:
            reversals.apply(
                host.referral.state.ledger,
                Fact(kind, membership, id, "", amount, 3000 if amount else None),
            )

        return deliver

    steps = [
        purchase,
        fact(Kind.refund, "a", 1000),
        fact(Kind.refund, "b", 500),
        fact(Kind.dispute_opened, "d"),
        fact(Kind.dispute_won, "d"),
    ]
    for number, order in enumerate(itertools.permutations(steps)):
        referrer = host.add_user()
        referred = refer(host, referrer)
        with host.app.app_context():
            for step in (*order, order[0]):
                step(f"mem_{number}", referred)
                host.db.session.commit()
        # A half of what was paid came back.
        assert balance(host, referrer) == 500, order


def test_open_dispute_takes_all(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    with host.app.app_context():
        host.referral.convert(refer(host, referrer), "mem_1")
        ledger = host.referral.state.ledger
        reversals.apply(ledger, Fact(Kind.dispute_opened, "mem_1", "d1"))
        reversals.apply(ledger, Fact(Kind.dispute_opened, "mem_1", "d2"))
        reversals.apply(ledger, Fact(Kind.dispute_won, "mem_1", "d1"))
        host.db.session.commit()
        assert balance(host, referrer) == 0
        reversals.apply(ledger, Fact(Kind.dispute_won, "mem_1", "d2"))
        host.db.session.commit()
    assert [kind for kind, _, _ in rows(host, referrer)] == [
        "referral_bonus",
        "adjustment",
        "adjustment",
    ]
    assert balance(host, referrer) == 1000


def test_three_thirds_are_the_whole(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    referrer = host.add_user()
    with host.app.app_context():
        host.referral.convert(refer(host, referrer), "mem_1", bonus_cents=100)
        for id in "abc":
            reversals.apply(
                host.referral.state.ledger, Fact(Kind.refund, "mem_1", id, "", 333, 999)
            )
        host.db.session.commit()
    assert [amount for _, amount, _ in rows(host, referrer)] == [100, -33, -34, -33]


def test_a_wallet_that_may_not_go_negative(make: MakeHost) -> None:
    host = make(positive_wallet=True)
    referrer = host.add_user()
    with host.app.app_context():
        host.referral.convert(refer(host, referrer), "mem_1")
        host.db.session.commit()
        host.db.session.add(host.Wallet(user_id=referrer, amount_cents=-900, type="withdrawal"))
        host.db.session.commit()
        host.db.session.add(host.User(name="the host's own"))
        result = host.referral.reverse("mem_1", reason="refund")
        host.db.session.commit()
        assert result.reason is ReversalReason.reversed
        assert (result.reversed_cents, result.shortfall_cents) == (100, 900)
        assert result.conversion is not None
        assert result.conversion.shortfall_cents == 900
        assert result.conversion.status == "reversed"
        assert host.db.session.scalar(sa.select(host.User).filter_by(name="the host's own"))
    assert balance(host, referrer) == 0


def test_a_wallet_that_keeps_what_it_has(make_postgresql: MakeHost) -> None:
    """A trigger's refusal is an answer: nothing is taken, and the shortfall is recorded."""
    host = make_postgresql()
    referrer = host.add_user()
    with host.app.app_context():
        host.referral.convert(refer(host, referrer), "mem_1")
        host.db.session.execute(
            sa.text(
                "CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'this wallet is frozen'; END $$;"
                "CREATE TRIGGER frozen BEFORE INSERT ON wallet_transactions "
                "FOR EACH ROW EXECUTE FUNCTION frozen()"
            )
        )
        result = host.referral.reverse("mem_1", reason="refund")
        host.db.session.commit()
        assert (result.reversed_cents, result.shortfall_cents) == (0, 1000)
    assert balance(host, referrer) == 1000


def test_a_fault_of_the_wallet_is_no_shortfall(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    with host.app.app_context():
        host.referral.convert(refer(host, referrer), "mem_1")
        host.db.session.commit()
        host.db.session.execute(
            sa.text("CREATE UNIQUE INDEX forgotten ON wallet_transactions (reference_id)")
        )
        host.db.session.commit()
        with pytest.raises(sa.exc.IntegrityError):
            host.referral.reverse("mem_1", reason="refund")
        host.db.session.rollback()
    assert balance(host, referrer) == 1000


def test_hold_and_maturity(make: MakeHost, now: t.Callable[[dt.datetime], None]) -> None:
    host = make(REFERRAL_HOLD_DAYS=14)
    referrer = host.add_user()
    with host.app.app_context():
        result = host.referral.convert(refer(host, referrer), "mem_1")
        host.db.session.commit()
        assert result.reason is ConversionReason.pending
        assert result.conversion is not None
        assert clock.as_utc(result.conversion.available_at) == MONDAY + dt.timedelta(days=14)
        ledger = host.referral.state.ledger
        early = MONDAY + dt.timedelta(days=14, seconds=-1)
        assert maturity.mature(ledger, early) is None
        assert rows(host, referrer) == []
        partly = host.referral.reverse("mem_1", reason="refund", amount_cents=250)
        assert (partly.reason, partly.reversed_cents) == (ReversalReason.voided, 250)
        assert maturity.mature(ledger, MONDAY + dt.timedelta(days=14)) == 1
        host.db.session.commit()
        assert maturity.mature(ledger, MONDAY + dt.timedelta(days=99)) is None
        assert result.conversion.status == "credited"
    assert rows(host, referrer) == [("referral_bonus", 750, 750)]
    with host.app.app_context():
        rest = host.referral.reverse("mem_1", reason="refund", refund_id="r2")
        host.db.session.commit()
        assert (rest.reason, rest.reversed_cents) == (ReversalReason.reversed, 750)
    assert balance(host, referrer) == 0


def test_voided_before_maturity(make: MakeHost) -> None:
    host = make(REFERRAL_HOLD_DAYS=1)
    referrer = host.add_user()
    with host.app.app_context():
        host.referral.convert(refer(host, referrer), "mem_1")
        result = host.referral.reverse("mem_1", reason="refund")
        host.db.session.commit()
        assert (result.reason, result.reversed_cents) == (ReversalReason.voided, 1000)
        assert result.conversion is not None
        assert result.conversion.status == "void"
        ledger = host.referral.state.ledger
        assert maturity.mature(ledger, clock.now() + dt.timedelta(days=9)) is None
    assert rows(host, referrer) == []


def test_velocity(make: MakeHost, now: t.Callable[[dt.datetime], None]) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=2)
    referrer = host.add_user()
    with host.app.app_context():
        results = []
        for number in range(3):
            results.append(host.referral.convert(refer(host, referrer), f"mem_{number}"))
            host.db.session.commit()
        assert [result.reason.value for result in results] == ["converted", "converted", "held"]
        held = results[2].conversion
        assert held is not None
        now(MONDAY + dt.timedelta(days=1))
        assert host.referral.convert(refer(host, referrer), "mem_next_day").created
        host.db.session.commit()
        assert balance(host, referrer) == 3000
        ledger = host.referral.state.ledger
        maturity.release(ledger, held.id, clock.now())
        host.db.session.commit()
        assert held.status == "credited"
        with pytest.raises(ReferralError, match="is credited, not held; use reverse"):
            maturity.release(ledger, held.id, clock.now())
        host.db.session.rollback()
    assert balance(host, referrer) == 4000


def test_void_is_for_good(make: MakeHost) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=0)
    referrer = host.add_user()
    with host.app.app_context():
        held = host.referral.convert(refer(host, referrer), "mem_1").conversion
        assert held is not None
        ledger = host.referral.state.ledger
        reversals.apply(ledger, Fact(Kind.dispute_opened, "mem_1", "d"))
        reversals.apply(ledger, Fact(Kind.dispute_won, "mem_1", "d"))
        assert held.status == "held"
        maturity.void(ledger, held.id)
        reversals.apply(ledger, Fact(Kind.dispute_won, "mem_1", "d2"))
        host.db.session.commit()
        assert held.status == "void"
    assert rows(host, referrer) == []


def test_repeatable_read_is_refused(make_postgresql: MakeHost) -> None:
    host = make_postgresql(SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "REPEATABLE READ"})
    referred = refer(host, host.add_user())
    with host.app.app_context(), pytest.raises(ReferralError, match="REPEATABLE READ"):
        host.referral.convert(referred, "mem_1")


def test_autocommit_is_refused(make: MakeHost) -> None:
    host = make(SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "AUTOCOMMIT"})
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        with pytest.raises(ReferralError, match="AUTOCOMMIT"):
            host.referral.convert(referred, "mem_1")
        with pytest.raises(ReferralError, match="AUTOCOMMIT"):
            host.referral.reverse("mem_1", reason="refund")
        assert host.db.session.scalar(sa.select(host.referral.models.ReferralEvent)) is None
    assert rows(host, referrer) == []


def test_a_bonus_for_the_referred_user_only(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: Reward(0, 300))
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        result = host.referral.convert(referred, "mem_1")
        host.db.session.commit()
        assert (result.reason, result.bonus_cents) == (ConversionReason.converted, 0)
        assert result.conversion is not None
        assert result.conversion.status == "credited"
        host.referral.reverse("mem_1", reason="refund")
        host.db.session.commit()
        assert result.conversion.status == "reversed"
    assert rows(host, referrer) == []
    assert balance(host, referred) == 0


def test_users_whose_rows_cannot_be_locked(make_postgresql: MakeHost) -> None:
    """Row level security hides them, or the right to lock is missing: an advisory lock then."""
    host = make_postgresql()
    referrers = [host.add_user(), host.add_user()]
    referred = [refer(host, referrer) for referrer in referrers]
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE nolock_app LOGIN")
        for grant in (
            "SELECT ON users",
            "SELECT, INSERT ON wallet_transactions",
            "USAGE ON SEQUENCE wallet_transactions_id_seq",
        ):
            connection.exec_driver_sql(f"GRANT {grant} TO nolock_app")
        connection.exec_driver_sql(
            "GRANT ALL ON referral_codes, referral_clicks, referral_conversions, "
            "referral_events TO nolock_app"
        )
        for table in ("codes", "clicks", "conversions", "events"):
            connection.exec_driver_sql(
                f"CREATE POLICY service ON referral_{table} TO nolock_app USING (true)"
            )
    try:
        for number, hide in enumerate((False, True)):
            with host.app.app_context():
                session = host.db.session
                if hide:
                    session.execute(sa.text("ALTER TABLE users ENABLE ROW LEVEL SECURITY"))
                    session.execute(sa.text("GRANT UPDATE ON users TO nolock_app"))
                    session.commit()
                session.execute(sa.text("SET LOCAL ROLE nolock_app"))
                assert host.referral.convert(referred[number], f"mem_{number}").created
                held = session.scalar(
                    sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
                )
                assert held == 1
                session.commit()
            assert balance(host, referrers[number]) == 1000
    finally:
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY nolock_app")
            connection.exec_driver_sql("DROP ROLE nolock_app")


def test_ids_cannot_be_mixed_up() -> None:
    a = facts._event_id(Kind.refund, "a:1", "b")
    assert a != facts._event_id(Kind.refund, "a", "1:b")
