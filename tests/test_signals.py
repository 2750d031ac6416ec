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
from .hosts import Host
from .money import happen
from .money import mature
from .money import refer
from .money import sign_up_on_days_of_their_own
from .money import transaction
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


def test_payments_and_refunds_are_told_once_each(host: Host, referred: t.Any, heard: Heard) -> None:
    heard.clear()
    with host.app.app_context():
        for _ in range(2):
            result = host.referral.convert(referred, "mem_1", payment_id="pay_1")
            host.db.session.commit()
        (reward,), conversion = result.rewards, result.conversion
        assert conversion is not None
        told = {
            "reward_id": reward.id,
            "conversion_id": conversion.id,
            "user_id": conversion.referrer_user_id,
            "role": "referrer",
        }
        assert heard == [
            (
                "conversion-created",
                {
                    "conversion_id": conversion.id,
                    "referrer_id": conversion.referrer_user_id,
                    "referred_id": referred,
                    "provider": "host",
                    "payment_id": "pay_1",
                    "membership_id": "mem_1",
                    "number": 1,
                    "status": "credited",
                    "bonus_cents": 1000,
                    "referred_bonus_cents": 0,
                    "campaign": None,
                },
            ),
            ("conversion-credited", told | {"cents": 1000}),
        ]
        heard.clear()
        for _ in range(2):
            host.referral.reverse("mem_1", reason="refund", refund_id="a", amount_cents=300)
            host.db.session.commit()
    for minutes, kind in enumerate((Kind.dispute_opened, Kind.dispute_won)):
        happen(host, kind, payment_id="pay_1", id="d", minutes=minutes)
    assert heard == [
        ("conversion-reversed", told | {"cents": 300, "shortfall_cents": 0}),
        ("conversion-reversed", told | {"cents": 700, "shortfall_cents": 0}),
        ("conversion-reinstated", told | {"cents": 700}),
    ]


def test_what_happens_before_maturity_is_told(make: MakeHost, heard: Heard, clock: Clock) -> None:
    host = make(REFERRAL_HOLD_DAYS=7, REFERRAL_VELOCITY_LIMIT=1)
    referrer = host.add_user()
    users = [refer(host, referrer) for _ in range(3)]
    sign_up_on_days_of_their_own(host)
    with host.app.app_context():
        tx = transaction(host)

        def said(what: t.Any) -> list[str]:
            heard.clear()
            result = what()
            assert heard == []
            host.db.session.commit()
            results.append(result)
            return names(heard)

        results: list[t.Any] = []
        for user in users:
            said(lambda user=user: host.referral.convert(user, f"mem_{user}"))
            assert names(heard) == ["conversion-created"]
        first, second, third = (result.rewards[0] for result in results)
        opened, won = (
            Fact(
                kind=kind,
                provider="host",
                payment_id=first.payment_id,
                id="d",
                occurred_at=clock() + dt.timedelta(minutes=minutes),
            )
            for minutes, kind in enumerate((Kind.dispute_opened, Kind.dispute_won))
        )
        tx = transaction(host)
        assert said(lambda: reversals.apply(tx, opened)) == ["conversion-voided"]
        tx = transaction(host)
        assert said(lambda: reversals.apply(tx, won)) == ["conversion-reinstated"]
        assert heard[0][1]["cents"] == 0
        tx = transaction(host)
        assert said(lambda: maturity.release(tx, second.id, clock())) == ["conversion-released"]
        assert heard[0][1]["status"] == "pending"
        tx = transaction(host)
        assert said(lambda: maturity.void(tx, third.id, clock())) == ["conversion-voided"]
        clock.turn(days=7)
        tx = transaction(host)
        assert said(lambda: maturity.mature(tx, clock())) == ["conversion-credited"] * 2
        tx = transaction(host)
        assert said(lambda: maturity.mature(tx, clock())) == []


def test_bonus_of_the_referred_user_alone(make: MakeHost, heard: Heard) -> None:
    host = make(reward_policy=lambda purchase: Reward(0, 500))
    referred = refer(host, host.add_user())
    heard.clear()
    with host.app.app_context():
        host.referral.convert(referred, "mem_1")
        host.referral.reverse("mem_1", reason="refund")
        host.db.session.commit()
    assert names(heard) == ["conversion-created", "conversion-credited", "conversion-reversed"]


def new_code(host: Host, user: t.Any) -> str:
    """Make a code, which is announced, in the transaction that is open."""
    return host.referral.get_or_create_code(user).code


def test_nothing_is_told_of_what_was_rolled_back(host: Host, heard: Heard) -> None:
    user = host.add_user()
    with host.app.app_context():
        session = host.db.session
        new_code(host, user)
        session.rollback()
        session.commit()
        new_code(host, user)
        session.close()
        session.commit()
        assert heard == []
        new_code(host, user)
        session.commit()
        session.commit()
    assert names(heard) == ["code-created"]


def test_nothing_is_told_of_a_commit_that_fails(make_postgresql: MakeHost, heard: Heard) -> None:
    host = make_postgresql()
    user = host.add_user()
    with host.app.app_context():
        host.db.session.execute(
            sa.text(
                "CREATE TABLE orders (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
                "INSERT INTO orders VALUES (1)"
            )
        )
        host.db.session.commit()
        new_code(host, user)
        host.db.session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(sa.exc.IntegrityError):
            host.db.session.commit()
        host.db.session.rollback()
        host.db.session.commit()
    assert heard == []


def test_a_savepoint_is_told_with_the_transaction_around_it(host: Host, heard: Heard) -> None:
    users = [host.add_user() for _ in range(4)]
    with host.app.app_context():
        session = host.db.session
        new_code(host, users[0])
        with session.begin_nested():
            new_code(host, users[1])
        lost = session.begin_nested()
        with session.begin_nested():
            # Released into what is rolled back.
            new_code(host, users[2])
        lost.rollback()
        assert heard == []
        with session.begin_nested():
            inner = session.begin_nested()
            inner.rollback()
            new_code(host, users[3])
        assert heard == []
        session.commit()
    assert [values["user_id"] for _, values in heard] == [users[0], users[1], users[3]]


def test_a_receiver_has_a_session_of_its_own(host: Host, heard: Heard) -> None:
    users = [host.add_user() for _ in range(3)]
    seen: list[str] = []
    sessions: list[t.Any] = []

    def receive(app: t.Any, user_id: t.Any, code: str, **values: t.Any) -> None:
        session = host.db.session
        sessions.append(session())
        model = host.referral.models.ReferralCode
        seen.append(session.scalars(sa.select(model.code).where(model.user_id == user_id)).one())
        assert seen[-1] == code
        session.add(host.User(name=f"told of {user_id}"))
        if user_id != users[2]:
            session.commit()

    with host.app.app_context(), hearing(signals.code_created, receive):
        hosts = host.db.session()
        new_code(host, users[0])
        host.db.session.commit()
        for user in users[1:]:
            # A context manager takes no statement after its commit.
            with host.db.session.begin():
                new_code(host, user)
        assert len(seen) == 3
        assert host.db.session() is hosts
        assert hosts not in sessions
        told = sa.select(host.User.name).where(host.User.name.like("told of %"))
        # What a receiver does not commit is not in the host's next transaction.
        host.db.session.commit()
        expected = {f"told of {user}" for user in users[:2]}
        assert set(host.db.session.scalars(told)) == expected
    assert names(heard) == ["code-created"] * 3


def test_a_receiver_may_announce_something_itself(host: Host, heard: Heard) -> None:
    first, second = host.add_user(), host.add_user()

    def receive(app: t.Any, user_id: t.Any, **values: t.Any) -> None:
        if user_id == first:
            new_code(host, second)
            host.db.session.commit()

    with host.app.app_context(), hearing(signals.code_created, receive):
        new_code(host, first)
        host.db.session.commit()
        host.db.session.commit()
    assert sorted(values["user_id"] for _, values in heard) == sorted([first, second])


def test_a_receiver_that_fails_harms_nobody(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    user = host.add_user()
    called: list[str] = []

    def fail(app: t.Any, **values: t.Any) -> None:
        called.append("failed")
        # Leaves a session that takes nothing more until it is rolled back.
        host.db.session.add(host.Wallet(user_id=user, amount_cents=1, type="no such type"))
        host.db.session.commit()

    def hear(app: t.Any, **values: t.Any) -> None:
        called.append("heard")
        assert host.db.session.scalar(sa.select(sa.func.count()).select_from(host.User))

    with (
        host.app.app_context(),
        hearing(signals.code_created, fail),
        hearing(signals.code_created, hear),
        caplog.at_level(logging.ERROR),
    ):
        host.db.session.add(ada := host.User(name="Ada"))
        code = new_code(host, user)
        host.db.session.commit()
        assert sorted(called) == ["failed", "heard"]
        assert [record.getMessage() for record in caplog.records] == [
            "A receiver of referral-code-created failed"
        ]
        # The host goes on with its session and its objects.
        ada.name = "Grace"
        host.db.session.commit()
        assert host.db.session.scalar(sa.select(host.User.name).filter_by(id=ada.id)) == "Grace"
        assert new_code(host, user) == code


def test_a_receiver_needs_no_second_connection(make_postgresql: MakeHost) -> None:
    host = make_postgresql(
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0, "pool_timeout": 2}
    )
    users = [host.add_user() for _ in range(2)]
    found: list[int] = []

    def receive(app: t.Any, **values: t.Any) -> None:
        count = sa.select(sa.func.count()).select_from(host.referral.models.ReferralCode)
        found.append(host.db.session.scalar(count))

    with hearing(signals.code_created, receive):
        with host.app.app_context():
            new_code(host, users[0])
            host.db.session.commit()
            host.db.session.scalar(sa.select(host.User.id))
        host.current_user = users[1]
        assert host.client().post("/api/referral/generate").status_code == 200
    assert found == [1, 2]


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only"])
def test_session_joined_to_an_outer_transaction(
    make_postgresql: MakeHost, heard: Heard, mode: str
) -> None:
    """As hosts' test suites do it: their commits are commits to us, and all is rolled back."""
    host = make_postgresql()
    first, second, third = (host.add_user() for _ in range(3))
    seen: list[int] = []

    def receive(app: t.Any, user_id: t.Any, **values: t.Any) -> None:
        count = sa.select(sa.func.count()).select_from(host.referral.models.ReferralCode)
        seen.append(host.db.session.scalar(count))
        if user_id == first:
            new_code(host, second)
            host.db.session.commit()

    with (
        host.app.app_context(),
        host.db.engine.connect() as connection,
        hearing(signals.code_created, receive),
    ):
        outer = connection.begin()
        session = Session(bind=connection, join_transaction_mode=t.cast(t.Any, mode))
        host.db.session.registry.set(session)
        new_code(host, first)
        assert heard == []
        host.db.session.commit()
        assert host.db.session() is session
        # What a receiver commits is announced too, and nothing twice.
        assert sorted(values["user_id"] for _, values in heard) == [first, second]
        assert seen == [1, 2]
        # The view commits too, and its transaction is as little its own.
        host.current_user = third
        with host.app.test_request_context(method="POST"):
            host.db.session.registry.set(session)
            host.app.view_functions["referral.generate"]()
        assert seen == [1, 2, 3]
        session.close()
        outer.rollback()
    assert len(heard) == 3
    with host.app.app_context():
        assert not host.db.session.scalars(sa.select(host.referral.models.ReferralCode)).all()


def test_a_receiver_of_one_application_hears_of_no_other(
    make_sqlite: MakeHost, new_sqlite_url: t.Any, host_on: t.Any
) -> None:
    one, other = make_sqlite(), host_on(new_sqlite_url())
    found: list[t.Any] = []

    def receive(app: t.Any, **values: t.Any) -> None:
        found.append(app)

    with signals.code_created.connected_to(receive, sender=one.app):
        for host in (one, other):
            user = host.add_user()
            with host.app.app_context():
                new_code(host, user)
                host.db.session.commit()
    assert found == [one.app]


def test_sent_by_commands_and_at_the_present_time(make_sqlite: MakeHost, heard: Heard) -> None:
    host = make_sqlite(REFERRAL_HOLD_DAYS=1)
    user = refer(host, host.add_user())
    heard.clear()
    with host.app.app_context():
        host.referral.convert(user, "mem_1")
        host.db.session.commit()
    mature(host, clock.now() + dt.timedelta(days=2))
    assert names(heard) == ["conversion-created", "conversion-credited"]
