"""Many at once: one winner, right balances, no error and no deadlock."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import typing as t
import uuid
from fractions import Fraction
from time import monotonic
from time import sleep

import pytest
import sqlalchemy as sa
from flask import request

from flask_referral import wallet
from flask_referral.clock import as_utc
from flask_referral.conversions import facts
from flask_referral.conversions import maturity
from flask_referral.errors import ReferralError
from flask_referral.results import Reward

from ..conftest import MakeHost
from ..conversions.test_convert import balance
from ..conversions.test_convert import refer
from ..conversions.test_convert import rows
from ..hosts import Host
from ..visiting import browser
from ..visiting import make_code
from .audit import audit
from .model import Facts
from .model import HALF
from .writer import read_json

#: threads and rounds
SHORT = pytest.param(16, 3, id="short")
DEEP = pytest.param(64, 20, id="deep", marks=pytest.mark.deep)


def pool(size: int) -> dict[str, t.Any]:
    """Return the setting that gives every thread a connection."""
    return {
        "SQLALCHEMY_ENGINE_OPTIONS": {
            "pool_size": size,
            "max_overflow": 0,
            "pool_timeout": 120,
        }
    }


def at_once(jobs: t.Sequence[t.Callable[[], None]]) -> None:
    """Run jobs in threads that start together, and raise what the first of them raised."""
    barrier = threading.Barrier(len(jobs))
    errors: list[BaseException] = []

    def run(job: t.Callable[[], None]) -> None:
        try:
            barrier.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def deliver(host: Host, **fields: t.Any) -> str:
    response = host.client().post("/api/referral/webhooks/json", json=fields)
    assert response.status_code == 200, response.get_data(as_text=True)
    outcome: str = response.get_json()["outcome"]
    return outcome


def check(host: Host) -> list[tuple[t.Any, ...]]:
    with host.app.app_context():
        return audit(host.db.session, host).states


@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_one_referred_user(make_postgresql: MakeHost, threads: int, rounds: int) -> None:
    """By webhook and by calls, as the same purchase and as another one of the same user."""
    host = make_postgresql(**pool(threads))
    host.referral.webhook("json")(read_json)
    referrer = host.add_user()
    for round_ in range(rounds):
        referred = refer(host, referrer)
        results: list[tuple[bool, uuid.UUID | None]] = []

        def call(
            number: int,
            referred: t.Any = referred,
            round_: int = round_,
            results: t.Any = results,
        ) -> None:
            membership = f"mem_{round_}_{number % 2}"
            if number % 4 < 2:
                outcome = deliver(
                    host,
                    kind="purchase",
                    id=f"{membership} {number % 8}",
                    membership_id=membership,
                    user=referred,
                )
                assert outcome in ("converted", "already_converted", "duplicate")
                results.append((outcome == "converted", None))
                return
            with host.app.app_context():
                result = host.referral.convert(referred, membership)
                host.db.session.commit()
                assert result.conversion is not None and result.bonus_cents == 1000
                results.append((result.created, result.conversion.id))

        at_once([lambda number=number: call(number) for number in range(threads)])
        assert len(results) == threads
        assert sum(created for created, _ in results) == 1
        assert len({id for _, id in results if id is not None}) == 1
    assert len(check(host)) == rounds
    assert balance(host, referrer) == 1000 * rounds


@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_many_referred_users_of_one_referrer(
    make_postgresql: MakeHost, threads: int, rounds: int
) -> None:
    host = make_postgresql(**pool(threads))
    referrer = host.add_user()
    for _ in range(rounds):
        _buy_at_once(host, referrer, threads)
    assert len(check(host)) == threads * rounds
    assert balance(host, referrer) == 1000 * threads * rounds


def test_without_the_lock_the_balance_goes_wrong(
    make_postgresql: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the test above would notice."""
    host = make_postgresql(**pool(16))
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
    at_once([lambda user=user: buy(user) for user in users])


def test_refund_and_purchase(make_postgresql: MakeHost) -> None:
    """Neither misses the other: the purchase waits for the refund, or the other way round."""
    host = make_postgresql()
    referrer = host.add_user()
    for number in range(20):
        referred = refer(host, referrer)

        def buy(number: int = number, referred: t.Any = referred) -> None:
            with host.app.app_context():
                host.referral.convert(referred, f"mem_{number}")
                host.db.session.commit()

        def refund(number: int = number) -> None:
            with host.app.app_context():
                host.referral.reverse(f"mem_{number}", reason="refund")
                host.db.session.commit()

        at_once([buy, refund])
        assert balance(host, referrer) == 0


@pytest.mark.parametrize(("threads", "rounds"), [SHORT, DEEP])
def test_everything_mixed(make_postgresql: MakeHost, threads: int, rounds: int) -> None:
    """Users who refer each other in circles, both sides paid: every order of locks occurs."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    host = make_postgresql(reward_policy=lambda purchase: Reward(1000, 250), **pool(threads))
    host.referral.webhook("json")(read_json)
    host.referral.identity_loader(lambda: request.headers.get("X-User"))
    for round_ in range(rounds):
        users = [host.add_user() for _ in range(12)]
        codes = {user: make_code(host, user) for user in users[:8]}
        known: dict[str, Facts] = {f"mem_{round_}_{user}": Facts() for user in users}

        def generate(user: t.Any, _: random.Random) -> None:
            answer = host.client().post("/api/referral/generate", headers={"X-User": str(user)})
            assert answer.status_code == 200, answer.get_data(as_text=True)

        def click(user: t.Any, chance: random.Random, codes: t.Any = codes) -> None:
            code = chance.choice(list(codes.values()))
            assert browser(host).get(f"/r/{code}").status_code == 302

        def attribute(user: t.Any, chance: random.Random, codes: t.Any = codes) -> None:
            code = codes[chance.choice(list(codes))]
            with host.app.test_request_context():
                host.referral.attribute(user, code=code)
                host.db.session.commit()

        def convert(user: t.Any, chance: random.Random, round_: int = round_) -> None:
            membership = f"mem_{round_}_{user}"
            if chance.random() < 0.5:
                id = f"{membership} {chance.randrange(3)}"
                deliver(host, kind="purchase", id=id, membership_id=membership, user=user)
                return
            with host.app.app_context():
                host.referral.convert(user, membership)
                host.db.session.commit()

        def refund(
            user: t.Any, chance: random.Random, round_: int = round_, known: t.Any = known
        ) -> None:
            membership = f"mem_{round_}_{user}"
            number = chance.randrange(3)
            known[membership].refunds[str(number)] = Fraction(number + 1, 7)
            deliver(
                host,
                kind="refund",
                id=f"refund {membership} {chance.random()}",
                membership_id=membership,
                reference=str(number),
                amount_cents=number + 1,
                total_cents=7,
            )

        def dispute(
            user: t.Any, chance: random.Random, round_: int = round_, known: t.Any = known
        ) -> None:
            membership = f"mem_{round_}_{user}"
            won = chance.random() < 0.7
            (known[membership].won if won else known[membership].opened).add("d")
            deliver(
                host,
                kind="dispute_won" if won else "dispute_opened",
                id=f"dispute {membership} {chance.random()}",
                membership_id=membership,
                reference="d",
            )

        def host_books(user: t.Any, chance: random.Random) -> None:
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

        def run(seed: int, users: t.Any = users, actions: t.Any = actions) -> None:
            chance = random.Random(seed)
            for _ in range(8):
                chance.choice(actions)(chance.choice(users), chance)

        seeds = [chance.randrange(2**32) for _ in range(threads)]
        at_once([lambda seed=seed: run(seed) for seed in seeds])
        for user in users:
            # Purchases that came before their sign-up were not referred then.
            with host.app.app_context():
                host.referral.convert(user, f"mem_{round_}_{user}")
                host.db.session.commit()
        for membership, referrer, referred, status, *amounts in check(host):
            if membership not in known:
                continue
            part = known[membership].due(1000)
            assert amounts == [1000, int(1000 * part + HALF), 250, int(250 * part + HALF), 0]
            assert status == ("reversed" if part == 1 else "credited")
            assert referrer in codes and referred in users


def test_void_and_refund_wait_in_the_same_order(make_postgresql: MakeHost) -> None:
    """A refund that has the membership gets the wallet too, however long a void has waited."""
    host = make_postgresql(REFERRAL_HOLD_DAYS=7)
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        conversion = host.referral.convert(referred, "mem_1").conversion
        host.db.session.commit()
        assert conversion is not None
        ledger = host.referral.state.ledger
        facts.claim(ledger.session, ledger.models, "mem_1", facts.TOMBSTONE)
        errors: list[BaseException] = []

        def void(id: uuid.UUID = conversion.id) -> None:
            with host.app.app_context():
                try:
                    maturity.void(host.referral.state.ledger, id)
                    host.db.session.commit()
                except BaseException as error:
                    errors.append(error)

        thread = threading.Thread(target=void)
        thread.start()
        _until_somebody_waits(host)
        host.db.session.execute(sa.text("SET LOCAL lock_timeout = '1s'"))
        wallet.lock(host.db.session, ledger.models, [referrer])
        host.db.session.commit()
        thread.join()
        assert errors == []
        host.db.session.refresh(conversion)
        assert conversion.status == "void"


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
    errors: list[BaseException] = []

    def convert() -> None:
        with host.app.app_context():
            try:
                host.referral.convert(referred, "mem_1")
                host.db.session.commit()
            except BaseException as error:
                errors.append(error)

    with host.app.app_context():
        lock = sa.select(host.User.id).with_for_update(key_share=True, nowait=True)
        host.db.session.execute(lock.filter_by(id=users[0])).one()
        thread = threading.Thread(target=convert)
        thread.start()
        _until_somebody_waits(host)
        try:
            assert host.db.session.execute(lock.filter_by(id=users[1])).one()
        finally:
            host.db.session.rollback()
            thread.join()
    assert errors == []
    assert (balance(host, referrer), balance(host, referred)) == (1000, 250)


def _until_somebody_waits(host: Host) -> None:
    waiting = sa.text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    end = monotonic() + 60
    with host.db.engine.connect() as connection:
        while not connection.scalar(waiting):
            connection.rollback()
            assert monotonic() < end
            sleep(0.01)


@pytest.mark.parametrize("interruption", ["refund", "void", "mature", "removal"])
def test_what_happens_before_mature_has_the_wallets(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch, interruption: str
) -> None:
    """It read what was due, and credits what still is when it has the wallets."""
    host = make(REFERRAL_HOLD_DAYS=1, reward_policy=lambda purchase: Reward(1000, 300))
    referrer = host.add_user()
    users = [refer(host, referrer) for _ in range(2)]
    with host.app.app_context():
        made = [host.referral.convert(user, f"mem_{user}").conversion for user in users]
        host.db.session.commit()
        first, second = made
        assert first is not None and second is not None
        id, due = first.id, as_utc(t.cast(t.Any, second.available_at))
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
            ledger = host.referral.state.ledger
            if interruption == "refund":
                host.referral.reverse(f"mem_{users[0]}", reason="refund")
            elif interruption == "void":
                maturity.void(ledger, id)
            elif interruption == "mature":
                assert maturity.mature(ledger, due) == 2
            else:
                table = ledger.models.ReferralConversion
                host.db.session.execute(sa.delete(table).where(table.id == id))
            host.db.session.commit()

    with host.app.app_context():
        credited = maturity.mature(host.referral.state.ledger, due)
        host.db.session.commit()
    assert credited == (0 if interruption == "mature" else 1)
    assert len(check(host)) == (1 if interruption == "removal" else 2)
    assert balance(host, referrer) == (2000 if interruption == "mature" else 1000)


def test_nobody_writes_to_sqlite_once_mature_has_the_lock(
    make_sqlite: MakeHost, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_sqlite(REFERRAL_HOLD_DAYS=1)
    referrer = host.add_user()
    lock = wallet.lock
    refused: list[str] = []

    def lock_and_try(*args: t.Any, **options: t.Any) -> None:
        lock(*args, **options)
        other = sqlite3.connect(str(sa.make_url(sqlite_url).database), timeout=0)
        with contextlib.closing(other), pytest.raises(sqlite3.OperationalError) as error:
            other.execute("DELETE FROM referral_conversions")
        refused.append(str(error.value))

    with host.app.app_context():
        conversion = host.referral.convert(refer(host, referrer), "mem_1").conversion
        host.db.session.commit()
        assert conversion is not None and conversion.available_at is not None
        due = as_utc(conversion.available_at)
    with host.app.app_context():
        monkeypatch.setattr(wallet, "lock", lock_and_try)
        assert maturity.mature(host.referral.state.ledger, due) == 1
        host.db.session.commit()
    assert refused == ["database is locked"]
    assert balance(host, referrer) == 1000


def test_released_twice_at_once(make_postgresql: MakeHost) -> None:
    host = make_postgresql(REFERRAL_VELOCITY_LIMIT=0, **pool(8))
    referrer = host.add_user()
    with host.app.app_context():
        conversion = host.referral.convert(refer(host, referrer), "mem_1").conversion
        host.db.session.commit()
        assert conversion is not None
        id, now = conversion.id, conversion.converted_at
    refused: list[str] = []

    def release() -> None:
        with host.app.app_context():
            try:
                maturity.release(host.referral.state.ledger, id, now)
                host.db.session.commit()
            except ReferralError as error:
                refused.append(str(error))

    at_once([release] * 8)
    assert len(refused) == 7
    assert all("is credited, not held" in message for message in refused)
    check(host)
    assert balance(host, referrer) == 1000
