"""``convert``: each payment earns once, in the host's transaction, for whom it should."""

from __future__ import annotations

import itertools
import typing as t
import uuid

import pytest
import sqlalchemy as sa

from flask_referral.errors import ReferralError
from flask_referral.errors import WalletRefused
from flask_referral.results import ConversionReason
from flask_referral.results import Purchase
from flask_referral.results import Reward

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS
from ..money import amounts
from ..money import balance
from ..money import count
from ..money import delete_user
from ..money import deliver
from ..money import execute
from ..money import pay
from ..money import refer
from ..money import refund
from ..money import rewards
from ..money import rows
from ..money import withdraw


@pytest.mark.parametrize("key", KEYS)
def test_a_payment_is_one_conversion_one_reward_and_one_credit(make: MakeHost, key: str) -> None:
    host = make(key=key)
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        first = host.referral.convert(referred, "mem_1", metadata={"plan": "gold"})
        host.db.session.commit()
        assert first.reason is ConversionReason.converted
        assert (first.created, first.bonus_cents) == (True, 1000)
        conversion, (reward,) = first.conversion, first.rewards
        assert conversion is not None
        assert (conversion.referrer_user_id, conversion.referred_user_id) == (referrer, referred)
        assert (conversion.bonus_cents, conversion.metadata_) == (1000, {"plan": "gold"})
        # As the seed has it: the bonus refers to the conversion.
        assert reward.id == conversion.id == reward.conversion_id
        assert (reward.role, reward.status, reward.number) == ("referrer", "credited", 1)
        for membership in ("mem_1", "mem_2"):
            again = host.referral.convert(referred, membership)
            host.db.session.commit()
            assert again.reason is ConversionReason.already_converted
            assert (again.created, again.bonus_cents) == (False, 1000)
            assert again.conversion is conversion
            assert again.rewards == ((reward,) if membership == "mem_1" else ())
        reference = host.db.session.scalar(sa.select(host.Wallet.reference_id))
        assert uuid.UUID(str(reference)) == reward.id
    assert rows(host, referrer) == [("referral_bonus", 1000, 1000)]


def test_what_a_result_holds_is_what_the_database_holds(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: Reward(700, 300, campaign="spring"))
    referred = refer(host, host.add_user())
    with host.app.app_context():
        result = host.referral.convert(referred, "mem_1", metadata={"plan": "gold"})
        for entity in (result.conversion, *result.rewards):
            columns = sa.inspect(type(entity)).column_attrs
            shown = {column.key: getattr(entity, column.key) for column in columns}
            host.db.session.expire(entity)
            for name, value in shown.items():
                stored = getattr(entity, name)
                if hasattr(value, "tzinfo"):
                    value, stored = value.replace(tzinfo=None), stored.replace(tzinfo=None)
                assert stored == value, name


def test_it_joins_the_transaction_of_the_host(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    with host.app.app_context():
        host.db.session.add(host.User(name="an order"))
        host.referral.convert(referred, "mem_1")
        host.db.session.rollback()
    assert rows(host, referrer) == []
    models = host.referral.models
    for model in (models.ReferralConversion, models.ReferralReward, models.ReferralEvent):
        assert count(host, model) == 0
    assert pay(host, referred) == "converted"


def test_a_payment_that_earns_nothing_stores_nothing(make: MakeHost) -> None:
    host = make()
    referred = refer(host, host.add_user())
    assert pay(host, host.add_user()) == "not_referred"
    assert pay(host, referred, bonus_cents=0) == "no_bonus"
    assert count(host, host.referral.models.ReferralEvent) == 0
    assert pay(host, referred) == "converted"


def test_two_buyers_of_one_payment_earn_once(make: MakeHost) -> None:
    host = make()
    first, second = host.add_user(), host.add_user()
    assert pay(host, refer(host, first)) == "converted"
    assert pay(host, refer(host, second)) == "already_converted"
    assert (balance(host, first), rows(host, second)) == (1000, [])


def test_equal_ids_of_two_providers_are_two_payments(make: MakeHost) -> None:
    host = make(REFERRAL_RENEWALS=None)
    referrer = host.add_user()
    referred = refer(host, referrer)
    answers = [
        deliver(host, referred, provider=provider, id="pay_1")
        for provider in ("whop", "stripe", "whop", "stripe")
    ]
    assert answers == ["converted", "renewed", "already_converted", "already_converted"]
    assert balance(host, referrer) == 2000


# Renewals


@pytest.mark.parametrize(("renewals", "earning"), [(0, 1), (1, 2), (None, 5)])
def test_as_many_payments_earn_as_the_host_says(
    make: MakeHost, renewals: int | None, earning: int
) -> None:
    numbers: list[int] = []

    def policy(purchase: Purchase) -> int:
        numbers.append(purchase.number)
        assert (purchase.first_paid_at is None) == (purchase.number == 1)
        return 1000 // purchase.number

    host = make(REFERRAL_RENEWALS=renewals, reward_policy=policy)
    referrer = host.add_user()
    referred = refer(host, referrer)
    answers = [pay(host, referred, payment_id=f"pay_{number}") for number in range(1, 6)]
    paid = ["converted", "renewed", "renewed", "renewed", "renewed"]
    assert answers == paid[:earning] + ["already_converted"] * (5 - earning)
    assert numbers == [1, 2, 3, 4, 5][:earning]
    assert amounts(host, referrer) == [1000, 500, 333, 250, 200][:earning]
    assert [reward.number for reward in rewards(host)] == numbers
    assert count(host, host.referral.models.ReferralConversion) == 1
    answers = [pay(host, referred, payment_id=f"pay_{number}") for number in range(1, 6)]
    assert answers == ["already_converted"] * 5
    assert len(rewards(host)) == earning


def test_a_renewal_that_the_policy_gives_nothing_says_so(make: MakeHost) -> None:
    host = make(
        REFERRAL_RENEWALS=None,
        reward_policy=lambda purchase: 500 if purchase.number == 1 else 0,
    )
    referred = refer(host, host.add_user())
    assert pay(host, referred, payment_id="pay_1") == "converted"
    assert pay(host, referred, payment_id="pay_2") == "no_bonus"


def test_after_a_full_refund_the_next_payment_earns_as_the_first(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert pay(host, referred, payment_id="pay_1") == "converted"
    assert refund(host, payment_id="pay_1") == ("reversed", 1000, 0)
    assert pay(host, referred, payment_id="pay_2") == "converted"
    assert pay(host, referred, payment_id="pay_3") == "already_converted"
    assert balance(host, referrer) == 1000
    # A late refund of the first is not one of the second.
    assert refund(host, payment_id="pay_1", refund_id="late") == ("nothing_to_reverse", 0, 0)
    assert balance(host, referrer) == 1000
    assert [reward.number for reward in rewards(host)] == [1, 1]
    assert {reward.conversion_id for reward in rewards(host)} == {rewards(host)[0].id}


def test_both_sides_have_to_be_taken_back_before_a_user_earns_again(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: Reward(1000, 300))
    referrer = host.add_user()
    referred = refer(host, referrer)
    pay(host, referred, payment_id="pay_1")
    refund(host, payment_id="pay_1", refund_id="a", amount_cents=999)
    assert pay(host, referred, payment_id="pay_2") == "already_converted"
    refund(host, payment_id="pay_1", refund_id="b", amount_cents=1)
    assert pay(host, referred, payment_id="pay_3") == "converted"
    assert (balance(host, referrer), balance(host, referred)) == (1000, 300)


# Terms


def test_a_policy_decides_for_both_sides_alike(make: MakeHost) -> None:
    seen: list[Purchase] = []

    def policy(purchase: Purchase) -> Reward:
        seen.append(purchase)
        return Reward(referrer_cents=700, referred_cents=300, campaign="spring")

    host = make(reward_policy=policy)
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert pay(host, referred, paid_cents=5000, metadata={"plan": "gold"}) == "converted"
    (purchase,) = seen
    assert (purchase.referrer_id, purchase.referred_id) == (referrer, referred)
    assert (purchase.provider, purchase.payment_id) == ("host", "mem_1")
    assert (purchase.membership_id, purchase.metadata) == ("mem_1", {"plan": "gold"})
    assert (purchase.paid_cents, purchase.currency, purchase.paid_amount) == (5000, "usd", 50)
    assert rows(host, referrer) == [("referral_bonus", 700, 700)]
    assert rows(host, referred) == [("referral_bonus", 300, 300)]
    first, welcome = rewards(host)
    assert (first.role, first.cents, first.campaign) == ("referrer", 700, "spring")
    assert (welcome.role, welcome.cents, welcome.campaign) == ("referred", 300, "spring")
    assert first.conversion_id == welcome.conversion_id == first.id
    assert refund(host, refund_id="half", amount_cents=350) == ("reversed", 350, 0)
    assert (balance(host, referrer), balance(host, referred)) == (350, 150)
    assert refund(host, refund_id="rest") == ("reversed", 350, 0)
    assert (balance(host, referrer), balance(host, referred)) == (0, 0)


def test_a_policy_that_says_nothing_leaves_it_to_the_setting(make_sqlite: MakeHost) -> None:
    host = make_sqlite(reward_policy=lambda purchase: None, REFERRAL_BONUS_CENTS=123)
    referrer = host.add_user()
    assert pay(host, refer(host, referrer)) == "converted"
    assert balance(host, referrer) == 123


def test_a_bonus_for_the_referred_user_only(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: Reward(0, 300))
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert pay(host, referred, payment_id="pay_1") == "converted"
    assert [(row.role, row.cents) for row in rewards(host)] == [("referrer", 0), ("referred", 300)]
    assert (amounts(host, referrer), amounts(host, referred)) == ([], [300])
    assert refund(host, payment_id="pay_1") == ("reversed", 0, 0)
    assert [row.status for row in rewards(host)] == ["reversed", "reversed"]
    assert balance(host, referred) == 0
    assert pay(host, referred, payment_id="pay_2") == "converted"


NO_TERMS: t.Any = [
    -1,
    2**31,
    1.5,
    True,
    "10",
    Reward(10, -1),
    Reward(10, hold_days=-1),
    Reward(10, hold_days=True),
    Reward(10, hold_days=3651),
    Reward(10, campaign=""),
    Reward(10, campaign="a\0b"),
    Reward(10, campaign="x" * 256),
]


def test_terms_that_cannot_be_are_refused_before_anything_is_stored(make_sqlite: MakeHost) -> None:
    terms: list[t.Any] = []
    host = make_sqlite(reward_policy=lambda purchase: terms[-1])
    referred = refer(host, host.add_user())
    for reward in NO_TERMS:
        terms.append(reward)
        with pytest.raises(ReferralError, match=r"a whole number of cents|a reward_policy return"):
            pay(host, referred)
    assert count(host, host.referral.models.ReferralEvent) == 0


def test_a_payment_below_the_least_earns_nothing_and_says_so(make: MakeHost) -> None:
    host = make(REFERRAL_MIN_PAYMENT_CENTS=500, REFERRAL_RENEWALS=None)
    referred = refer(host, host.add_user())
    assert pay(host, referred, payment_id="a", paid_cents=499) == "no_bonus"
    assert pay(host, referred, payment_id="b", paid_cents=0, currency="jpy") == "no_bonus"
    assert pay(host, referred, payment_id="c", paid_cents=500) == "converted"
    # What it is worth is not known.
    assert pay(host, referred, payment_id="d", paid_cents=1, currency="jpy") == "renewed"
    assert pay(host, referred, payment_id="e") == "renewed"


def test_without_a_wallet_rewards_are_recorded(make: MakeHost) -> None:
    host = make(wallet=False)
    assert pay(host, refer(host, host.add_user())) == "converted"
    assert refund(host) == ("reversed", 1000, 0)
    assert [(row.status, row.reversed_cents) for row in rewards(host)] == [("reversed", 1000)]


# Accounts go, books stay


def test_a_deleted_buyer_never_leaves_a_bonus_behind(make: MakeHost) -> None:
    terms: list[Reward] = []
    host = make(reward_policy=lambda purchase: terms[-1])
    orders = ("buy delete refund", "buy refund delete", "refund buy delete")
    ways = itertools.product(orders, (0, 300), (True, False))
    for number, (order, welcome, names_payment) in enumerate(ways):
        terms.append(Reward(1000, welcome))
        referrer = host.add_user()
        referred = refer(host, referrer)
        of_payment = {"payment_id": f"pay_{number}"}
        of_refund = of_payment if names_payment else {}
        for step in order.split():
            if step == "buy":
                assert pay(host, referred, f"mem_{number}", **of_payment) == "converted"
            elif step == "refund":
                refund(host, f"mem_{number}", **of_refund)
            else:
                delete_user(host, referred)
                assert count(host, host.referral.models.ReferralConversion) == 0
        (reward,) = (row for row in rewards(host) if row.payment_id == f"pay_{number}")
        assert (reward.user_id, reward.cents, reward.reversed_cents) == (referrer, 1000, 1000)
        assert (reward.referred_user_id, reward.conversion_id) == (None, None)
        # What was delivered is delivered again.
        assert pay(host, referred, f"mem_{number}", **of_payment) == "already_converted"
        assert refund(host, f"mem_{number}", **of_refund) == ("already_reversed", 0, 0)
        assert balance(host, referrer) == 0


def test_a_key_that_is_registered_again_is_not_paid_for_again(make: MakeHost) -> None:
    host = make(key="str")
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert pay(host, referred, payment_id="pay_1") == "converted"
    delete_user(host, referred)
    with host.app.app_context():
        host.db.session.add(host.User(id=referred))
        host.db.session.flush()
        code = host.referral.get_or_create_code(referrer).code
        host.db.session.commit()
    with host.app.test_request_context():
        assert host.referral.attribute(referred, code=code).reason == "attributed"
        host.db.session.commit()
    assert pay(host, referred, payment_id="pay_1") == "already_converted"
    # A new person to the database.
    assert pay(host, referred, payment_id="pay_2") == "converted"
    assert balance(host, referrer) == 2000


def test_nothing_of_a_deleted_referrer_is_left(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: Reward(1000, 300))
    referrer = host.add_user()
    referred = refer(host, referrer)
    pay(host, referred)
    delete_user(host, referrer)
    assert [row.role for row in rewards(host)] == ["referred"]
    assert pay(host, referred) == "already_converted"
    assert pay(host, referred, payment_id="pay_2") == "not_referred"
    refund(host)
    assert balance(host, referred) == 0


# Statements


@pytest.mark.parametrize("welcome", [0, 300])
def test_a_credit_takes_three_statements_whoever_looks_at_the_result(
    make: MakeHost, welcome: int
) -> None:
    host = make(REFERRAL_RENEWALS=None, reward_policy=lambda purchase: Reward(1000, welcome))
    referred = refer(host, host.add_user())
    for number in range(3):
        with host.app.app_context(), host.statements() as seen:
            result = host.referral.convert(referred, "mem_1", payment_id=f"pay_{number}")
            assert result.created
            assert result.conversion is not None
            assert result.conversion.whop_membership_id == "mem_1"
            assert [row.number for row in result.rewards] == [number + 1] * (2 if welcome else 1)
            host.db.session.commit()
        # SQLite has no INSERT in a WITH, and no lock to take.
        on_sqlite = host.app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite")
        assert len(seen) <= 5 if on_sqlite else len(seen) == 3, seen


@pytest.mark.parametrize("welcome", [0, 300])
def test_a_wallet_with_defaults_of_the_hosts_code_gets_them(
    make_postgresql: MakeHost, welcome: int
) -> None:
    """The database does not know them, so its row is a statement of its own."""
    host = make_postgresql(reward_policy=lambda purchase: Reward(1000, welcome))
    drawn = iter(("first", "second"))
    sa.ColumnDefault(lambda: next(drawn))._set_parent_with_dispatch(host.Wallet.__table__.c.status)
    referred = refer(host, host.add_user())
    with host.app.app_context(), host.statements() as seen:
        assert host.referral.convert(referred, "mem_1").reason == "converted"
        host.db.session.commit()
        found = host.db.session.scalars(sa.select(host.Wallet.status).order_by(host.Wallet.id))
        assert found.all() == ["first", "second"][: 1 + bool(welcome)]
    assert len(seen) == 5


def test_a_payment_that_earns_nothing_takes_one_statement(make: MakeHost) -> None:
    host = make()
    stranger, referred = host.add_user(), refer(host, host.add_user())
    pay(host, referred, payment_id="pay_1")
    for user, reason in ((stranger, "not_referred"), (referred, "already_converted")):
        with host.app.app_context(), host.statements() as seen:
            result = host.referral.convert(user, "mem_1", payment_id="pay_2")
            assert result.reason.value == reason
            assert (result.conversion is None) == (user == stranger)
            host.db.session.commit()
        assert len(seen) == 1, seen


# A wallet that refuses


def forbid(host: Host) -> None:
    """Let the wallet refuse credits by a rule of its own, and a sale's order nothing."""
    with host.app.app_context(), host.db.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(
                "CREATE TRIGGER closed BEFORE INSERT ON wallet_transactions BEGIN "
                "SELECT RAISE(ABORT, 'the wallet is closed'); END"
            )
        else:
            connection.exec_driver_sql(
                "CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE EXCEPTION 'the wallet is closed' USING ERRCODE = 'PT402'; END $$;"
                "CREATE TRIGGER closed BEFORE INSERT ON wallet_transactions "
                "FOR EACH ROW EXECUTE FUNCTION closed()"
            )


def test_a_refused_credit_cannot_lose_the_order_silently(make: MakeHost) -> None:
    host = make()
    referred = refer(host, host.add_user())
    forbid(host)
    with host.app.app_context():
        host.db.session.add(host.User(name="an order"))
        with pytest.raises(WalletRefused, match=r"the wallet is closed.*store the order alone"):
            host.referral.convert(referred, "mem_1")
        with pytest.raises(WalletRefused):
            host.db.session.commit()
        host.db.session.rollback()
        assert host.db.session.scalar(sa.select(host.User.id).filter_by(name="an order")) is None
        host.db.session.add(host.User(name="an order"))
        host.db.session.commit()
    models = host.referral.models
    for model in (models.ReferralConversion, models.ReferralReward, models.ReferralEvent):
        assert count(host, model) == 0


def test_a_savepoint_around_a_refused_credit_saves_the_order(make: MakeHost) -> None:
    host = make()
    referred = refer(host, host.add_user())
    forbid(host)
    with host.app.app_context():
        session = host.db.session
        session.add(host.User(name="an order"))
        session.flush()
        with pytest.raises(WalletRefused), session.begin_nested():
            host.referral.convert(referred, "mem_1")
        session.commit()
        assert session.scalar(sa.select(host.User.id).filter_by(name="an order")) is not None
    assert rewards(host) == []
    assert count(host, host.referral.models.ReferralEvent) == 0


def test_a_savepoint_cannot_keep_half_of_a_refused_credit(make: MakeHost) -> None:
    host = make()
    referred = refer(host, host.add_user())
    forbid(host)
    with host.app.app_context():
        savepoint = host.db.session.begin_nested()
        with pytest.raises(WalletRefused):
            host.referral.convert(referred, "mem_1")
        with pytest.raises(WalletRefused):
            savepoint.commit()
        savepoint.rollback()
        host.db.session.commit()
    assert rewards(host) == []


def test_it_refuses_to_work_in_autocommit(make: MakeHost) -> None:
    host = make(SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "AUTOCOMMIT"})
    referrer = host.add_user()
    referred = refer(host, referrer)
    with pytest.raises(ReferralError, match="AUTOCOMMIT"):
        pay(host, referred)
    with pytest.raises(ReferralError, match="AUTOCOMMIT"):
        refund(host)
    assert count(host, host.referral.models.ReferralEvent) == 0
    assert rows(host, referrer) == []


def test_it_refuses_a_snapshot_that_hides_other_credits(make_postgresql: MakeHost) -> None:
    host = make_postgresql(SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "REPEATABLE READ"})
    referred = refer(host, host.add_user())
    with host.app.app_context():
        for _ in range(2):
            with pytest.raises(ReferralError, match="REPEATABLE READ"):
                host.referral.convert(referred, "mem_1")
            # The payment must not be taken for paid.
            with pytest.raises(ReferralError, match="REPEATABLE READ"):
                host.db.session.commit()
            host.db.session.rollback()
    assert count(host, host.referral.models.ReferralEvent) == 0


# Somebody moves the buyer to another referrer meanwhile


def move(host: Host, referred: t.Any, referrer: t.Any) -> None:
    """Bind a user's click to another referrer, in a transaction of its own."""
    models = host.referral.models
    with host.app.app_context(), host.db.engine.begin() as connection:
        code = sa.select(models.ReferralCode.code).where(models.ReferralCode.user_id == referrer)
        click = models.ReferralClick.__table__
        connection.execute(
            sa.update(click)
            .where(click.c.referred_user_id == referred)
            .values(referrer_user_id=referrer, referral_code=code.scalar_subquery())
        )


def test_the_bonus_goes_to_whom_the_buyer_is_bound_when_it_is_stored(make: MakeHost) -> None:
    moves: list[t.Callable[[], None]] = []

    def policy(purchase: Purchase) -> int:
        if moves:
            moves.pop()()
        return 100 + purchase.number

    host = make(reward_policy=policy)
    first, second = host.add_user(), host.add_user()
    refer(host, second)
    referred = refer(host, first)
    moves.append(lambda: move(host, referred, second))
    assert pay(host, referred) == "converted"
    assert (amounts(host, first), amounts(host, second)) == ([], [101])
    (reward,) = rewards(host)
    assert (reward.user_id, reward.status) == (second, "credited")
    assert pay(host, referred) == "already_converted"
    assert refund(host) == ("reversed", 101, 0)


def test_a_policy_that_fails_the_second_time_leaves_the_payment_to_be_paid(make: MakeHost) -> None:
    calls: list[int] = []
    host = make(reward_policy=lambda purchase: policy(purchase))
    first, second = host.add_user(), host.add_user()
    refer(host, second)
    referred = refer(host, first)

    def policy(purchase: Purchase) -> int:
        calls.append(1)
        if len(calls) == 1:
            move(host, referred, second)
        if len(calls) == 2:
            raise LookupError("no such plan")
        return 100

    with host.app.app_context():
        with pytest.raises(LookupError):
            host.referral.convert(referred, "mem_1")
        # What the host does with its order is its own affair.
        host.db.session.commit()
    assert rewards(host) == []
    assert pay(host, referred) == "converted"
    assert balance(host, second) == 100


def test_a_buyer_who_is_deleted_meanwhile_earns_nobody_anything(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: policy(purchase))
    referrer = host.add_user()
    referred = refer(host, referrer)

    def policy(purchase: Purchase) -> int:
        delete_user(host, referred)
        return 100

    assert pay(host, referred) == "not_referred"
    assert (rewards(host), amounts(host, referrer)) == ([], [])


# What is missing is taken from the next credits


@pytest.mark.parametrize("nets", [True, False])
def test_a_shortfall_is_taken_from_the_next_credits(make: MakeHost, nets: bool) -> None:
    host = make(positive_wallet=True, REFERRAL_NET_SHORTFALL=nets)
    referrer = host.add_user()
    pay(host, refer(host, referrer), "mem_1")
    withdraw(host, referrer, 900)
    assert refund(host, "mem_1") == ("reversed", 100, 900)
    pay(host, refer(host, referrer), "mem_2", bonus_cents=300)
    pay(host, refer(host, referrer), "mem_3", bonus_cents=1000)
    pay(host, refer(host, referrer), "mem_4", bonus_cents=50)
    first = rewards(host)[0]
    if not nets:
        assert amounts(host, referrer) == [1000, -900, -100, 300, 1000, 50]
        assert (first.reversed_cents, first.shortfall_cents) == (100, 900)
        return
    assert amounts(host, referrer) == [1000, -900, -100, 300, -300, 1000, -600, 50]
    assert (first.reversed_cents, first.shortfall_cents) == (1000, 0)
    with host.app.app_context():
        query = sa.select(host.Wallet.description, host.Wallet.reference_id, host.Wallet.type)
        told = host.db.session.execute(query.where(host.Wallet.amount_cents == -600)).one()
    assert told.description == "Referral bonus taken back, missing until now"
    assert (uuid.UUID(told.reference_id), told.type) == (first.id, "adjustment")


class Stop(BaseException):
    """As gevent's timeouts and a key press are: no Exception."""


@pytest.mark.parametrize("place", ["store", "count_since"])
def test_whatever_stops_a_conversion_leaves_no_claim_behind(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=5)
    referrer = host.add_user()
    buyer = refer(host, referrer)

    def stop(*args: t.Any, **options: t.Any) -> t.NoReturn:
        raise Stop

    with host.app.app_context():
        with monkeypatch.context() as patch:
            patch.setattr(f"flask_referral.conversions.convert.{place}", stop)
            with pytest.raises(Stop):
                host.referral.convert(buyer, "mem_1")
        with pytest.raises(Stop):
            host.db.session.commit()
        host.db.session.rollback()
    assert pay(host, buyer) == "converted"
    assert balance(host, referrer) == 1000


def test_another_buyers_rewards_are_nobody_elses_to_see(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    first, second = refer(host, referrer), refer(host, referrer)
    pay(host, first, "plan")
    with host.app.app_context():
        result = host.referral.convert(second, "plan")
        assert (result.reason, result.rewards, result.conversion) == ("already_converted", (), None)
        assert result.bonus_cents == 0


def test_a_column_that_nobody_fills_is_named_and_the_order_is_safe(make: MakeHost) -> None:
    host = make()
    execute(host, *no_room(host))
    buyer = refer(host, host.add_user())
    with host.app.app_context():
        host.db.session.add(host.User(name="order"))
        with pytest.raises(WalletRefused, match="currency"), host.db.session.begin_nested():
            host.referral.convert(buyer, "mem_1")
        host.db.session.commit()
        assert host.db.session.scalar(sa.select(host.User).filter_by(name="order"))


def no_room(host: Host) -> tuple[str, ...]:
    """Return what makes a wallet want a column that credits do not fill."""
    with host.app.app_context():
        if host.db.engine.dialect.name == "postgresql":
            return ("ALTER TABLE wallet_transactions ADD COLUMN currency text NOT NULL",)
    return (
        "CREATE TRIGGER no_room BEFORE INSERT ON wallet_transactions "
        "BEGIN SELECT RAISE(ABORT, 'currency is missing'); END",
    )
