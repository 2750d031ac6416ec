"""Histories that Hypothesis invents, step by step compared with :mod:`tests.proof.model`."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import decimal
import typing as t
from fractions import Fraction

import hypothesis
import hypothesis.stateful
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from hypothesis.stateful import invariant
from hypothesis.stateful import precondition
from hypothesis.stateful import rule

from flask_referral.clock import as_utc
from flask_referral.conversions import facts
from flask_referral.conversions import maturity
from flask_referral.conversions import reversals
from flask_referral.errors import ReferralError
from flask_referral.results import Purchase
from flask_referral.results import Reward

from ..hosts import Host
from ..money import transaction
from ..visiting import browser
from ..visiting import Clock
from ..visiting import COOKIE
from ..visiting import make_code
from . import model
from .audit import audit
from .model import Ambiguous
from .model import Answer
from .model import Fact
from .model import Model
from .model import Part
from .model import Program
from .sales import deliver
from .sales import listen

WINDOW = dt.timedelta(days=30)
#: Few, so that they meet.
MEMBERSHIPS = ("mem_0", "mem_1", "mem_2")
PAYMENTS = ("pay_0", "pay_1", None)
IDS = ("a", "b")

PROGRAMS = (
    Program(positive=True, renewals=2),
    Program(positive=True, renewals=None, net_shortfall=False, key="str"),
    Program(velocity_limit=1, key="str"),
    Program(velocity_limit=1, renewals=2, hold_days=7, positive=True, key="uuid"),
    Program(renewals=None, hold_days=7),
    Program(velocity_limit=2, hold_days=7, positive=True),
)

index = st.integers(0, 8)
cents = st.one_of(st.sampled_from((0, 1, 999, 1000)), st.integers(0, 1200))
mostly = st.sampled_from((True, True, True, False))
membership = st.sampled_from(MEMBERSHIPS)
payment = st.sampled_from(PAYMENTS)
# Equal ids of two providers, but mostly one's.
shop = st.sampled_from(("json", "json", "json", "shop"))
provider = st.sampled_from(("json", "json", "host", "shop"))
reward = st.builds(Reward, cents, cents, st.sampled_from((None, None, None, 0, 3)))
# The amount in minor units, and its currency.
paid = st.sampled_from(
    ((None, None), (2000, None), (2000, "usd"), (3000, "jpy"), (1999, "eur"), (0, "usd"))
)
# As a provider tells it, which may convert it into dollars itself.
charged = st.sampled_from(
    (
        (None, None, None),
        (2000, "usd", None),
        (2000, None, None),
        (3000, "jpy", None),
        (3000, "jpy", 2000),
        (1999, "eur", 2150),
        (0, "usd", None),
    )
)
share = st.one_of(
    st.sampled_from((Fraction(1, 3), Fraction(1, 2), Fraction(2, 3))),
    st.builds(Fraction, st.integers(1, 30), st.integers(3, 30)),
)
# A payment that earned something, or any names.
about = st.one_of(st.integers(0, 8), st.tuples(provider, payment, membership))
by = st.sampled_from(("payment", "membership", "both"))
part_of_bonus = st.one_of(st.sampled_from((None, 1, 400, 600)), st.integers(1, 1500))
fact_id = st.sampled_from((*IDS, *IDS, None))


class World:
    """One host, for one history after the other."""

    def __init__(self, build: t.Callable[..., Host], clock: Clock, program: Program) -> None:
        self.clock = clock
        # Noon, so that a day ends sooner than 24 hours later; cookies know whole seconds.
        self.start = clock().replace(hour=12, microsecond=0)
        self.reward = Reward(0)
        self.asked: Purchase | None = None
        self.program = program
        self.host = listen(
            build(
                key=program.key,
                positive_wallet=program.positive,
                reward_policy=self.policy,
                REFERRAL_HOLD_DAYS=program.hold_days,
                REFERRAL_VELOCITY_LIMIT=program.velocity_limit,
                REFERRAL_RENEWALS=program.renewals,
                REFERRAL_NET_SHORTFALL=program.net_shortfall,
            )
        )
        with self.host.app.app_context():
            engine = self.host.db.engine
            if engine.dialect.name == "sqlite":
                # Accounts are deleted; as hosts do it, once those of the migrations are closed.
                sa.event.listen(engine, "connect", _switch_foreign_keys_on)
                engine.dispose()

    def policy(self, purchase: Purchase) -> Reward:
        self.asked = purchase
        return self.reward


def _switch_foreign_keys_on(connection: t.Any, record: t.Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


class Referrals(hypothesis.stateful.RuleBasedStateMachine):
    """One history: users, visits, payments, refunds, disputes, time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.clock = world.clock
        self.clock.time = world.start
        self.host = world.host
        self.model = Model(world.program)
        self.users: list[t.Any] = []
        #: keys of deleted users
        self.gone: list[t.Any] = []
        self.codes: dict[t.Any, str] = {}
        self.visits: list[tuple[t.Any, str, dt.datetime]] = []
        self.deliveries: list[tuple[str, dict[str, t.Any]]] = []
        self.steps = 0

    @initialize()
    def begin(self) -> None:
        # The referred ones first, since Hypothesis likes small numbers; one of them has
        # referred another.
        for _ in range(6):
            self.add_user()
        for number, referrer in enumerate((4, 4, 4, 0)):
            self.type_code(number, referrer)
        for number in range(2):
            self.buy(
                number, "json", None, MEMBERSHIPS[number], Reward(1000, 333), (None, None), True
            )

    def teardown(self) -> None:
        with self.host.app.app_context():
            for table in reversed(self.host.db.metadata.sorted_tables):
                if table is not self.host.referral.models.version_table:
                    self.host.db.session.execute(sa.delete(table))
            self.host.db.session.commit()

    # People

    def add_user(self, **values: t.Any) -> t.Any:
        user = self.host.add_user(created_at=self.clock(), **values)
        self.users.append(user)
        # SQLite gives the number of the last row that was deleted again.
        self.gone = [one for one in self.gone if one != user]
        self.codes[user] = make_code(self.host, user)
        return user

    # Not too often, since much ends with it.
    @precondition(lambda self: len(self.users) > 3 and self.steps % 4 == 0)
    @rule(number=index)
    def delete_user(self, number: int) -> None:
        user = self.users.pop(number % len(self.users))
        with self.host.app.app_context():
            table = self.host.User.__table__
            self.host.db.session.execute(sa.delete(table).where(table.c.id == user))
            self.host.db.session.commit()
        self.gone.append(user)
        self.visits = [visit for visit in self.visits if visit[0] != user]
        self.model.delete(user)

    @precondition(lambda self: self.gone and len(self.users) < 9)
    @rule(number=index)
    def register_again(self, number: int) -> None:
        """As somebody new, with the key of an account that is gone."""
        self.add_user(id=self.gone[number % len(self.gone)])

    @precondition(lambda self: len(self.visits) < 4)
    @rule(number=index)
    def visit(self, number: int) -> None:
        referrer = self.users[number % len(self.users)]
        client = browser(self.host)
        client.environ_base["HTTP_USER_AGENT"] += f" {len(self.visits)}"
        client.get(f"/r/{self.codes[referrer]}")
        cookie = client.get_cookie(COOKIE)
        assert cookie is not None
        self.visits.append((referrer, cookie.value, self.clock()))

    @precondition(lambda self: self.visits and len(self.users) < 9)
    @rule(number=st.integers(0, 3))
    def sign_up(self, number: int) -> None:
        referrer, cookie, at = self.visits[number % len(self.visits)]
        user = self.add_user()
        with self.host.app.test_request_context(headers={"Cookie": f"{COOKIE}={cookie}"}):
            result = self.host.referral.attribute(user)
            self.host.db.session.commit()
        if at - dt.timedelta(minutes=1) <= self.clock() <= at + WINDOW:
            assert result.reason == "attributed"
            self.bind(user, referrer)
        else:
            assert result.reason == "window_over"

    @rule(user=index, referrer=index)
    def type_code(self, user: int, referrer: int) -> None:
        user, referrer = (self.users[one % len(self.users)] for one in (user, referrer))
        with self.host.app.test_request_context():
            result = self.host.referral.attribute(user, code=self.codes[referrer])
            self.host.db.session.commit()
        if user in self.model.referrers:
            assert result.reason == "already_attributed"
            assert result.referrer_id == self.model.referrers[user]
        elif user == referrer:
            assert result.reason == "self_referral"
        elif result.reason == "attributed":
            self.bind(user, referrer)
        elif self.model.referrers.get(referrer) == user:
            assert result.reason in ("circular", "existing_account")
        else:
            assert result.reason == "existing_account"

    def bind(self, user: t.Any, referrer: t.Any) -> None:
        with self.host.app.app_context():
            bound = sa.select(self.host.referral.models.ReferralClick.id).filter_by(
                referred_user_id=user
            )
            click = self.host.db.session.scalars(bound).one()
        self.model.bind(user, referrer, click, self.clock())
        # Of equal moments the click's id decides, which is random.
        self.clock.turn(microseconds=1)

    # Money

    @rule(
        user=index,
        provider=provider,
        payment=payment,
        membership=membership,
        reward=reward,
        paid=paid,
        commit=mostly,
    )
    def buy(
        self,
        user: int,
        provider: str,
        payment: str | None,
        membership: str,
        reward: Reward,
        paid: tuple[int | None, str | None],
        commit: bool,
    ) -> None:
        cents, currency = paid
        key = self._buyer(user)
        model = self._model(commit)
        expected = self._convert(
            model, key, (provider, payment or membership), membership, paid, reward
        )
        with self.host.app.app_context():
            result = self.host.referral.convert(
                key,
                membership,
                payment_id=payment,
                provider=provider,
                paid_cents=cents,
                currency=currency,
            )
            assert (result.reason, result.bonus_cents) == expected
            assert {row.role for row in result.rewards} == {
                one.role
                for one in model.of_payment((provider, payment or membership))
                if one.referred in (None, key)
            }
            self._end(commit)
        self._check_what_the_policy_was_told(model, paid)

    @rule(
        user=index,
        provider=shop,
        payment=payment,
        membership=membership,
        reward=reward,
        charged=charged,
    )
    def deliver_purchase(
        self,
        user: int,
        provider: str,
        payment: str | None,
        membership: str,
        reward: Reward,
        charged: tuple[int | None, str | None, int | None],
    ) -> None:
        cents, currency, converted = charged
        key = self._buyer(user)
        name = (provider, payment or membership)
        expected = "no_money"
        if cents == 0:
            self.world.asked = self.model.asked = None
        else:
            expected, _ = self._convert(
                self.model, key, name, membership, (cents, currency), reward, converted
            )
        outcome = self._deliver(
            provider,
            kind="purchase",
            payment_id=payment,
            membership_id=membership,
            user=str(key),
            amount_cents=cents,
            currency=currency,
            converted_cents=converted,
            converted_currency=None if converted is None else "USD",
        )
        assert outcome == expected
        self._check_what_the_policy_was_told(self.model, (cents, currency), converted)

    @rule(about=about, by=by, id=fact_id, part=part_of_bonus, commit=mostly)
    def refund(self, about: t.Any, by: str, id: str | None, part: int | None, commit: bool) -> None:
        provider, payment, membership = self._named(about)
        if by == "membership":
            payment = None
        fact = Fact(provider, payment, membership, "refund", id, part, self.clock())
        model = self._model(commit)
        expected = self._report(model, fact)
        with self.host.app.app_context():
            try:
                result = self.host.referral.reverse(
                    membership,
                    reason="refund",
                    payment_id=payment,
                    provider=provider,
                    refund_id=id,
                    amount_cents=part,
                )
            except ReferralError as error:
                assert "pass refund_id" in str(error)
                assert expected is None
                self.host.db.session.rollback()
                return
            self._end(commit)
        assert (result.reason, result.reversed_cents, result.shortfall_cents) == expected

    @rule(about=about, by=by, id=st.sampled_from(IDS), part=st.one_of(st.none(), share))
    def deliver_refund(self, about: t.Any, by: str, id: str, part: Fraction | None) -> None:
        self._deliver_fact(self._fact(about, by, "refund", id, part))

    @rule(
        about=about,
        by=by,
        id=fact_id,
        won=st.booleans(),
        hours=st.integers(-2, 2),
        is_dated=st.booleans(),
    )
    def dispute(
        self, about: t.Any, by: str, id: str | None, won: bool, hours: int, is_dated: bool
    ) -> None:
        """In the order in which they arrive, or in that of the provider's own clock."""
        fact = self._fact(about, by, "dispute_won" if won else "dispute_opened", id, None)
        if is_dated:
            fact.at += dt.timedelta(hours=hours)
        if id is not None:
            # What is still to come counts as of now.
            fact.at = min(fact.at, self.clock())
            self._deliver_fact(fact, occurred_at=fact.at.isoformat())
            return
        expected = self._report(self.model, fact)
        with self.host.app.app_context():
            outcome = reversals.apply(
                transaction(self.host),
                facts.Fact(
                    kind=facts.Kind(fact.kind),
                    provider=fact.provider,
                    payment_id=fact.payment,
                    membership_id=fact.membership,
                    occurred_at=fact.at,
                ),
            )
            self.host.db.session.commit()
        assert (outcome.reason, outcome.cents, outcome.shortfall_cents) == expected

    @precondition(lambda self: self.deliveries)
    @rule(number=st.integers(0, 99))
    def redeliver(self, number: int) -> None:
        provider, fields = self.deliveries[number % len(self.deliveries)]
        assert deliver(self.host, provider, **fields) == "duplicate"

    @precondition(lambda self: self.model.rewards)
    @rule(number=index)
    def release(self, number: int) -> None:
        reward = self.model.rewards[number % len(self.model.rewards)]
        expected = self.model.release(reward, self.clock())
        with self.host.app.app_context():
            try:
                maturity.release(transaction(self.host), self._id(reward), self.clock())
                released = True
            except ReferralError:
                released = False
            self.host.db.session.commit()
        assert released == expected

    @precondition(lambda self: self.model.rewards)
    @rule(number=index)
    def void(self, number: int) -> None:
        reward = self.model.rewards[number % len(self.model.rewards)]
        expected = self.model.void(reward)
        with self.host.app.app_context():
            try:
                outcome = maturity.void(transaction(self.host), self._id(reward), self.clock())
            except ReferralError:
                assert expected is None
                self.host.db.session.rollback()
                return
            self.host.db.session.commit()
        assert (outcome.reason, outcome.cents, outcome.shortfall_cents) == expected

    @precondition(lambda self: self.model.next_due() is not None)
    @rule(waits=st.booleans())
    def mature(self, waits: bool) -> None:
        if waits:
            self.clock.time = max(self.clock(), t.cast(dt.datetime, self.model.next_due()))
        with self.host.app.app_context():
            credited = 0
            while (
                done := maturity.mature(transaction(self.host), self.clock(), batch=2)
            ) is not None:
                self.host.db.session.commit()
                credited += done
        assert credited == self.model.mature(self.clock())

    @rule(hours=st.one_of(st.integers(1, 24), st.integers(24, 24 * 40), st.integers(-12, -1)))
    def turn_clock(self, hours: int) -> None:
        self.clock.turn(hours=hours)

    @rule(number=index, amount=st.one_of(st.none(), st.none(), st.integers(-1500, 1500)))
    def host_books(self, number: int, amount: int | None) -> None:
        """Book something of the host's; None: who got a bonus spends all there is."""
        earners = sorted({one.user for one in self.model.rewards}, key=str) or self.users
        key = earners[number % len(earners)]
        balance = self.model.balances.get(key, 0)
        amount = -balance if amount is None else amount
        if self.model.program.positive:
            amount = max(amount, -balance)
        if amount == 0:
            return
        with self.host.app.app_context():
            type_ = "deal_payment" if amount > 0 else "withdrawal"
            row = self.host.Wallet(user_id=key, amount_cents=amount, type=type_)
            self.host.db.session.add(row)
            self.host.db.session.commit()
        self.model.balances[key] = balance + amount

    # What has to be true

    @invariant()
    def all_is_well(self) -> None:
        with self.host.app.app_context():
            found = audit(self.host.db.session, self.host)
        expected = {one.key: one for one in self.model.rewards}
        assert set(found.rewards) == set(expected)
        for key, reward in expected.items():
            row = found.rewards[key]
            assert reward.id in (None, row.id)
            reward.id = row.id
            assert _state(row) == dataclasses.replace(reward, in_review=False, voided=False), (
                f"\n{row}\n{reward}"
            )
        assert {
            user: (row.referrer_user_id, row.bonus_cents) for user, row in found.conversions.items()
        } == self.model.conversions
        assert found.balances == {
            user: cents for user, cents in self.model.balances.items() if user in found.balances
        }
        assert not any(
            cents for user, cents in self.model.balances.items() if user not in found.balances
        )

    @invariant()
    def statistics_are_right(self) -> None:
        """Of one referrer after each step, in turns."""
        self.steps += 1
        referrers = sorted({one.user for one in self.model.rewards}, key=str)
        for referrer in referrers[self.steps % max(1, len(referrers)) :][:1]:
            with self.host.app.test_request_context():
                totals = dataclasses.asdict(self.host.referral.stats(referrer).totals)
            del totals["clicks"]
            assert totals == self.model.stats(referrer)

    # Helpers

    def _buyer(self, number: int) -> t.Any:
        """Return a user's key; now and then of an account that was deleted."""
        keys = self.users + self.gone[:1]
        return keys[number % len(keys)]

    def _named(self, about: t.Any) -> tuple[str, str | None, str]:
        """Return a provider, a payment and a membership."""
        if isinstance(about, tuple):
            return t.cast(t.Any, about)
        if not self.model.rewards:
            return "json", PAYMENTS[0], MEMBERSHIPS[0]
        reward = self.model.rewards[about % len(self.model.rewards)]
        return (*reward.payment, reward.membership)

    def _fact(self, about: t.Any, by: str, kind: str, id: str | None, part: Part) -> Fact:
        """Return what a provider can tell."""
        provider, payment, membership = self._named(about)
        provider = "json" if provider == "host" else provider
        if by == "membership" or payment is None:
            return Fact(provider, None, membership, kind, id, part, self.clock())
        known = None if by == "payment" else membership
        return Fact(provider, payment, known, kind, id, part, self.clock())

    def _convert(
        self,
        model: Model,
        user: t.Any,
        payment: model.Payment,
        membership: str,
        paid: tuple[int | None, str | None],
        reward: Reward,
        converted: int | None = None,
    ) -> tuple[str, int]:
        self.world.reward, self.world.asked = reward, None
        cents, currency = paid
        usd = cents if currency in (None, "usd") else converted
        return model.convert(
            user,
            payment,
            membership,
            usd,
            reward.referrer_cents,
            reward.referred_cents,
            reward.hold_days,
            self.clock(),
        )

    def _check_what_the_policy_was_told(
        self,
        model: Model,
        paid: tuple[int | None, str | None],
        converted: int | None = None,
    ) -> None:
        told = self.world.asked
        assert (told is None) == (model.asked is None)
        if told is None:
            return
        cents, currency = paid[0], paid[1] or "usd"
        assert (told.number, told.first_paid_at) == model.asked
        if cents is None:
            assert (told.paid_cents, told.paid_amount) == (None, None)
            return
        assert told.paid_cents == (cents if currency == "usd" else converted)
        assert told.paid_amount == decimal.Decimal(cents) / (1 if currency == "jpy" else 100)
        assert told.currency == currency

    def _report(self, model: Model, fact: Fact) -> Answer | None:
        """Return the model's answer; None where it refuses."""
        try:
            return model.report(fact)
        except Ambiguous:
            return None

    def _deliver_fact(self, fact: Fact, **fields: t.Any) -> None:
        if isinstance(fact.part, Fraction):
            fields |= {"amount_cents": fact.part.numerator, "total_cents": fact.part.denominator}
        expected = self._report(self.model, fact)
        assert expected is not None
        outcome = self._deliver(
            fact.provider,
            kind=fact.kind,
            payment_id=fact.payment,
            membership_id=fact.membership,
            reference=fact.id,
            **fields,
        )
        assert outcome == expected[0]

    def _deliver(self, provider: str, **fields: t.Any) -> str:
        # Two providers count their events alike.
        fields["id"] = f"event_{[name for name, _ in self.deliveries].count(provider)}"
        self.deliveries.append((provider, fields))
        return deliver(self.host, provider, **fields)

    def _mature_two(self) -> int | None:
        return maturity.mature(transaction(self.host), self.clock(), batch=2)

    def _model(self, commit: bool) -> Model:
        return self.model if commit else copy.deepcopy(self.model)

    def _end(self, commit: bool) -> None:
        if commit:
            self.host.db.session.commit()
        else:
            self.host.db.session.rollback()

    def _id(self, reward: model.Reward) -> t.Any:
        assert reward.id is not None
        return reward.id


def _state(row: t.Any) -> model.Reward:
    """Return a row of referral_rewards as the model has it."""
    return model.Reward(
        payment=(row.provider, row.payment_id),
        membership=row.membership_id,
        role=row.role,
        user=row.user_id,
        referred=row.referred_user_id,
        number=row.number,
        cents=row.cents,
        status=row.status,
        available_at=row.available_at and as_utc(row.available_at),
        created_at=as_utc(row.created_at),
        has_conversion=row.conversion_id is not None,
        reversed=row.reversed_cents,
        shortfall=row.shortfall_cents,
        id=row.id,
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
@pytest.mark.parametrize(
    ("database", "examples", "steps"),
    [
        ("sqlite", 25, 20),
        pytest.param("sqlite", 250, 20, marks=pytest.mark.deep),
        pytest.param("postgresql", 100, 20, marks=pytest.mark.deep),
    ],
)
def test_any_history(
    request: pytest.FixtureRequest,
    clock: Clock,
    program: Program,
    database: str,
    examples: int,
    steps: int,
) -> None:
    world = World(request.getfixturevalue(f"make_{database}"), clock, program)
    is_short = request.node.get_closest_marker("deep") is None
    hypothesis.stateful.run_state_machine_as_test(
        lambda: Referrals(world),
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            # The short run is the same everywhere; the deep one looks for what is new.
            derandomize=is_short,
            database=None,
            print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
