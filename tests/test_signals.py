"""Signals: after the commit of what they tell, once, and never for what was rolled back."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import typing as t

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from flask_referral import clock
from flask_referral import signals
from flask_referral.conversions import maturity
from flask_referral.conversions import reversals
from flask_referral.conversions.facts import Fact
from flask_referral.conversions.facts import Kind
from flask_referral.results import Reward

from .conftest import MakeHost
from .conversions.test_convert import refer
from .hosts import Host
from .visiting import add_referrer
from .visiting import browser
from .visiting import Clock

ALL = (
    signals.code_created,
    signals.click_recorded,
    signals.user_attributed,
    signals.conversion_created,
    signals.conversion_credited,
    signals.conversion_reversed,
    signals.conversion_voided,
    signals.conversion_released,
    signals.conversion_reinstated,
)

Heard = list[tuple[str, dict[str, t.Any]]]


@pytest.fixture
def heard() -> t.Iterator[Heard]:
    """Return the list of what is heard: names without their prefix, and values."""
    found: Heard = []
    with contextlib.ExitStack() as stack:
        for signal in ALL:

            def hear(
                app: t.Any, name: str = signal.name.removeprefix("referral-"), **values: t.Any
            ) -> None:
                found.append((name, values))

            stack.enter_context(signal.connected_to(hear))
        yield found


@contextlib.contextmanager
def hearing(signal: t.Any, receiver: t.Callable[..., None]) -> t.Iterator[None]:
    with signal.connected_to(receiver):
        yield


def names(heard: Heard) -> list[str]:
    return [name for name, _ in heard]


@pytest.fixture
def host(make: MakeHost) -> Host:
    return make()


@pytest.fixture
def referred(host: Host) -> t.Any:
    return refer(host, host.add_user())


def test_code(host: Host, heard: Heard) -> None:
    first, second = host.add_user(), host.add_user()
    with host.app.app_context():
        host.referral.get_or_create_code(first)
        host.db.session.rollback()
        code = host.referral.get_or_create_code(first).code
        assert heard == []
        host.db.session.commit()
        host.referral.get_or_create_code(first)
        host.db.session.commit()
    assert heard == [("code-created", {"user_id": first, "code": code})]
    host.current_user = second
    code = host.client().post("/api/referral/generate").get_json()["code"]
    assert host.client().post("/api/referral/generate").get_json()["code"] == code
    assert heard[1:] == [("code-created", {"user_id": second, "code": code})]


def test_visit_and_sign_up(host: Host, heard: Heard) -> None:
    referrer, code = add_referrer(host)
    heard.clear()
    client = browser(host)
    client.get(f"/r/{code}")
    client.get(f"/r/{code}")
    assert names(heard) == ["click-recorded"]
    assert heard[0][1]["code"] == code
    user = host.add_user()
    for _ in range(2):
        with host.app.test_request_context():
            host.referral.attribute(user, code=code)
            assert names(heard)[1:] in ([], ["user-attributed"])
            host.db.session.commit()
    assert heard[1:] == [
        ("user-attributed", {"user_id": user, "referrer_id": referrer, "code": code})
    ]


def test_purchase_and_refunds(host: Host, referred: t.Any, heard: Heard) -> None:
    heard.clear()
    with host.app.app_context():
        for _ in range(2):
            conversion = host.referral.convert(referred, "mem_1").conversion
            host.db.session.commit()
        assert conversion is not None
        told = {"conversion_id": conversion.id, "referrer_id": conversion.referrer_user_id}
        assert heard == [
            (
                "conversion-created",
                told
                | {
                    "referred_id": referred,
                    "membership_id": "mem_1",
                    "status": "credited",
                    "bonus_cents": 1000,
                    "referred_bonus_cents": 0,
                },
            ),
            ("conversion-credited", told | {"bonus_cents": 1000}),
        ]
        heard.clear()
        for _ in range(2):
            host.referral.reverse("mem_1", reason="refund", refund_id="a", amount_cents=300)
            host.db.session.commit()
        ledger = host.referral.state.ledger
        for kind in (Kind.dispute_opened, Kind.dispute_won):
            reversals.apply(ledger, Fact(kind, "mem_1", "d"))
            host.db.session.commit()
        assert heard == [
            ("conversion-reversed", told | {"reversed_cents": 300, "shortfall_cents": 0}),
            ("conversion-reversed", told | {"reversed_cents": 700, "shortfall_cents": 0}),
            ("conversion-reinstated", told | {"credited_cents": 700}),
        ]


def test_before_maturity(make: MakeHost, heard: Heard, clock: Clock) -> None:
    host = make(REFERRAL_HOLD_DAYS=7, REFERRAL_VELOCITY_LIMIT=1)
    referrer = host.add_user()
    users = [refer(host, referrer) for _ in range(3)]
    heard.clear()
    with host.app.app_context():
        ledger = host.referral.state.ledger

        def said(what: t.Any) -> list[str]:
            heard.clear()
            what()
            assert heard == []
            host.db.session.commit()
            return names(heard)

        first, second, third = (
            host.referral.convert(user, f"mem_{user}").conversion for user in users
        )
        assert first is not None and second is not None and third is not None
        assert said(lambda: None) == ["conversion-created"] * 3
        membership = first.whop_membership_id
        opened, won = (
            Fact(kind, membership, "d") for kind in (Kind.dispute_opened, Kind.dispute_won)
        )
        assert said(lambda: reversals.apply(ledger, opened)) == ["conversion-voided"]
        assert said(lambda: reversals.apply(ledger, won)) == ["conversion-reinstated"]
        assert heard[0][1]["credited_cents"] == 0
        assert said(lambda: maturity.release(ledger, second.id, clock())) == ["conversion-released"]
        assert heard[0][1]["status"] == "pending"
        assert said(lambda: maturity.void(ledger, third.id)) == ["conversion-voided"]
        clock.turn(days=7)
        assert said(lambda: maturity.mature(ledger, clock())) == ["conversion-credited"] * 2
        assert said(lambda: maturity.mature(ledger, clock())) == []


def test_bonus_of_the_referred_user_alone(make: MakeHost, heard: Heard) -> None:
    host = make(reward_policy=lambda purchase: Reward(0, 500))
    referred = refer(host, host.add_user())
    heard.clear()
    with host.app.app_context():
        host.referral.convert(referred, "mem_1")
        host.referral.reverse("mem_1", reason="refund")
        host.db.session.commit()
    assert names(heard) == ["conversion-created", "conversion-credited", "conversion-reversed"]


def test_rolled_back(host: Host, referred: t.Any, heard: Heard) -> None:
    heard.clear()
    with host.app.app_context():
        session = host.db.session
        host.referral.convert(referred, "mem_1")
        session.rollback()
        session.commit()
        host.referral.convert(referred, "mem_1")
        session.close()
        session.commit()
        assert heard == []
        host.referral.convert(referred, "mem_1")
        session.commit()
        session.commit()
    assert names(heard) == ["conversion-created", "conversion-credited"]


def test_commit_that_fails(make_postgresql: MakeHost, heard: Heard) -> None:
    host = make_postgresql()
    referred = refer(host, host.add_user())
    with host.app.app_context():
        host.db.session.execute(
            sa.text(
                "CREATE TABLE orders (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
                "INSERT INTO orders VALUES (1)"
            )
        )
        host.db.session.commit()
        heard.clear()
        host.referral.convert(referred, "mem_1")
        host.db.session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(sa.exc.IntegrityError):
            host.db.session.commit()
        host.db.session.rollback()
        host.db.session.commit()
    assert heard == []


def test_savepoints(host: Host, heard: Heard) -> None:
    users = [refer(host, host.add_user()) for _ in range(4)]
    heard.clear()
    with host.app.app_context():
        session = host.db.session

        def convert(number: int) -> None:
            host.referral.convert(users[number], f"mem_{number}")

        convert(0)
        with session.begin_nested():
            convert(1)
        lost = session.begin_nested()
        with session.begin_nested():
            # Released into what is rolled back.
            convert(2)
        lost.rollback()
        assert heard == []
        with session.begin_nested():
            inner = session.begin_nested()
            inner.rollback()
            convert(3)
        assert heard == []
        session.commit()
    created = [values for name, values in heard if name == "conversion-created"]
    assert [values["membership_id"] for values in created] == ["mem_0", "mem_1", "mem_3"]


def test_receivers_use_the_database(host: Host, heard: Heard) -> None:
    users = [refer(host, host.add_user()) for _ in range(3)]
    heard.clear()
    seen: list[int] = []

    def receive(app: t.Any, conversion_id: t.Any, **values: t.Any) -> None:
        session = host.db.session
        conversion = session.get(host.referral.models.ReferralConversion, conversion_id)
        seen.append(conversion.bonus_cents)
        session.add(host.User(name=f"told of {conversion.whop_membership_id}"))
        if conversion.whop_membership_id != "mem_2":
            session.commit()

    with host.app.app_context(), hearing(signals.conversion_credited, receive):
        host.referral.convert(users[0], "mem_0")
        host.db.session.commit()
        for number in (1, 2):
            # A context manager takes no statement after its commit.
            with host.db.session.begin():
                host.referral.convert(users[number], f"mem_{number}")
        assert seen == [1000] * 3
        told = sa.select(host.User.name).where(host.User.name.like("told of %"))
        # What a receiver does not commit is not in the host's next transaction.
        host.db.session.commit()
        assert set(host.db.session.scalars(told)) == {"told of mem_0", "told of mem_1"}
    assert names(heard).count("conversion-credited") == 3


def test_receivers_may_announce_themselves(host: Host, heard: Heard) -> None:
    first, second = (refer(host, host.add_user()) for _ in range(2))
    heard.clear()

    def receive(app: t.Any, membership_id: str, **values: t.Any) -> None:
        if membership_id == "mem_1":
            host.referral.convert(second, "mem_2")
            host.db.session.commit()

    with host.app.app_context(), hearing(signals.conversion_created, receive):
        host.referral.convert(first, "mem_1")
        host.db.session.commit()
        host.db.session.commit()
    memberships = [values.get("membership_id") for _, values in heard]
    assert sorted(filter(None, memberships)) == ["mem_1", "mem_2"]
    assert len(heard) == 4


def test_a_receiver_that_fails(
    host: Host, referred: t.Any, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def fail(app: t.Any, **values: t.Any) -> None:
        called.append("failed")
        # Leaves a session that takes nothing more until it is rolled back.
        host.db.session.add(host.Wallet(user_id=referred, amount_cents=1, type="no such type"))
        host.db.session.commit()

    def hear(app: t.Any, **values: t.Any) -> None:
        called.append("heard")
        assert host.db.session.scalar(sa.select(sa.func.count()).select_from(host.User))

    with (
        host.app.app_context(),
        hearing(signals.conversion_created, fail),
        hearing(signals.conversion_created, hear),
        caplog.at_level(logging.ERROR),
    ):
        host.db.session.add(user := host.User(name="Ada"))
        host.referral.convert(referred, "mem_1")
        host.db.session.commit()
        assert sorted(called) == ["failed", "heard"]
        assert [record.getMessage() for record in caplog.records] == [
            "A receiver of referral-conversion-created failed"
        ]
        # The host goes on with its session and its objects.
        user.name = "Grace"
        host.db.session.commit()
        assert host.db.session.scalar(sa.select(host.User.name).filter_by(id=user.id)) == "Grace"
        conversion = host.referral.models.ReferralConversion
        assert host.db.session.scalar(sa.select(conversion.status)) == "credited"


def test_a_receiver_needs_no_second_connection(make_postgresql: MakeHost) -> None:
    host = make_postgresql(
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0, "pool_timeout": 2}
    )
    referred = refer(host, host.add_user())
    found: list[int] = []

    def receive(app: t.Any, **values: t.Any) -> None:
        count = sa.select(sa.func.count()).select_from(host.referral.models.ReferralConversion)
        found.append(host.db.session.scalar(count))

    with host.app.app_context(), hearing(signals.conversion_created, receive):
        host.referral.convert(referred, "mem_1")
        host.db.session.commit()
        host.db.session.scalar(sa.select(host.User.id))
    assert found == [1]


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only"])
def test_session_joined_to_an_outer_transaction(
    make_postgresql: MakeHost, heard: Heard, mode: str
) -> None:
    """As hosts' test suites do it: their commits are commits to us, and all is rolled back."""
    host = make_postgresql()
    referred, other = (refer(host, host.add_user()) for _ in range(2))
    heard.clear()
    seen: list[int] = []

    def receive(app: t.Any, membership_id: str, **values: t.Any) -> None:
        count = sa.select(sa.func.count()).select_from(host.referral.models.ReferralConversion)
        seen.append(host.db.session.scalar(count))
        if membership_id == "mem_1":
            host.referral.convert(other, "mem_2")
            host.db.session.commit()

    with (
        host.app.app_context(),
        host.db.engine.connect() as connection,
        hearing(signals.conversion_created, receive),
    ):
        outer = connection.begin()
        session = Session(bind=connection, join_transaction_mode=t.cast(t.Any, mode))
        host.db.session.registry.set(session)
        host.referral.convert(referred, "mem_1")
        assert heard == []
        host.db.session.commit()
        assert host.db.session() is session
        # What a receiver commits is announced too, and nothing twice.
        assert sorted(names(heard)) == ["conversion-created"] * 2 + ["conversion-credited"] * 2
        assert seen == [1, 2]
        host.db.session.remove()
        outer.rollback()
    assert len(heard) == 4
    with host.app.app_context():
        assert not host.db.session.scalars(sa.select(host.referral.models.ReferralEvent)).all()


def test_two_applications(make_sqlite: MakeHost, new_sqlite_url: t.Any, host_on: t.Any) -> None:
    """A receiver that asks for one application hears of no other."""
    one, other = make_sqlite(), host_on(new_sqlite_url())
    found: list[t.Any] = []

    def receive(app: t.Any, **values: t.Any) -> None:
        found.append(app)

    with signals.conversion_created.connected_to(receive, sender=one.app):
        for host in (one, other):
            user = refer(host, host.add_user())
            with host.app.app_context():
                host.referral.convert(user, "mem_1")
                host.db.session.commit()
    assert found == [one.app]


def test_sent_by_commands_and_at_the_present_time(make_sqlite: MakeHost, heard: Heard) -> None:
    host = make_sqlite(REFERRAL_HOLD_DAYS=1)
    user = refer(host, host.add_user())
    heard.clear()
    with host.app.app_context():
        host.referral.convert(user, "mem_1")
        host.db.session.commit()
        maturity.mature(host.referral.state.ledger, clock.now() + dt.timedelta(days=2))
        host.db.session.commit()
    assert names(heard) == ["conversion-created", "conversion-credited"]
