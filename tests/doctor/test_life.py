"""What ``flask referral doctor`` says about money that is due, and about what never happened."""

from __future__ import annotations

import datetime as dt
import itertools
import typing as t
import uuid

import pytest
import sqlalchemy as sa

from flask_referral import clock
from flask_referral import wallet
from flask_referral.db.models import WALLET_INDEX
from flask_referral.doctor import life
from flask_referral.payments.known import DELIVERY
from flask_referral.results import Reward

from ..conftest import MakeHost
from ..history import fetch
from ..history import Referrer
from ..hosts import Host
from ..hosts import KEYS
from .conftest import examine
from .conftest import execute
from .conftest import finding
from .conftest import HEALTHY
from .conftest import ill

INDEX = WALLET_INDEX
DAY = dt.timedelta(days=1)
OTHERS = {"row-security-role": "warning", "wallet-trigger": "warning"}

_memberships = itertools.count(1)


def convert(referrer: Referrer) -> uuid.UUID:
    """Let a new user of the referrer buy, and return the id of what that earned."""
    host, user = referrer.host, referrer.host.add_user()
    referrer.click(clock.now(), by=user)
    with host.app.app_context():
        result = host.referral.convert(user, f"life_{next(_memberships)}")
        host.db.session.commit()
        return result.rewards[0].id


def reverse(host: Host, reward: uuid.UUID, cents: int | None = None) -> None:
    with host.app.app_context():
        found = host.db.session.get(host.referral.models.ReferralReward, reward)
        assert found is not None
        host.referral.reverse(found.membership_id, reason="asked", amount_cents=cents)
        host.db.session.commit()


def update(host: Host, reward: uuid.UUID, **values: t.Any) -> None:
    table = host.referral.models.ReferralReward.__table__
    run(host, sa.update(table).where(table.c.id == reward).values(values))


def waiting(referrer: Referrer, status: str, **values: t.Any) -> uuid.UUID:
    """Return a reward that nothing was paid for."""
    reward = convert(referrer)
    table = referrer.host.Wallet.__table__
    run(referrer.host, sa.delete(table).where(table.c.reference_id == str(reward)))
    update(referrer.host, reward, status=status, credited_at=None, **values)
    return reward


def pay(host: Host, user: t.Any, cents: int, reward: uuid.UUID, type: str = "adjustment") -> None:
    values = {"reference_type": wallet.REFERENCE_TYPE, "reference_id": str(reward)}
    row = {"user_id": user, "amount_cents": cents, "type": type, **values}
    run(host, sa.insert(host.Wallet.__table__).values(row))


def deliver(host: Host, outcome: str, age: dt.timedelta = DAY, provider: str = "whop") -> None:
    row = {
        "provider": provider,
        "event_id": uuid.uuid4().hex,
        "kind": DELIVERY,
        "outcome": outcome,
        "received_at": clock.now() - age,
    }
    run(host, sa.insert(host.referral.models.ReferralEvent.__table__).values(row))


def run(host: Host, statement: sa.Executable) -> None:
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(statement)


def says(host: Host, check: str) -> list[str]:
    """Return what a check says, of a host with which nothing is wrong."""
    findings = examine(host)
    assert {each["level"] for each in findings} == {"ok"}, findings
    return [each["message"] for each in findings if each["check"] == check]


@pytest.mark.parametrize("native", [False, True], ids=["text", "uuid"])
@pytest.mark.parametrize("key", KEYS)
def test_books_in_order(make: MakeHost, key: str, native: bool) -> None:
    """Whatever the users' keys, and however the wallet keeps its references."""
    host = make(migrate=False, key=key, reward_policy=lambda purchase: Reward(1000, 250), **HEALTHY)
    if native:
        host.Wallet.__table__.c.reference_id.type = sa.Uuid()
    host.create_tables()
    host.cli("db", "upgrade")
    referrer = Referrer(host)
    convert(referrer)
    for cents in (1, 300, None):
        reverse(host, convert(referrer), cents)
    table, rewards = host.Wallet.__table__, host.referral.models.ReferralReward.__table__
    for status in ("pending", "held", "void"):
        unpaid = convert(referrer)
        of_payment = sa.select(rewards.c.id).where(rewards.c.conversion_id == unpaid)
        with host.app.app_context(), host.db.engine.connect() as connection:
            ids = connection.scalars(of_payment).all()
        assert len(ids) == 2
        for each in ids:
            update(host, each, status=status)
            run(
                host,
                sa.delete(table).where(table.c.reference_id == (each if native else str(each))),
            )
    # Deleted with the balances of what came after them.
    run(host, sa.update(host.Wallet).values(balance_after_cents=0))
    levels = ill(host)
    assert levels.pop("wallet-balances") == "fault"
    assert levels.items() <= OTHERS.items()


def test_a_healthy_life(host: Host) -> None:
    referrer = Referrer(host)
    convert(referrer)
    reverse(host, convert(referrer))
    reverse(host, convert(referrer), 300)
    for outcome in ("converted", "pending", "no_money", "duplicate"):
        deliver(host, outcome)
    with host.statements() as seen:
        assert says(host, "deliveries") == ["Webhooks found the buyers of the last 7 days."]
    books = [sql for sql in seen if "referral_rewards" in sql and "wallet_trans" in sql]
    assert len(books) == 3
    assert not [sql for sql in seen if sql.lstrip().startswith(("INSERT", "UPDATE", "DELETE"))]


def test_no_index(host: Host) -> None:
    execute(host, f"DROP INDEX {INDEX}")
    text = finding(host, "wallet-index", "fault")
    assert f"has no index {INDEX}" in text
    # The cure works.
    statement = text[text.index("CREATE UNIQUE") :].removesuffix(".")
    with host.app.app_context(), host.db.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.exec_driver_sql(statement)
    assert ill(host) == {}


def test_an_index_that_is_not_unique(host: Host) -> None:
    execute(
        host,
        f"DROP INDEX {INDEX}",
        f"CREATE INDEX {INDEX} ON wallet_transactions (reference_id)",
    )
    assert "is not valid or not unique" in finding(host, "wallet-index", "fault")


def test_an_index_that_is_not_valid(postgresql_host: Host) -> None:
    # As CREATE INDEX CONCURRENTLY leaves it where there are duplicates.
    execute(
        postgresql_host,
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{INDEX}'::regclass",
    )
    text = finding(postgresql_host, "wallet-index", "fault")
    assert "is not valid or not unique" in text
    assert f"DROP INDEX CONCURRENTLY {INDEX}, correct" in text


def test_a_credit_that_is_missing(host: Host) -> None:
    referrer = Referrer(host)
    convert(referrer)
    reward = convert(referrer)
    run(host, sa.delete(host.Wallet).where(host.Wallet.reference_id == str(reward)))
    text = finding(host, "credited", "fault")
    assert "1 reward is credited with other amounts" in text
    assert f"{reward} is worth 1000 cents, and user {referrer.id} has 0 for it" in text


def test_many_are_counted_and_the_five_oldest_named(host: Host) -> None:
    referrer = Referrer(host)
    ids = [convert(referrer) for _ in range(7)]
    for age, reward in enumerate(ids):
        update(host, reward, reversed_cents=1, created_at=clock.now() - age * DAY)
    text = finding(host, "credited", "fault")
    assert "7 rewards are" in text
    assert [str(reward) in text for reward in ids] == [False] * 2 + [True] * 5


def test_a_reversal_that_is_missing(host: Host) -> None:
    reward = convert(Referrer(host))
    update(host, reward, status="reversed", reversed_cents=1000)
    assert "is worth 0 cents, and user" in finding(host, "credited", "fault")


def test_the_credit_is_another_users(host: Host) -> None:
    referrer, other = Referrer(host), host.add_user()
    reward = convert(referrer)
    pay(host, other, 70, reward)
    text = finding(host, "credited", "fault")
    assert f"{reward} has 70 cents in wallets of users who are not part of it" in text
    run(host, sa.delete(host.Wallet).where(host.Wallet.user_id == other))
    run(host, sa.update(host.Wallet).values(user_id=other))
    assert f"user {referrer.id} has 0 for it" in finding(host, "credited", "fault")


def test_a_welcome_bonus_that_somebody_else_has(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: Reward(1000, 250), **HEALTHY)
    reward = convert(Referrer(host))
    other = host.add_user()
    run(host, sa.update(host.Wallet).where(host.Wallet.amount_cents == 250).values(user_id=other))
    table = host.referral.models.ReferralReward.__table__
    (welcome,) = (row for row in fetch(host, table) if row.role == "referred")
    assert welcome.conversion_id == reward
    (found,) = (each for each in examine(host) if each["check"] == "credited")
    assert f"{welcome.id} is worth 250 cents, and user {welcome.user_id} has 0" in found["message"]


@pytest.mark.parametrize("status", ["pending", "held", "void"])
def test_paid_without_being_credited(host: Host, status: str) -> None:
    reward = convert(Referrer(host))
    later = clock.now() + DAY
    update(host, reward, status=status, available_at=later)
    text = finding(host, "not-credited", "fault")
    assert "1 reward has rows" in text
    assert f"{reward} is {status} and has 1000 cents" in text


def test_a_bonus_without_reward(host: Host) -> None:
    referrer = Referrer(host)
    convert(referrer)
    ids = [convert(referrer) for _ in range(2)]
    table = host.referral.models.ReferralReward.__table__
    run(host, sa.delete(table).where(table.c.id.in_(ids)))
    text = finding(host, "bonuses", "warning")
    assert "2 bonuses in the wallet, of 2000 cents in all" in text
    assert "normal where users were deleted" in text


def test_the_books_of_a_deleted_buyer_are_in_order(host: Host) -> None:
    referrer = Referrer(host)
    convert(referrer)
    reverse(host, convert(referrer), 300)
    buyers = [by for _, by, _ in referrer.clicks]
    for buyer in buyers:
        referrer.lose(buyer)
    assert ill(host) == {}


def test_rows_of_other_things_are_not_ours(host: Host) -> None:
    user, reward = host.add_user(), convert(Referrer(host))
    for type in ("deal_payment", "adjustment"):
        row = {"reference_type": "manual", "reference_id": str(reward)}
        run(host, sa.insert(host.Wallet).values(user_id=user, amount_cents=5, type=type, **row))
    balance = {"balance_after_cents": 10}
    run(host, sa.update(host.Wallet).where(host.Wallet.id == 3).values(balance))
    assert ill(host) == {}


def test_without_a_wallet(make: MakeHost) -> None:
    host = make(wallet=False, **HEALTHY)
    convert(Referrer(host))
    levels = {each["check"]: each["level"] for each in examine(host)}
    assert not {"wallet-index", "credited", "not-credited", "bonuses"} & set(levels)
    assert levels["due"] == "ok"


def test_due_for_long(host: Host) -> None:
    referrer = Referrer(host)
    now = clock.now()
    waiting(referrer, "pending", available_at=now - life.LATE + DAY / 24)
    waiting(referrer, "void", available_at=now - 9 * DAY)
    run(host, sa.update(host.Wallet).values(balance_after_cents=0))
    assert says(host, "due") == ["Pending rewards are credited when they are due."]
    waiting(referrer, "pending", available_at=now - life.LATE - DAY / 24, reversed_cents=100)
    text = finding(host, "due", "warning")
    assert "1 pending reward has been due for more than 2 days, worth 900 cents" in text
    assert f"since {(now - life.LATE - DAY / 24).date()}" in text
    assert "flask referral mature" in text
    host.cli("mature")
    assert ill(host) == {}


def test_held(host: Host) -> None:
    referrer = Referrer(host)
    reward = waiting(referrer, "held", created_at=clock.now() - life.REVIEW + DAY / 24)
    (text,) = says(host, "held")
    assert f"1 reward is held for a review: {reward}." in text
    assert "flask referral release REWARD" in text
    update(host, reward, created_at=clock.now() - life.REVIEW - DAY / 24)
    text = finding(host, "held", "warning")
    assert "The oldest has waited since" in text
    assert "flask referral void REWARD" in text
    host.cli("void", str(reward), "--yes")
    assert says(host, "held") == ["No reward waits for a review."]


def test_many_are_held(host: Host) -> None:
    referrer = Referrer(host)
    ids = [waiting(referrer, "held") for _ in range(6)]
    (text,) = says(host, "held")
    assert "6 rewards are held for a review, the first of them: " in text
    assert sum(str(reward) in text for reward in ids) == 5


@pytest.mark.parametrize(("netted", "words"), [(True, "next credits"), (False, "Nothing takes")])
def test_what_becomes_of_shortfalls(make: MakeHost, netted: bool, words: str) -> None:
    host = make(REFERRAL_NET_SHORTFALL=netted, **HEALTHY)
    referrer = Referrer(host)
    for cents, reward in [(cents, convert(referrer)) for cents in (30, 70)]:
        update(host, reward, shortfall_cents=cents)
    (found,) = (each for each in examine(host) if each["check"] == "shortfalls")
    assert found["level"] == "warning"
    assert "2 rewards were refunded" in found["message"]
    assert "100 cents are missing" in found["message"]
    assert words in found["cure"]
    if netted:
        convert(referrer)
        assert "shortfalls" not in ill(host)


def test_one_payment_told_of_by_two_providers(host: Host) -> None:
    """The host's own call and the provider's webhook, without the provider's id."""
    referrer, now = Referrer(host), clock.now()
    user = referrer.convert(now, "held", 500)
    renewal = {"number": 2, "referred_user_id": user, "provider": "whop"}
    # Another sum, another day, another buyer, and one that was given up.
    referrer.earn(now, "held", 499, **renewal)
    referrer.earn(now - DAY, "held", 500, **renewal)
    referrer.earn(now, "held", 500, **renewal | {"referred_user_id": host.add_user()})
    referrer.earn(now, "void", 500, 500, **renewal)
    assert ill(host) == {}
    twice = referrer.earn(now, "held", 500, **renewal)
    text = finding(host, "providers", "warning")
    assert "1 time a referred user has rewards of two providers for one day" in text
    assert f"user {user} on {now.date()}, 500 cents each by host and whop" in text
    assert "pass the provider's own payment_id" in text
    host.cli("void", str(twice), "--yes")
    assert ill(host) == {}


def test_clicks_that_are_not_summed_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "MANY_CLICKS", 3)
    one, two = Referrer(host), Referrer(host)
    now = clock.now()
    # Today's cannot be summed up yet, and are no reason to try.
    one.click(*[now] * 5)
    one.click(*[now - 3 * DAY] * 2, now - 5 * DAY)
    two.click(*[now - 4 * DAY] * 3)
    assert ill(host) == {}
    two.click(now - 3 * DAY)
    text = finding(host, "sums", "warning")
    assert f"4 clicks of user {two.id} are of past days" in text
    assert "flask referral rollup" in text
    host.cli("rollup")
    assert ill(host) == {}


def test_more_clicks_than_are_looked_at(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "MOST_CLICKS", 4)
    referrers = [Referrer(host) for _ in range(5)]
    for referrer in referrers[:3]:
        referrer.click(clock.now() - 3 * DAY)
    assert ill(host) == {}
    for referrer in referrers[3:]:
        referrer.click(clock.now() - 3 * DAY)
    with host.statements() as seen:
        assert "4 or more clicks of past days" in finding(host, "sums", "warning")
    (query,) = [sql for sql in seen if "referral_clicks" in sql and "referral_daily" in sql]
    # One for the clicks that are read, one for the answer.
    assert query.count("LIMIT") == 2


def test_buyers_that_were_not_found(host: Host) -> None:
    deliver(host, "unknown_user", life.RECENT + DAY / 24)
    assert says(host, "deliveries") == ["Webhooks found the buyers of the last 7 days."]
    for _ in range(2):
        deliver(host, "unknown_user", life.RECENT - DAY / 24)
    text = finding(host, "deliveries", "warning")
    assert "2 purchases of the last 7 days from the webhook 'whop'" in text
    assert "metadata as user_id" in text
    assert "name a function" in text
    host.referral.whop_user_loader(lambda payload: None)
    text = finding(host, "deliveries", "warning")
    assert "See why the function of @referral.whop_user_loader" in text


def test_buyers_of_another_provider(host: Host) -> None:
    deliver(host, "unknown_user", provider="shop")
    text = finding(host, "deliveries", "warning")
    assert "@referral.webhook('shop')" in text
    assert "whop" not in text


def test_buyers_of_stripe(host: Host) -> None:
    deliver(host, "unknown_user", provider="stripe")
    text = finding(host, "deliveries", "warning")
    assert "client_reference_id" in text
    assert "@referral.stripe_user_loader" in text
    host.referral.stripe_user_loader(lambda payload: None)
    assert "See why the function of @referral.stripe_user_loader" in finding(
        host, "deliveries", "warning"
    )


def test_events_of_another_company(host: Host) -> None:
    deliver(host, "other_company", 8 * DAY)
    deliver(host, "other_company")
    (text,) = says(host, "deliveries")
    assert "1 event of the last 7 days from the webhook 'whop' had no effect" in text
    assert "REFERRAL_WHOP_COMPANY_ID" in text


def test_deliveries_that_wait(host: Host) -> None:
    """A buyer whom nobody referred is nobody's concern, until somebody has."""
    event = host.referral.models.ReferralEvent.__table__
    buyers = [host.add_user() for _ in range(2)]
    for buyer, outcome in ((None, "other_company"), *((buyer, "not_referred") for buyer in buyers)):
        deliver(host, outcome, 9 * DAY)
        mine = sa.update(event).where(event.c.outcome == outcome, event.c.details.is_(None))
        run(host, mine.values(user_id=buyer, details={"metadata": {}}))
    (text,) = says(host, "waiting")
    assert "wait to be handled once more: 1 other_company." in text
    assert "flask referral events retry --all" in text
    referrer = Referrer(host)
    referrer.click(clock.now() - DAY, by=buyers[0])
    text = finding(host, "waiting", "warning")
    assert "1 not_referred, 1 other_company. The buyers of those that are not_referred" in text
    assert "flask referral events retry --all" in text


def test_buyers_are_found_by_metadata(make_sqlite: MakeHost) -> None:
    whop = {"REFERRAL_WHOP_WEBHOOK_SECRET": "ws_1", "REFERRAL_WHOP_COMPANY_ID": "biz_1"}
    host = make_sqlite(**whop, **HEALTHY)
    assert "by the checkout's metadata alone" in says(host, "deliveries")[0]
    host.referral.whop_user_loader(lambda payload: None)
    assert says(host, "deliveries") == ["Webhooks found the buyers of the last 7 days."]
