"""The outbox is delivered at least once, in order for each user, by any number of deliverers."""

from __future__ import annotations

import collections
import datetime as dt
import itertools
import json
import threading
import typing as t

import pytest
import sqlalchemy as sa
from flask import has_request_context
from standardwebhooks import Webhook

from flask_referral import outbox
from flask_referral import OutboxEvent
from flask_referral.errors import ConfigurationError
from flask_referral.events import CodeCreated
from flask_referral.events import ConversionCredited
from flask_referral.upkeep import deliverer
from flask_referral.upkeep import posting
from flask_referral.upkeep.deliverer import Outcome

from ..conftest import MakeHost
from ..hosts import Host
from ..money import at_once
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


def test_a_handler_may_be_an_async_def(host: Host) -> None:
    told: list[str] = []

    @host.referral.on("code_created")
    async def created(event: OutboxEvent) -> None:
        told.append(event.data.code)

    _, code = add_referrer(host)
    deliver(host)
    assert told == [code]


def test_only_events_of_the_outbox_can_be_waited_for(host: Host) -> None:
    for name in ("click_recorded", "conversion_credit"):
        with pytest.raises(ConfigurationError, match="it has code_created, user_attributed"):
            host.referral.on(name)

    def twice(event: OutboxEvent) -> None:
        raise NotImplementedError

    host.referral.on("code_created")(twice)
    with pytest.raises(ConfigurationError, match="give this function another one"):
        host.referral.on("code_created")(twice)


def test_who_has_it_is_not_told_again_because_another_one_failed(
    make: MakeHost, clock: Clock
) -> None:
    with receiving() as works, receiving() as fails:
        host = make_posting(make, works.url, fails.url)
        calls: list[str] = []
        broken = True

        @host.referral.on("code_created")
        def good(event: OutboxEvent) -> None:
            calls.append("good")

        @host.referral.on("code_created")
        def bad(event: OutboxEvent) -> None:
            calls.append("bad")
            if broken:
                raise RuntimeError("not today")

        fails.answers = [500]
        tell(host, 1)
        assert deliver(host) == [Outcome.failed]
        (row,) = rows(host)
        assert "not today" in row.error and "answered 500" in row.error
        # Within a minute.
        assert row.next_attempt_at.replace(tzinfo=dt.UTC) <= clock() + dt.timedelta(seconds=60)
        assert deliver(host) == []
        broken = False
        clock.turn(seconds=60)
        assert deliver(host) == [Outcome.delivered]
        assert calls == ["good", "bad", "bad"]
        assert len(works.requests) == 1
        assert len(fails.requests) == 2
        assert len({request.id for request in (*works.requests, *fails.requests)}) == 1
        assert (
            fails.requests[0].headers["webhook-timestamp"]
            != (fails.requests[1].headers["webhook-timestamp"])
        )


def test_each_of_a_users_events_waits_for_the_one_before(host: Host, clock: Clock) -> None:
    told: list[tuple[int, str]] = []
    broken = {1}

    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        if event.data.user_id in broken:
            raise RuntimeError
        told.append((event.data.user_id, event.data.code))

    tell(host, 1, 1, 2, 1, 2)
    codes = [row.payload["code"] for row in rows(host)]
    assert collections.Counter(deliver(host)) == {Outcome.failed: 1, Outcome.delivered: 2}
    assert told == [(2, codes[2]), (2, codes[4])]
    tell(host, 1)
    assert deliver(host) == []
    broken.clear()
    told.clear()
    clock.turn(seconds=60)
    deliver(host)
    assert [code for _, code in told][:3] == [codes[0], codes[1], codes[3]]
    assert len(told) == 4


def test_what_fails_twenty_times_is_set_aside_and_can_be_tried_again(
    host: Host, clock: Clock
) -> None:
    told: list[str] = []
    broken = True

    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        if broken and event.data.code == first:
            raise RuntimeError
        told.append(event.data.code)

    tell(host, 1, 1)
    first, second = (row.payload["code"] for row in rows(host))
    pauses = []
    for number in range(1, 21):
        assert deliver(host)[0] == (Outcome.failed if number < 20 else Outcome.set_aside)
        row = rows(host)[0]
        pauses.append(row.next_attempt_at.replace(tzinfo=dt.UTC) - clock())
        clock.turn(hours=10)
    assert told == [second]
    assert row.set_aside_at is not None
    assert dt.timedelta(0) < pauses[0] <= dt.timedelta(minutes=1)
    assert pauses[-1] > pauses[0] * 100
    assert deliver(host) == []
    # What is set aside keeps nobody waiting.
    tell(host, 1)
    assert deliver(host) == [Outcome.delivered]
    broken = False
    said = json.loads(host.cli("deliver", "--again", "--json").stdout)
    assert said == {"delivered": 1, "failed": 0, "set_aside": 0, "waiting": 0, "given_up": 0}
    assert told[-1] == first


def test_what_failed_together_is_not_tried_together(host: Host, clock: Clock) -> None:
    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        raise RuntimeError

    tell(host, *range(20))
    deliver(host)
    assert len({row.next_attempt_at for row in rows(host)}) > 10


@pytest.mark.parametrize("status", [301, 307, 410, 500])
def test_what_is_not_taken_is_posted_again_and_nowhere_else(
    make: MakeHost, clock: Clock, status: int
) -> None:
    with receiving() as receiver:
        host = make_posting(make, f"{receiver.url}/hook?key=hush")
        receiver.answers = [status]
        tell(host, 1)
        assert deliver(host) == [Outcome.failed]
        (row,) = rows(host)
        assert row.error.endswith(f"answered {status}")
        # An address may hold a secret.
        assert "hush" not in row.error
        clock.turn(seconds=60)
        assert deliver(host) == [Outcome.delivered]
        assert [request.path for request in receiver.requests] == ["/hook?key=hush"] * 2
        assert len({request.id for request in receiver.requests}) == 1


def test_what_is_posted_is_signed_as_standard_webhooks_says(make: MakeHost) -> None:
    other = "whsec_" + "b" * 44
    with receiving() as receiver:
        host = make_posting(make, receiver.url, REFERRAL_WEBHOOK_SECRET=[SECRET, other])
        referrer, _ = add_referrer(host)
        pay(host, refer(host, referrer))
        told = [(str(row.message_id), row.event, row.payload) for row in rows(host)]
        deliver(host)
        assert len(receiver.requests) == len(told) > 2
        for request, (id, event, payload) in zip(receiver.requests, told, strict=True):
            for secret in (SECRET, other):
                body = Webhook(secret).verify(request.body, request.headers)
                assert (body["type"], body["data"]) == (event, payload)
                assert body.keys() == {"type", "timestamp", "data"}
                assert dt.datetime.fromisoformat(body["timestamp"]).tzinfo is not None
            assert request.id == id
            assert request.headers["content-type"] == "application/json"
        with pytest.raises(Exception, match="No matching signature"):
            Webhook("whsec_" + "c" * 44).verify(request.body, request.headers)


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
        while not receiver.requests:
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


def test_nobody_answers_where_nobody_listens(make: MakeHost) -> None:
    with receiving() as receiver:
        url = receiver.url
    host = make_posting(make, url)
    tell(host, 1)
    assert deliver(host) == [Outcome.failed]
    assert "Connection refused" in rows(host)[0].error


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


def test_what_kills_every_deliverer_is_set_aside(host: Host, clock: Clock) -> None:
    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        raise SystemExit

    tell(host, 1)
    for _ in range(deliverer.MOST_ATTEMPTS):
        with pytest.raises(SystemExit):
            deliver(host)
        clock.turn(seconds=deliverer.LEASE.total_seconds())
    assert deliver(host) == [Outcome.set_aside]
    assert rows(host)[0].error == "The deliverer did not survive it."


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
    (row,) = rows(host)
    assert row.attempts == 2
    assert "number 2" in row.error
    assert row.next_attempt_at.replace(tzinfo=dt.UTC) > clock() + dt.timedelta(minutes=59)


@pytest.mark.parametrize("deliverers", [4])
def test_several_deliverers_tell_each_event_once_and_in_order(
    make: MakeHost, deliverers: int
) -> None:
    host = make(REFERRAL_OUTBOX=True, **pool(deliverers + 1))
    told: dict[int, list[str]] = collections.defaultdict(list)
    in_hand: collections.Counter[int] = collections.Counter()
    lock = threading.Lock()

    @host.referral.on("code_created")
    def created(event: OutboxEvent) -> None:
        user = event.data.user_id
        with lock:
            in_hand[user] += 1
            assert in_hand[user] == 1
        with lock:
            told[user].append(event.data.code)
            in_hand[user] -= 1

    users = list(range(8)) * 8
    tell(host, *users)
    expected: dict[int, list[str]] = collections.defaultdict(list)
    for row in rows(host):
        expected[row.payload["user_id"]].append(row.payload["code"])

    def work() -> None:
        # One that finds nothing due has not seen the end: others have rows in hand.
        while rows(host):
            deliver(host)

    at_once([work] * deliverers)
    assert told == expected


def test_a_row_is_found_among_many_without_reading_them(make_postgresql: MakeHost) -> None:
    host = make_postgresql(REFERRAL_OUTBOX=True)
    table = host.referral.models.ReferralOutbox.__table__
    with host.app.app_context(), host.db.engine.begin() as db:
        db.exec_driver_sql(
            f"INSERT INTO {table.name} (message_id, event, subject, payload, next_attempt_at) "
            "SELECT gen_random_uuid(), 'code_created', (n % 2000)::text, '{}', "
            "now() - interval '1 day' FROM generate_series(1, 20000) n"
        )
        db.exec_driver_sql(f"ANALYZE {table.name}")
        seen: list[t.Any] = []
        sa.event.listen(
            host.db.engine,
            "before_cursor_execute",
            lambda connection, cursor, sql, parameters, *rest: seen.append((sql, parameters)),
        )
    deliver_one(host)
    sql, parameters = seen[0]
    with host.app.app_context(), host.db.engine.connect() as db:
        plan = "\n".join(db.exec_driver_sql(f"EXPLAIN {sql}", parameters).scalars())
    assert "Seq Scan" not in plan, plan
    assert "idx_referral_outbox_next_attempt_at" in plan
    assert "idx_referral_outbox_subject" in plan


def deliver_one(host: Host) -> None:
    with host.app.app_context():
        assert deliverer.deliver(host.referral.state) is Outcome.delivered
