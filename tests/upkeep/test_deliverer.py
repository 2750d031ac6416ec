"""The outbox is delivered at least once, in order for each user, by any number of deliverers."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import os
import signal
import socket
import threading
import typing as t
from time import sleep

import pytest
import sqlalchemy as sa
from flask import has_request_context

from benchmarks import plans
from flask_referral import outbox
from flask_referral import OutboxEvent
from flask_referral.events import CodeCreated
from flask_referral.events import ConversionCredited
from flask_referral.upkeep import deliverer
from flask_referral.upkeep import posting
from flask_referral.upkeep.deliverer import Outcome

from ..conftest import MakeHost
from ..hosts import Host
from ..money import PATIENCE
from ..money import pay
from ..money import pool
from ..money import refer
from ..receivers import receiving
from ..receivers import SECRET
from ..visiting import add_referrer
from ..visiting import Clock

_numbers = itertools.count(1)


def tell(host: Host, *users: t.Any) -> None:
    """Let one event happen to each user, by codes that count up."""
    state = host.referral.state
    with host.app.app_context():
        db = state.models.connection(host.db.session())
        for user in users:
            event = CodeCreated(user_id=user, code=f"CODE{next(_numbers):04}")
            outbox.announce(db, host.db.session(), state.models, state.settings, event)
        host.db.session.commit()


def rows(host: Host) -> list[t.Any]:
    """Return what waits, in its order."""
    table = host.referral.models.ReferralOutbox.__table__
    with host.app.app_context(), host.referral.state.engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)))


def deliver(host: Host) -> list[Outcome]:
    """Deliver what is due."""
    found = []
    with host.app.app_context():
        while (outcome := deliverer.deliver(host.referral.state)) is not None:
            found.append(outcome)
    return found


def make_posting(make: MakeHost, *urls: str, **options: t.Any) -> Host:
    secret = {"REFERRAL_WEBHOOK_SECRET": SECRET, "REFERRAL_OUTBOX": True}
    return make(REFERRAL_WEBHOOK_URLS=urls, **(secret | options))


@pytest.fixture
def host(make: MakeHost) -> Host:
    return make(REFERRAL_OUTBOX=True)


def test_a_handler_gets_the_event_with_its_fields_and_a_session_of_its_own(host: Host) -> None:
    told: list[OutboxEvent] = []

    @host.referral.on("conversion_credited")
    def credited(event: OutboxEvent) -> None:
        assert not has_request_context()
        told.append(event)
        host.db.session.add(host.User(name=f"told of {event.data.cents}"))
        host.db.session.commit()
        host.db.session.add(host.User(name="not committed"))

    referrer, _ = add_referrer(host)
    pay(host, refer(host, referrer))
    row = rows(host)[-1]
    assert set(deliver(host)) == {Outcome.delivered}
    (event,) = told
    assert isinstance(event.data, ConversionCredited)
    assert (event.data.user_id, event.data.cents, event.data.role) == (referrer, 1000, "referrer")
    assert (event.id, event.type) == (row.message_id, "conversion_credited")
    assert event.at.utcoffset() == dt.timedelta(0)
    assert rows(host) == []
    with host.app.app_context():
        found = host.db.session.scalars(sa.select(host.User.name).where(host.User.name.like("%o%")))
        assert "told of 1000" in set(found)
        assert "not committed" not in set(found)


def test_a_receiver_that_hangs_keeps_no_transaction_and_nobody_else_waiting(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "TIMEOUT", 1)
    with receiving() as receiver:
        host = make_posting(make, receiver.url, **pool(3))
        tell(host, 1, 2)
        receiver.is_awake.clear()
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.extend(deliver(host)))
        thread.start()
        while not receiver.bodies:
            assert thread.is_alive()
        # The table is nobody's meanwhile.
        table = host.referral.models.ReferralOutbox.__table__
        with host.app.app_context(), host.db.engine.begin() as db:
            if db.dialect.name == "postgresql":
                db.exec_driver_sql(f"LOCK {table.name} IN ACCESS EXCLUSIVE MODE NOWAIT")
            db.execute(sa.update(table).values(error="nobody is in the way"))
        thread.join(PATIENCE)
        assert outcomes == [Outcome.failed] * 2
        assert all("did not answer" in row.error for row in rows(host))


def test_a_receiver_that_trickles_is_cut_off(
    make_sqlite: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "LONGEST", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = make_posting(make_sqlite, f"http://127.0.0.1:{server.getsockname()[1]}/")

        def trickle() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 204 No Content\r\nX-Slow: ")
                for _ in range(200):
                    connection.sendall(b"x")
                    sleep(0.05)
                connection.sendall(b"\r\n\r\n")

        tell(host, 1)
        thread = threading.Thread(target=trickle)
        thread.start()
        assert deliver(host) == [Outcome.failed]
        thread.join(PATIENCE)
    assert "did not answer" in rows(host)[0].error


def test_what_a_deliverer_died_with_is_delivered_by_the_next(host: Host, clock: Clock) -> None:
    class Killed(BaseException):
        pass

    told: list[str] = []
    is_killed = True

    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        told.append(event.data.code)
        if is_killed:
            raise Killed

    tell(host, 1, 1)
    codes = [row.payload["code"] for row in rows(host)]
    with pytest.raises(Killed):
        deliver(host)
    is_killed = False
    # As long as it may be alive, nobody overtakes it.
    assert deliver(host) == []
    clock.turn(seconds=deliverer.LEASE.total_seconds())
    assert deliver(host) == [Outcome.delivered] * 2
    assert told == [codes[0], *codes]


def test_one_that_comes_late_does_not_undo_what_another_found(host: Host, clock: Clock) -> None:
    attempts: list[int] = []

    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            # Meanwhile the lease ends, and another deliverer has its turn.
            clock.turn(seconds=deliverer.LEASE.total_seconds())
            assert deliver(host) == [Outcome.failed]
            clock.turn(hours=-1)
        raise RuntimeError(f"number {len(attempts)}")

    tell(host, 1)
    with host.app.app_context():
        assert deliverer.deliver(host.referral.state) is Outcome.failed
    row = rows(host)[0]
    assert row.attempts == 2
    assert "number 2" in row.error
    assert row.next_attempt_at.replace(tzinfo=dt.UTC) > clock() + dt.timedelta(minutes=59)


def test_one_that_comes_late_keeps_nobody_waiting(host: Host, clock: Clock) -> None:
    told: list[str] = []

    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        told.append(event.data.code)
        if len(told) == 1:
            # Meanwhile the lease ends, and another deliverer has its turn.
            clock.turn(seconds=deliverer.LEASE.total_seconds())
            with host.app.app_context():
                assert deliverer.deliver(host.referral.state) is Outcome.delivered
            raise RuntimeError

    tell(host, 1, 1)
    first, second = (row.payload["code"] for row in rows(host))
    assert deliver(host) == [Outcome.failed, Outcome.delivered]
    assert told == [first, first, second]


def test_who_watches_finishes_what_is_in_hand_when_told_to_stop(host: Host) -> None:
    assert threading.current_thread() is threading.main_thread()
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    told: list[str] = []

    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        told.append(event.data.code)

    tell(host, 1, 1)
    first = rows(host)[0].payload["code"]
    said = json.loads(host.cli("deliver", "--watch", "--json").stdout)
    assert (said["delivered"], said["waiting"]) == (1, 1)
    assert told == [first]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_who_watches_stops_cleanly_while_the_database_is_away(
    make_sqlite: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_sqlite(REFERRAL_OUTBOX=True)
    nowhere = sa.create_engine("postgresql+psycopg2://postgres@127.0.0.1:1/none")

    def take(state: t.Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        nowhere.connect()

    monkeypatch.setattr(deliverer, "deliver", take)
    monkeypatch.setattr(deliverer, "waiting", lambda *args: nowhere.connect())
    said = json.loads(host.cli("deliver", "--watch", "--json").stdout)
    assert (said["delivered"], said["waiting"], said["given_up"]) == (0, None, None)
    assert "did not answer" in host.failure("deliver")


def test_a_row_is_found_among_many_without_reading_them(make_postgresql: MakeHost) -> None:
    host = make_postgresql(REFERRAL_OUTBOX=True)
    table = host.referral.models.ReferralOutbox.__table__
    with host.app.app_context(), host.db.engine.begin() as db:
        db.exec_driver_sql(
            f"INSERT INTO {table.name} (message_id, event, subject, payload, next_attempt_at) "
            "SELECT gen_random_uuid(), 'code_created', mod(n, 2000)::text, '{}', "
            "now() - interval '1 day' FROM generate_series(1, 20000) n"
        )
        db.exec_driver_sql(f"ANALYZE {table.name}")
    with host.app.app_context():
        with plans.sent(host.db.engine) as seen:
            assert deliverer.deliver(host.referral.state) is Outcome.delivered
        with host.db.engine.connect() as db:
            plan = str([statement.explain(db) for statement in seen])
    assert "Seq Scan" not in plan, plan
    assert "idx_referral_outbox_next_attempt_at" in plan
    assert "idx_referral_outbox_subject" in plan


def test_what_waits_behind_a_failure_is_not_looked_at_until_its_next_attempt(
    host: Host, clock: Clock
) -> None:
    told: list[str] = []
    is_broken = True

    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        if is_broken and event.data.user_id == 1:
            raise RuntimeError
        told.append(event.data.code)

    tell(host, 1, 1, 2)
    deliver(host)
    # Also what happens afterwards.
    tell(host, 1, 2)
    deliver(host)
    waiting = rows(host)
    assert [row.subject for row in waiting] == ["1"] * 3
    assert len({row.next_attempt_at for row in waiting}) == 1
    codes = [row.payload["code"] for row in waiting]
    is_broken = False
    told.clear()
    clock.turn(minutes=1)
    # And then nothing of it waits any longer.
    assert deliver(host) == [Outcome.delivered] * 3
    assert told == codes
