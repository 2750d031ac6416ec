"""Many at once: one winner, right balances, no error and no deadlock."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import functools
import random
import sqlite3
import typing as t
from fractions import Fraction
from time import monotonic
from time import sleep

import pytest
import sqlalchemy as sa
from flask import request

from flask_referral import wallet
from flask_referral.clock import as_utc
from flask_referral.conversions import claims
from flask_referral.conversions import facts
from flask_referral.conversions import maturity
from flask_referral.conversions import reversals
from flask_referral.errors import ReferralError
from flask_referral.payments import retries
from flask_referral.results import Reward
from flask_referral.testing import BROWSER

from ..conftest import MakeHost
from ..hosts import Host
from ..money import at_once
from ..money import balance
from ..money import PATIENCE
from ..money import pool
from ..money import refer
from ..money import rows
from ..money import transaction
from ..visiting import browser
from ..visiting import make_code
from .audit import Audit
from .audit import audit
from .model import HALF
from .sales import deliver
from .sales import Job
from .sales import listen

#: threads and rounds
SHORT = pytest.param(16, 3, id="short")
DEEP = pytest.param(64, 20, id="deep", marks=pytest.mark.deep)
OPENED = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
WON = OPENED + dt.timedelta(days=9)


def check(host: Host) -> Audit:
    """Return what is in the books, which have to be right."""
    with host.app.app_context():
        return audit(host.db.session, host)


@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_a_payment_pays_once_by_webhook_and_by_call(
    make_postgresql: MakeHost, threads: int, rounds: int
) -> None:
    host = listen(make_postgresql(**pool(threads), REFERRAL_RENEWALS=None))
    referrer = host.add_user()
    for round_ in range(rounds):
        referred, payment = refer(host, referrer), f"pay_{round_}"
        created: list[bool] = []

        def deliver_it(
            number: int,
            referred: t.Any = referred,
            payment: str = payment,
            created: list[bool] = created,
        ) -> None:
            outcome = deliver(
                host,
                kind="purchase",
                # Delivered more than once, and told of by more than one event.
                id=f"{payment} {number % 8}",
                payment_id=payment,
                membership_id="mem",
                user=referred,
            )
            assert outcome in ("converted", "already_converted", "duplicate")
            created.append(outcome == "converted")

        def call(
            number: int,
            referred: t.Any = referred,
            payment: str = payment,
            created: list[bool] = created,
        ) -> None:
            with host.app.app_context():
                result = host.referral.convert(referred, "mem", payment_id=payment, provider="json")
                host.db.session.commit()
                assert result.conversion is not None and result.bonus_cents == 1000
                assert [reward.payment_id for reward in result.rewards] == [payment]
                created.append(result.created)

        at_once(
            [
                functools.partial(call if number % 2 else deliver_it, number)
                for number in range(threads)
            ]
        )
        assert (len(created), sum(created)) == (threads, 1)
    assert len(check(host).rewards) == rounds
    assert balance(host, referrer) == 1000 * rounds


@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_a_delivery_that_waits_pays_once_whoever_handles_it(
    make_postgresql: MakeHost, threads: int, rounds: int
) -> None:
    """The provider delivers again, commands retry, and the host calls, all at once."""
    host = listen(make_postgresql(**pool(threads), REFERRAL_RENEWALS=None))
    referrer = host.add_user()
    for round_ in range(rounds):
        buyer, payment = host.add_user(), f"pay_{round_}"
        visit = _visit(host, referrer)
        event = {
            "kind": "purchase",
            "id": payment,
            "payment_id": payment,
            "membership_id": f"mem_{round_}",
            "user": buyer,
        }
        assert deliver(host, **event) == "not_referred"
        _bind(host, buyer, visit)
        outcomes: list[str] = []

        def deliver_it(event: t.Any = event, outcomes: list[str] = outcomes) -> None:
            outcomes.append(deliver(host, **event))

        def retry(payment: str = payment, outcomes: list[str] = outcomes) -> None:
            with host.app.app_context():
                for row in _waiting(host, payment):
                    outcomes.append(retries.once_more(host.referral.state, row))
                host.db.session.commit()

        def call(buyer: t.Any = buyer, outcomes: list[str] = outcomes) -> None:
            with host.app.app_context():
                outcomes.extend(host.referral.retry_deliveries(buyer))
                host.db.session.commit()

        at_once([(deliver_it, retry, call)[number % 3] for number in range(threads)])
        assert collections.Counter(outcomes)["converted"] == 1
        assert set(outcomes) <= {"converted", "duplicate"}
    assert len(check(host).rewards) == rounds
    assert balance(host, referrer) == 1000 * rounds


@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_sign_up_and_retry_see_each_other_at_the_latest_the_next_time(
    make_postgresql: MakeHost, threads: int, rounds: int
) -> None:
    host = listen(make_postgresql(**pool(threads)))
    referrer = host.add_user()
    for round_ in range(rounds):
        payment = f"pay_{round_}"
        buyer, visit = host.add_user(), _visit(host, referrer)
        event = {"kind": "purchase", "id": payment, "payment_id": payment, "user": buyer}
        assert deliver(host, **event) == "not_referred"
        seen: list[str] = []

        def sign_up(buyer: t.Any = buyer, visit: str = visit) -> None:
            _bind(host, buyer, visit)

        def retry(payment: str = payment, seen: list[str] = seen) -> None:
            with host.app.app_context():
                for row in _waiting(host, payment):
                    seen.append(retries.once_more(host.referral.state, row))
                host.db.session.commit()

        at_once([sign_up, *[retry] * (threads - 1)])
        retry()
        assert collections.Counter(seen)["converted"] == 1
        assert set(seen) <= {"converted", "duplicate", "not_referred"}
    assert len(check(host).rewards) == rounds
    assert balance(host, referrer) == 1000 * rounds


def _visit(host: Host, referrer: t.Any) -> str:
    """Follow a referrer's link, and return what is carried of it."""
    code = make_code(host, referrer)
    with host.app.test_request_context(f"/?ref={code}", headers={"User-Agent": BROWSER}):
        return host.referral.carry()


def _bind(host: Host, user: t.Any, visit: str) -> None:
    """Bind a visit to a user, who may have paid since."""
    with host.app.test_request_context():
        assert host.referral.attribute(user, code=visit).reason == "attributed"
        host.db.session.commit()


def _waiting(host: Host, event_id: str) -> list[t.Any]:
    state = host.referral.state
    db = state.models.connection(host.db.session())
    return list(retries.waiting(db, state.models, retries.Wanted(event_id=event_id)))


@pytest.mark.parametrize("renewals", [0, 2])
@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_no_more_payments_of_a_user_earn_than_may(
    make_postgresql: MakeHost, threads: int, rounds: int, renewals: int
) -> None:
    host = make_postgresql(**pool(threads), REFERRAL_RENEWALS=renewals)
    referrer = host.add_user()
    for round_ in range(rounds):
        referred = refer(host, referrer)
        reasons: list[str] = []

        def buy(
            number: int,
            referred: t.Any = referred,
            round_: int = round_,
            reasons: list[str] = reasons,
        ) -> None:
            with host.app.app_context():
                payment = f"pay_{round_}_{number}"
                result = host.referral.convert(referred, f"mem_{number % 3}", payment_id=payment)
                host.db.session.commit()
                reasons.append(result.reason)

        at_once([functools.partial(buy, number) for number in range(threads)])
        assert collections.Counter(reasons) == collections.Counter(
            converted=1, renewed=renewals, already_converted=threads - renewals - 1
        )
    numbers = collections.Counter(row.number for row in check(host).rewards.values())
    assert numbers == dict.fromkeys(range(1, renewals + 2), rounds)
    assert balance(host, referrer) == 1000 * (renewals + 1) * rounds


@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_the_balance_is_right_when_many_buy_at_once(
    make_postgresql: MakeHost, threads: int, rounds: int
) -> None:
    host = make_postgresql(**pool(threads))
    referrer = host.add_user()
    for _ in range(rounds):
        _buy_at_once(host, referrer, threads)
    assert len(check(host).rewards) == threads * rounds
    assert balance(host, referrer) == 1000 * threads * rounds


def test_without_the_lock_the_balance_goes_wrong(
    make_postgresql: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the test above would notice."""
    host = make_postgresql(**pool(16))
    monkeypatch.setattr("flask_referral.wallet.lockable", lambda *args: sa.false())
    monkeypatch.setattr("flask_referral.wallet.lock", lambda *args, **options: None)
    referrer = host.add_user()
    for _ in range(40):
        _buy_at_once(host, referrer, 16)
        found = rows(host, referrer)
        if max(after for _, _, after in found) != sum(amount for _, amount, _ in found):
            return
    pytest.fail("the balance stayed right without the lock, so the test above shows nothing")


def _buy_at_once(host: Host, referrer: t.Any, threads: int) -> None:
    def buy(user: t.Any) -> None:
        with host.app.app_context():
            host.referral.convert(user, f"mem_{user}")
            host.db.session.commit()

    users = [refer(host, referrer) for _ in range(threads)]
    at_once([functools.partial(buy, user) for user in users])


@pytest.mark.parametrize("by", ["payment", "membership"])
def test_refund_and_purchase_see_each_other(make_postgresql: MakeHost, by: str) -> None:
    """The purchase waits for the refund, or the other way round."""
    host = make_postgresql()
    referrer = host.add_user()
    for number in range(20):
        referred = refer(host, referrer)

        def buy(number: int = number, referred: t.Any = referred) -> None:
            with host.app.app_context():
                host.referral.convert(referred, f"mem_{number}", payment_id=f"pay_{number}")
                host.db.session.commit()

        def refund(number: int = number) -> None:
            payment = f"pay_{number}" if by == "payment" else None
            with host.app.app_context():
                host.referral.reverse(f"mem_{number}", reason="refund", payment_id=payment)
                host.db.session.commit()

        at_once([buy, refund])
        assert balance(host, referrer) == 0
    assert {row.status for row in check(host).rewards.values()} == {"reversed"}


class _Known:
    """What was told of a payment besides its purchase."""

    def __init__(self) -> None:
        self.refunds: dict[str, Fraction] = {}
        self.dispute: set[str] = set()

    def due(self) -> Fraction:
        if self.dispute == {"dispute_opened"}:
            return Fraction(1)
        return min(Fraction(1), sum(self.refunds.values(), Fraction(0)))


@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_every_order_of_locks_ends_in_the_right_amounts(
    make_postgresql: MakeHost, threads: int, rounds: int
) -> None:
    """Users who refer each other, both sides paid, two payments each, facts before them."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    host = listen(
        make_postgresql(
            reward_policy=lambda purchase: Reward(1000, 250),
            REFERRAL_RENEWALS=None,
            **pool(threads),
        )
    )
    host.referral.identity_loader(lambda: request.headers.get("X-User"))
    for _ in range(rounds):
        users = [host.add_user() for _ in range(12)]
        codes = {user: make_code(host, user) for user in users[:8]}
        payments = [(user, f"pay_{user}_{number}") for user in users for number in range(2)]
        known = {payment: _Known() for _, payment in payments}

        def generate(chance: random.Random, users: t.Any = users) -> None:
            user = chance.choice(users)
            answer = host.client().post("/api/referral/generate", headers={"X-User": str(user)})
            assert answer.status_code == 200, answer.get_data(as_text=True)

        def click(chance: random.Random, codes: t.Any = codes) -> None:
            code = chance.choice(list(codes.values()))
            assert browser(host).get(f"/r/{code}").status_code == 302

        def attribute(chance: random.Random, users: t.Any = users, codes: t.Any = codes) -> None:
            with host.app.test_request_context():
                host.referral.attribute(
                    chance.choice(users), code=chance.choice(list(codes.values()))
                )
                host.db.session.commit()

        def convert(chance: random.Random, payments: t.Any = payments) -> None:
            user, payment = chance.choice(payments)
            if chance.random() < 0.5:
                deliver(
                    host,
                    kind="purchase",
                    id=f"{payment} {chance.randrange(3)}",
                    payment_id=payment,
                    membership_id=f"mem_{user}",
                    user=user,
                )
                return
            _convert(host, user, payment)

        def refund(chance: random.Random, payments: t.Any = payments, known: t.Any = known) -> None:
            user, payment = chance.choice(payments)
            number = chance.randrange(3)
            known[payment].refunds[str(number)] = Fraction(number + 1, 7)
            deliver(
                host,
                kind="refund",
                id=f"refund {payment} {chance.random()}",
                payment_id=payment,
                membership_id=chance.choice((None, f"mem_{user}")),
                reference=str(number),
                amount_cents=number + 1,
                total_cents=7,
            )

        def dispute(
            chance: random.Random, payments: t.Any = payments, known: t.Any = known
        ) -> None:
            _, payment = chance.choice(payments)
            kind, at = chance.choice((("dispute_opened", OPENED), ("dispute_won", WON)))
            known[payment].dispute.add(kind)
            with host.app.app_context():
                fact = facts.Fact(
                    kind=facts.Kind(kind),
                    provider="json",
                    payment_id=payment,
                    id="d",
                    occurred_at=at,
                )
                reversals.apply(transaction(host), fact)
                host.db.session.commit()

        def host_books(chance: random.Random, users: t.Any = users) -> None:
            user = chance.choice(users)
            with host.app.app_context():
                own = sa.select(host.User.id).filter_by(id=user)
                host.db.session.execute(own.with_for_update(key_share=True))
                host.db.session.add(
                    host.Wallet(
                        user_id=user,
                        amount_cents=chance.randrange(100),
                        type="deal_payment",
                        created_at=sa.func.clock_timestamp(),
                    )
                )
                host.db.session.commit()

        actions = [generate, click, attribute, convert, convert, refund, dispute, host_books]

        def run(seed: int, actions: t.Any = actions) -> None:
            chance = random.Random(seed)
            for _ in range(8):
                chance.choice(actions)(chance)

        seeds = [chance.randrange(2**32) for _ in range(threads)]
        at_once([functools.partial(run, seed) for seed in seeds])
        for user, payment in payments:
            # Purchases that came before their sign-up were not referred then.
            _convert(host, user, payment)
        for (_, payment, role), row in check(host).rewards.items():
            if payment not in known:
                continue
            part, cents = known[payment].due(), 1000 if role == "referrer" else 250
            assert (row.cents, row.shortfall_cents) == (cents, 0)
            assert row.reversed_cents == int(cents * part + HALF)
            assert row.status == ("reversed" if part == 1 else "credited")


def _convert(host: Host, user: t.Any, payment: str) -> None:
    with host.app.app_context():
        host.referral.convert(user, f"mem_{user}", payment_id=payment, provider="json")
        host.db.session.commit()


def test_void_and_refund_wait_in_the_same_order(make_postgresql: MakeHost) -> None:
    """A refund that has the payment gets the wallet too, however long a void has waited."""
    host = make_postgresql(REFERRAL_HOLD_DAYS=7)
    referrer = host.add_user()
    reward = _buy(host, refer(host, referrer))
    with host.app.app_context():
        tx = transaction(host)
        claims.lock_payment(tx, reward.provider, reward.payment_id)

        def void() -> None:
            with host.app.app_context():
                maturity.void(transaction(host), reward.id, reward.created_at)
                host.db.session.commit()

        job = Job(void)
        _until_somebody_waits(host)
        host.db.session.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
        wallet.lock(tx.db, tx.models, [referrer])
        host.db.session.commit()
        job.finish()
    assert [row.status for row in check(host).rewards.values()] == ["void"]


def _buy(host: Host, user: t.Any) -> t.Any:
    """Let a referred user buy; return the row of the referrer's reward."""
    with host.app.app_context():
        host.referral.convert(user, f"mem_{user}")
        host.db.session.commit()
    return check(host).rewards["host", f"mem_{user}", "referrer"]


@pytest.mark.parametrize("referrer_first", [True, False])
def test_wallets_are_locked_in_the_order_of_their_keys(
    make_postgresql: MakeHost, referrer_first: bool
) -> None:
    """Who waits for the first wallet does not have the second, so nobody waits in a circle."""
    host = make_postgresql(reward_policy=lambda purchase: Reward(1000, 250))
    users = sorted(host.add_user() for _ in range(2))
    referrer, referred = users if referrer_first else reversed(users)
    code = make_code(host, referrer)
    with host.app.test_request_context():
        host.referral.attribute(referred, code=code)
        host.db.session.commit()
    with host.app.app_context():
        lock = sa.select(host.User.id).with_for_update(key_share=True, nowait=True)
        host.db.session.execute(lock.filter_by(id=users[0])).one()
        job = Job(lambda: _convert(host, referred, "pay_1"))
        _until_somebody_waits(host)
        try:
            assert host.db.session.execute(lock.filter_by(id=users[1])).one()
        finally:
            host.db.session.rollback()
            job.finish()
    assert (balance(host, referrer), balance(host, referred)) == (1000, 250)


def _until_somebody_waits(host: Host) -> None:
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    end = monotonic() + PATIENCE
    with host.db.engine.connect() as connection:
        while not connection.scalar(waiting):
            connection.rollback()
            assert monotonic() < end
            sleep(0.01)


@pytest.mark.parametrize(
    ("interruption", "credited"), [("refund", 2), ("void", 3), ("mature", 0), ("removal", 3)]
)
def test_what_happens_before_mature_has_the_wallets_counts(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch, interruption: str, credited: int
) -> None:
    """It read what was due, and credits what still is when it has the wallets."""
    host = make(REFERRAL_HOLD_DAYS=1, reward_policy=lambda purchase: Reward(1000, 300))
    referrer = host.add_user()
    first, _ = (_buy(host, refer(host, referrer)) for _ in range(2))
    due = as_utc(first.available_at) + dt.timedelta(minutes=5)
    lock = wallet.lock
    interrupted: list[bool] = []

    def interrupt(*args: t.Any, **options: t.Any) -> None:
        if not interrupted:
            interrupted.append(True)
            somebody_else()
        lock(*args, **options)

    monkeypatch.setattr(wallet, "lock", interrupt)

    def somebody_else() -> None:
        with host.app.app_context():
            if interruption == "refund":
                host.referral.reverse(first.membership_id, reason="refund")
            elif interruption == "void":
                maturity.void(transaction(host), first.id, due)
            elif interruption == "mature":
                assert maturity.mature(transaction(host), due) == 4
            else:
                table = host.referral.models.ReferralReward.__table__
                host.db.session.execute(sa.delete(table).where(table.c.id == first.id))
                conversion = host.referral.models.ReferralConversion.__table__
                host.db.session.execute(sa.delete(conversion).where(conversion.c.id == first.id))
            host.db.session.commit()

    with host.app.app_context():
        assert maturity.mature(transaction(host), due) == credited
        host.db.session.commit()
    assert len(check(host).rewards) == (3 if interruption == "removal" else 4)
    assert balance(host, referrer) == (2000 if interruption == "mature" else 1000)


def test_nobody_writes_to_sqlite_once_mature_has_the_lock(
    make_sqlite: MakeHost, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_sqlite(REFERRAL_HOLD_DAYS=1)
    referrer = host.add_user()
    reward = _buy(host, refer(host, referrer))
    lock = wallet.lock
    refused: list[str] = []

    def lock_and_try(*args: t.Any, **options: t.Any) -> None:
        lock(*args, **options)
        other = sqlite3.connect(str(sa.make_url(sqlite_url).database), timeout=0)
        with contextlib.closing(other), pytest.raises(sqlite3.OperationalError) as error:
            other.execute("DELETE FROM referral_rewards")
        refused.append(str(error.value))

    with host.app.app_context():
        monkeypatch.setattr(wallet, "lock", lock_and_try)
        assert maturity.mature(transaction(host), as_utc(reward.available_at)) == 1
        host.db.session.commit()
    assert refused == ["database is locked"]
    assert balance(host, referrer) == 1000


def test_a_reward_that_eight_reviewers_release_is_credited_once(
    make_postgresql: MakeHost,
) -> None:
    host = make_postgresql(REFERRAL_VELOCITY_LIMIT=0, **pool(8))
    referrer = host.add_user()
    reward = _buy(host, refer(host, referrer))
    refused: list[str] = []

    def release() -> None:
        with host.app.app_context():
            try:
                maturity.release(transaction(host), reward.id, reward.available_at)
                host.db.session.commit()
            except ReferralError as error:
                refused.append(str(error))

    at_once([release] * 8)
    assert len(refused) == 7
    assert all("is credited, not held" in message for message in refused)
    check(host)
    assert balance(host, referrer) == 1000
