"""Histories that Hypothesis invents, step by step compared with :mod:`tests.proof.model`."""

from __future__ import annotations

import copy
import datetime as dt
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

from flask_referral.conversions import maturity
from flask_referral.errors import ReferralError
from flask_referral.results import Reward

from ..hosts import Host
from ..visiting import browser
from ..visiting import Clock
from ..visiting import COOKIE
from ..visiting import make_code
from .audit import audit
from .model import Conversion
from .model import Model
from .model import Program
from .writer import read_json

WINDOW = dt.timedelta(days=30)
#: Few, so that they meet.
MEMBERSHIPS = tuple(f"mem_{number}" for number in range(4))
IDS = ("a", "b")

PROGRAMS = (
    Program(hold_days=0, velocity_limit=None, positive=True),
    Program(hold_days=0, velocity_limit=1, positive=False),
    Program(hold_days=7, velocity_limit=None, positive=False),
    Program(hold_days=7, velocity_limit=1, positive=True),
)

index = st.integers(0, 8)
cents = st.one_of(st.sampled_from((0, 1, 999, 1000)), st.integers(0, 1200))
mostly = st.sampled_from((True, True, True, False))
membership = st.sampled_from(MEMBERSHIPS)
refund_part = st.one_of(
    st.sampled_from((None, 1, 400, 600, Fraction(1, 3), Fraction(1, 2), Fraction(2, 3))),
    st.integers(1, 1500),
    st.builds(Fraction, st.integers(1, 30), st.integers(3, 30)),
)


class World:
    """One host, for one history after the other."""

    def __init__(self, build: t.Callable[..., Host], clock: Clock, program: Program) -> None:
        self.clock = clock
        # Noon, so that a day ends sooner than 24 hours later; cookies know whole seconds.
        self.start = clock().replace(hour=12, microsecond=0)
        self.reward = Reward(0)
        self.program = program
        self.host = build(
            positive_wallet=program.positive,
            reward_policy=lambda purchase: self.reward,
            REFERRAL_HOLD_DAYS=program.hold_days,
            REFERRAL_VELOCITY_LIMIT=program.velocity_limit,
        )
        self.host.referral.webhook("json")(read_json)


class Referrals(hypothesis.stateful.RuleBasedStateMachine):
    """One history: users, visits, purchases, refunds, disputes, time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.clock = world.clock
        self.clock.time = world.start
        self.host = world.host
        self.model = Model(world.program)
        self.users: list[t.Any] = []
        self.codes: dict[t.Any, str] = {}
        self.visits: list[tuple[t.Any, str, dt.datetime]] = []
        self.deliveries: list[dict[str, t.Any]] = []

    @initialize()
    def begin(self) -> None:
        # The referred ones first, since Hypothesis likes small numbers; one of them has
        # referred another.
        for _ in range(6):
            self.add_user()
        for number, referrer in enumerate((4, 4, 4, 0)):
            self.type_code(number, referrer)
        for number in range(2):
            self._buy(number, MEMBERSHIPS[number], Reward(1000, 333), commit=True)

    def teardown(self) -> None:
        with self.host.app.app_context():
            for table in reversed(self.host.db.metadata.sorted_tables):
                if table is not self.host.referral.models.version_table:
                    self.host.db.session.execute(sa.delete(table))
            self.host.db.session.commit()

    # People

    def add_user(self) -> t.Any:
        user = self.host.add_user(created_at=self.clock())
        self.users.append(user)
        self.codes[user] = make_code(self.host, user)
        return user

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
            reason = self.host.referral.attribute(user).reason
            self.host.db.session.commit()
        if at - dt.timedelta(minutes=1) <= self.clock() <= at + WINDOW:
            assert reason == "attributed"
            self.model.referrers[user] = referrer
        else:
            assert reason == "window_over"

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
            self.model.referrers[user] = referrer
        else:
            assert result.reason == "existing_account"

    # Money

    @rule(user=index, membership=membership, bonus=cents, own=cents, commit=mostly)
    def buy(self, user: int, membership: str, bonus: int, own: int, commit: bool) -> None:
        self._buy(user, membership, Reward(bonus, own), commit=commit)

    def _buy(self, user: int, membership: str, reward: Reward, *, commit: bool) -> None:
        key = self.users[user % len(self.users)]
        self.world.reward = reward
        model = self._model(commit)
        with self.host.app.app_context():
            result = self.host.referral.convert(key, membership)
            self._end(commit)
            expected = model.convert(
                key, membership, reward.referrer_cents, reward.referred_cents, self.clock()
            )
            assert (result.reason, result.bonus_cents) == expected

    @rule(membership=membership, id=st.sampled_from(IDS), part=refund_part, commit=mostly)
    def refund(self, membership: str, id: str, part: int | Fraction | None, commit: bool) -> None:
        if isinstance(part, Fraction):
            self._deliver(
                kind="refund",
                membership_id=membership,
                reference=id,
                amount_cents=part.numerator,
                total_cents=part.denominator,
            )
            return
        model = self._model(commit)
        with self.host.app.app_context():
            result = self.host.referral.reverse(
                membership, reason="refund", refund_id=id, amount_cents=part
            )
            self._end(commit)
        answer = (result.reason, result.reversed_cents, result.shortfall_cents)
        assert answer == model.refund(membership, id, part)

    @rule(membership=membership, id=st.sampled_from(IDS), won=st.booleans())
    def dispute(self, membership: str, id: str, won: bool) -> None:
        kind = "dispute_won" if won else "dispute_opened"
        self._deliver(kind=kind, membership_id=membership, reference=id, amount_cents=100)

    @rule(user=index, membership=membership, bonus=cents)
    def deliver_purchase(self, user: int, membership: str, bonus: int) -> None:
        self.world.reward = Reward(bonus)
        key = self.users[user % len(self.users)]
        self._deliver(kind="purchase", membership_id=membership, user=key, amount_cents=500)

    @precondition(lambda self: self.deliveries)
    @rule(number=st.integers(0, 99))
    def redeliver(self, number: int) -> None:
        fields = self.deliveries[number % len(self.deliveries)]
        assert self._post(fields) == "duplicate"

    @rule(number=index)
    def release(self, number: int) -> None:
        conversion = self.model.conversions[number % len(self.model.conversions)]
        expected = self.model.release(conversion, self.clock())
        with self.host.app.app_context():
            try:
                maturity.release(self._ledger(), self._id(conversion), self.clock())
                released = True
            except ReferralError:
                released = False
            self.host.db.session.commit()
        assert released == expected

    @rule(number=index)
    def void(self, number: int) -> None:
        conversion = self.model.conversions[number % len(self.model.conversions)]
        expected = self.model.void(conversion)
        with self.host.app.app_context():
            try:
                result = maturity.void(self._ledger(), self._id(conversion))
            except ReferralError:
                assert expected is None
                self.host.db.session.rollback()
                return
            self.host.db.session.commit()
        assert (result.reason, result.reversed_cents, result.shortfall_cents) == expected

    @precondition(lambda self: self.model.next_due() is not None)
    @rule(waits=st.booleans())
    def mature(self, waits: bool) -> None:
        if waits:
            self.clock.time = max(self.clock(), t.cast(dt.datetime, self.model.next_due()))
        with self.host.app.app_context():
            ledger = self._ledger()
            credited = 0
            while (done := maturity.mature(ledger, self.clock(), batch=2)) is not None:
                self.host.db.session.commit()
                credited += done
        assert credited == self.model.mature(self.clock())

    @rule(hours=st.one_of(st.integers(1, 24), st.integers(24, 24 * 40), st.integers(-12, -1)))
    def turn_clock(self, hours: int) -> None:
        self.clock.turn(hours=hours)

    @rule(number=index, amount=st.one_of(st.none(), st.integers(-1500, 1500)))
    def host_books(self, number: int, amount: int | None) -> None:
        """Book something of the host's; None: who got a bonus spends all there is."""
        conversion = self.model.conversions[number % len(self.model.conversions)]
        key = conversion.referrer
        balance = self.model.balances.get(key, 0)
        amount = -balance if amount is None else amount
        if self.model.positive:
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
        assert found.states == sorted(one.state() for one in self.model.conversions)
        assert found.balances == {
            user: cents for user, cents in self.model.balances.items() if user in found.balances
        }
        assert not any(
            cents for user, cents in self.model.balances.items() if user not in found.balances
        )

    # Helpers

    def _deliver(self, **fields: t.Any) -> None:
        fields["id"] = f"event_{len(self.deliveries)}"
        self.deliveries.append(fields)
        membership, reference = fields["membership_id"], fields.get("reference", "")
        if fields["kind"] == "purchase":
            reward = self.world.reward
            expected = self.model.convert(
                fields["user"],
                membership,
                reward.referrer_cents,
                reward.referred_cents,
                self.clock(),
            )[0]
        elif fields["kind"] == "refund":
            part = Fraction(fields["amount_cents"], fields["total_cents"])
            expected = self.model.refund(membership, reference, part)[0]
        else:
            won = fields["kind"] == "dispute_won"
            expected = self.model.dispute(membership, reference, won)[0]
        assert self._post(fields) == expected

    def _post(self, fields: dict[str, t.Any]) -> str:
        response = self.host.client().post("/api/referral/webhooks/json", json=fields)
        assert response.status_code == 200, response.get_data(as_text=True)
        outcome: str = response.get_json()["outcome"]
        return outcome

    def _model(self, commit: bool) -> Model:
        return self.model if commit else copy.deepcopy(self.model)

    def _end(self, commit: bool) -> None:
        if commit:
            self.host.db.session.commit()
        else:
            self.host.db.session.rollback()

    def _ledger(self) -> t.Any:
        return self.host.referral.state.ledger

    def _id(self, conversion: Conversion) -> t.Any:
        model = self.host.referral.models.ReferralConversion
        query = sa.select(model.id).filter_by(whop_membership_id=conversion.membership)
        return self.host.db.session.scalars(query).one()


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
@pytest.mark.parametrize(
    ("database", "examples", "steps"),
    [
        ("sqlite", 50, 30),
        pytest.param("sqlite", 500, 50, marks=pytest.mark.deep),
        pytest.param("postgresql", 150, 50, marks=pytest.mark.deep),
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
