"""The outbox: what is told of is kept with what it tells, and handed on at least once, in order."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import datetime as dt
import http.server
import itertools
import json
import logging
import threading
import typing as t
import uuid

import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook

from benchmarks import plans
from flask_referral import ConfigurationError
from flask_referral import OutboxEvent
from flask_referral.events import ConversionCredited
from flask_referral.events import Event
from flask_referral.events import EVENTS
from flask_referral.upkeep import deliverer
from flask_referral.upkeep import posting

from .conftest import MakeHost
from .hosts import Host
from .hosts import KEYS
from .money import PATIENCE
from .money import pay
from .money import refer
from .visiting import add_referrer
from .visiting import browser
from .visiting import Clock

ON: dict[str, t.Any] = {"REFERRAL_OUTBOX": True}
KEY = base64.b64encode(b"a secret of thirty-two bytes, yes").decode()
SECRET = f"whsec_{KEY}"


def rows(host: Host) -> list[t.Any]:
    """Return what is in the outbox, in its order."""
    row = host.referral.models.ReferralOutbox.__table__
    with host.app.app_context(), host.db.engine.connect() as connection:
        return list(connection.execute(sa.select(row).order_by(row.c.id)))


def names(host: Host) -> list[str]:
    return [row.event for row in rows(host)]


def deliver(host: Host, *options: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(host.cli("deliver", "--json", *options).stdout)
    return found


def put(host: Host, subject: str, number: int = 1) -> None:
    """Put events of a subject into the outbox."""
    row = host.referral.models.ReferralOutbox.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        for _ in range(number):
            values = {
                "message_id": uuid.uuid4(),
                "event": "code_created",
                "subject": subject,
                "payload": {"user_id": subject, "code": "K7M2PQ9X"},
                "created_at": dt.datetime.now(dt.UTC),
                "next_attempt_at": dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1),
            }
            connection.execute(sa.insert(row).values(values))


@pytest.mark.parametrize("key", KEYS)
def test_each_change_is_kept_with_its_transaction_and_told_as_it_was(
    make: MakeHost, key: str
) -> None:
    host = make(key=key, REFERRAL_HOLD_DAYS=1, REFERRAL_VANITY_CODES=True, **ON)
    told: list[OutboxEvent] = []
    heard: list[tuple[str, dict[str, t.Any]]] = []
    for name, event in EVENTS.items():
        if event.is_kept:
            host.referral.on(name)(told.append)

    referrer = host.add_user()
    receivers = []
    for name, event in EVENTS.items():

        def hear(app: t.Any, name: str = name, **values: t.Any) -> None:
            heard.append((name, values))

        receivers.append(hear)
        event.signal.connect(hear)
    host.current_user = referrer
    code: t.Any = host.client().post("/api/referral/generate").json
    client = browser(host)
    client.get(f"/r/{code['code']}")
    friend = host.add_user()
    with host.app.app_context():
        host.referral.rotate_code(referrer)
        host.referral.attribute(friend, code=code["code"])
        host.db.session.commit()
    assert pay(host, friend) == "pending"
    host.cli("mature", "--now", "2100-01-01")
    with host.app.app_context():
        host.referral.reverse("mem_1", reason="refund", amount_cents=400)
        host.db.session.commit()
    kept = [
        *("code_created", "code_created", "user_attributed"),
        *("conversion_created", "conversion_credited", "conversion_reversed"),
    ]
    assert names(host) == kept
    assert deliver(host)["delivered"] == len(kept)
    assert rows(host) == []
    assert [event.type for event in told] == kept
    # The same as the signals tell, with the same types, but for the clicks.
    assert [(event.type, event.data.values()) for event in told] == [
        item for item in heard if item[0] != "click_recorded"
    ]
    credited = told[4].data
    assert isinstance(credited, ConversionCredited)
    assert (credited.user_id, credited.cents, credited.role) == (referrer, 1000, "referrer")
    assert abs(told[0].at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=10)


def test_what_is_rolled_back_is_not_told(make: MakeHost) -> None:
    host = make(**ON)
    referrer, _ = add_referrer(host)
    friend = refer(host, referrer)
    assert names(host) == ["code_created"]
    with host.app.app_context():
        host.referral.convert(friend, "mem_1")
        host.db.session.rollback()
        with host.db.session.begin_nested() as savepoint:
            host.referral.convert(friend, "mem_2")
            savepoint.rollback()
        host.db.session.commit()
    assert names(host) == ["code_created"]


@pytest.mark.parametrize("is_open", [False, True])
def test_a_code_made_over_http_and_its_row_are_one_transaction(
    make: MakeHost, is_open: bool
) -> None:
    host = make(REFERRAL_OUTBOX=True, REFERRAL_VANITY_CODES=True)
    host.current_user = host.add_user()
    if is_open:

        @host.app.before_request
        def look() -> None:
            host.db.session.execute(sa.select(host.User.id))

    host.app.testing = False
    client = host.client()
    with renamed(host):
        assert client.post("/api/referral/generate").status_code == 500
        codes = host.referral.models.ReferralCode
        with host.app.app_context():
            assert host.db.session.scalars(sa.select(codes.code)).all() == []
    made = client.post("/api/referral/generate").get_json()["code"]
    assert client.post("/api/referral/generate").get_json()["code"] == made
    assert client.put("/api/referral/code", json={"code": "ADA"}).status_code == 200
    assert [row.payload["code"] for row in rows(host)] == [made, "ADA"]
    assert set(names(host)) == {"code_created"}


def test_a_sign_up_goes_on_where_its_event_cannot_be_kept(
    make: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    """Then the user is not bound, and nothing is told: neither without the other."""
    host = make(REFERRAL_AUTO_ATTRIBUTE=True, **ON)

    @host.app.post("/signup")
    def sign_up() -> str:
        host.db.session.add(host.User(name="new"))
        host.db.session.commit()
        return "welcome"

    _, code = add_referrer(host)
    bound = sa.select(host.referral.models.ReferralClick.referred_user_id)
    heard: list[t.Any] = []

    def hear(app: t.Any, **values: t.Any) -> None:
        heard.append(values)

    with renamed(host), EVENTS["user_attributed"].signal.connected_to(hear):
        client = browser(host)
        client.get(f"/r/{code}")
        assert client.post("/signup").text == "welcome"
    assert "was not bound" in caplog.text
    with host.app.app_context():
        assert host.db.session.scalar(sa.select(host.User.id).filter_by(name="new"))
        assert host.db.session.scalars(bound).all() == [None]
    assert heard == []
    with EVENTS["user_attributed"].signal.connected_to(hear):
        client = browser(host)
        client.get(f"/r/{code}", headers={"User-Agent": "Mozilla/5.0 (another one)"})
        client.post("/signup")
    assert len(heard) == 1
    assert names(host) == ["code_created", "user_attributed"]


@contextlib.contextmanager
def renamed(host: Host) -> t.Iterator[None]:
    """Let there be no outbox for a while."""
    name = host.referral.models.ReferralOutbox.__tablename__
    statements = f"ALTER TABLE {name} RENAME TO gone", f"ALTER TABLE gone RENAME TO {name}"
    for number, statement in enumerate(statements):
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.exec_driver_sql(statement)
        if number == 0:
            yield


@pytest.mark.parametrize(("is_on", "number"), [(False, 2), (True, 3)])
def test_without_the_setting_nothing_is_kept_and_nothing_costs(
    make: MakeHost, is_on: bool, number: int
) -> None:
    host = make(REFERRAL_OUTBOX=is_on)
    host.current_user = host.add_user()
    with host.statements() as seen:
        answer = host.client().post("/api/referral/generate")
    assert answer.status_code == 200
    assert (len(seen), len(rows(host))) == (number, is_on)
    if not is_on:
        assert "set REFERRAL_OUTBOX = True" in host.failure("deliver")


def test_a_click_is_no_row_and_stays_one_statement(make_postgresql: MakeHost) -> None:
    host = make_postgresql(**ON)
    _, code = add_referrer(host)
    before = len(rows(host))
    client = browser(host)
    with host.statements() as seen:
        client.get(f"/r/{code}")
    assert (len(seen), len(rows(host))) == (1, before)


def test_what_one_takes_is_not_repeated_because_another_fails(
    make: MakeHost, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    host = make(**ON)
    told: list[str] = []
    answers = [RuntimeError("no mail today"), None]

    @host.referral.on("code_created")
    def write(event: OutboxEvent) -> None:
        told.append("written")

    @host.referral.on("code_created")
    async def mail(event: OutboxEvent) -> None:
        if (error := answers.pop(0)) is not None:
            raise error
        told.append("mailed")

    add_referrer(host)
    with caplog.at_level(logging.ERROR):
        assert deliver(host) == {
            "delivered": 0,
            "failed": 1,
            "set_aside": 0,
            "waiting": 1,
            "given_up": 0,
        }
    assert "no mail today" in caplog.text
    (row,) = rows(host)
    assert "no mail today" in row.error and "mail" in row.error
    # Not at once, and within a minute.
    assert deliver(host)["waiting"] == 1
    clock.turn(minutes=1)
    assert deliver(host)["delivered"] == 1
    assert told == ["written", "mailed"]


def test_pauses_grow_with_jitter_from_less_than_a_minute_to_hours() -> None:
    pauses = [[deliverer._pause(attempt) for _ in range(50)] for attempt in range(1, 21)]
    assert max(pauses[0]) < dt.timedelta(minutes=1)
    assert len(set(pauses[0])) > 1
    assert max(pauses[5]) > max(pauses[0]) * 10
    assert max(max(each) for each in pauses) <= deliverer.LONGEST_PAUSE * 1.5


def test_after_twenty_failures_it_is_set_aside_and_the_next_one_goes_on(
    make: MakeHost, clock: Clock
) -> None:
    host = make(**ON)
    told: list[str] = []

    @host.referral.on("code_created")
    def mail(event: OutboxEvent) -> None:
        if len(told) < 20:
            told.append("failed")
            raise RuntimeError("never")
        told.append(event.data.code)

    referrer, _ = add_referrer(host)
    with host.app.app_context():
        second = host.referral.rotate_code(referrer)
        host.db.session.commit()
    for attempt in range(1, 21):
        assert told == ["failed"] * (attempt - 1)
        found = deliver(host)
        clock.turn(days=1)
        # Until then the second event waits for the first.
        assert found["waiting"] == (2 if attempt < 20 else 0)
    assert (found["set_aside"], found["given_up"], found["delivered"]) == (1, 1, 1)
    assert told[20:] == [second]
    warned = host.cli("doctor").output
    assert "1 event was given up after 20 attempts" in warned
    assert deliver(host, "--again")["delivered"] == 1
    assert rows(host) == []


def test_what_ends_its_deliverer_each_time_is_set_aside(make: MakeHost, clock: Clock) -> None:
    host = make(**ON)

    @host.referral.on("code_created")
    def die(event: OutboxEvent) -> None:
        raise SystemExit

    add_referrer(host)
    for _ in range(20):
        with host.app.app_context(), pytest.raises(SystemExit):
            deliverer.deliver(host.referral.state)
        # Nobody else takes it meanwhile.
        assert deliver(host)["waiting"] == 1
        clock.turn(minutes=6)
    assert deliver(host)["set_aside"] == 1
    (row,) = rows(host)
    assert row.error == "The deliverer did not survive it."


def test_events_of_one_user_are_told_in_order_and_others_do_not_wait(
    make: MakeHost, clock: Clock
) -> None:
    host = make(key="str", **ON)
    told: list[tuple[str, uuid.UUID]] = []
    is_broken = True

    @host.referral.on("code_created")
    def mail(event: OutboxEvent) -> None:
        if event.data.user_id == "ada" and is_broken:
            raise RuntimeError
        told.append((event.data.user_id, event.id))

    put(host, "ada", 3)
    put(host, "bob", 2)
    order = [(row.subject, row.message_id) for row in rows(host)]
    clock.time = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
    assert deliver(host)["waiting"] == 3
    assert told == order[3:]
    is_broken = False
    clock.turn(minutes=1)
    assert deliver(host)["waiting"] == 0
    assert told == [*order[3:], *order[:3]]


def test_any_number_may_deliver_at_once(make_postgresql: MakeHost) -> None:
    host = make_postgresql(key="str", SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 20}, **ON)
    lock, told = threading.Lock(), list[tuple[str, uuid.UUID]]()

    @host.referral.on("code_created")
    def mail(event: OutboxEvent) -> None:
        with lock:
            told.append((event.data.user_id, event.id))

    for _ in range(15):
        for subject in ("ada", "bob", "eve", "joe"):
            put(host, subject)
    order = [(row.subject, row.message_id) for row in rows(host)]
    start = threading.Barrier(6)

    def work() -> None:
        start.wait(PATIENCE)
        with host.app.app_context():
            # Where nothing is free another one may have the last in hand.
            while deliverer.deliver(host.referral.state) or rows(host):
                pass

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for job in [pool.submit(work) for _ in range(6)]:
            job.result(PATIENCE)
    assert len(told) == len(set(told)) == 60
    for subject in ("ada", "bob", "eve", "joe"):
        assert [id for name, id in told if name == subject] == [
            id for name, id in order if name == subject
        ]


class Receiver(t.NamedTuple):
    """A receiver of webhooks on this machine."""

    url: str
    #: What it got: headers and body.
    got: list[tuple[dict[str, str], bytes]]
    #: What it answers, in turn; None: nothing at all.
    answers: list[int | None]


@pytest.fixture
def receiver() -> t.Iterator[Receiver]:
    got: list[tuple[dict[str, str], bytes]] = []
    answers: list[int | None] = []
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status = answers.pop(0) if answers else 204
            if status is None:
                ended.wait(PATIENCE)
                return
            self.send_response(status)
            if status in (301, 307):
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *args: t.Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook?key=hush-hush", got, answers)
    ended.set()
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)


def test_webhooks_are_signed_as_standard_webhooks_says(make: MakeHost, receiver: Receiver) -> None:
    old = base64.b64encode(b"the secret that is rotated out of").decode()
    host = make(
        REFERRAL_WEBHOOK_URLS=[receiver.url],
        REFERRAL_WEBHOOK_SECRET=[SECRET, f"whsec_{old}"],
        **ON,
    )
    referrer, code = add_referrer(host)
    (row,) = rows(host)
    assert deliver(host)["delivered"] == 1
    ((headers, body),) = receiver.got
    for secret in (SECRET, f"whsec_{old}"):
        told: t.Any = Webhook(secret).verify(body, headers)
        assert told["type"] == "code_created"
        assert told["data"] == {"user_id": referrer, "code": code}
        assert dt.datetime.fromisoformat(told["timestamp"]).tzinfo is not None
    assert headers["webhook-id"] == str(row.message_id)
    assert headers["content-type"] == "application/json"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(base64.b64encode(b"nobody's").decode()).verify(body, headers)


@pytest.mark.parametrize("status", [301, 307, 400, 410, 500])
def test_any_other_answer_is_a_failure_and_the_next_attempt_has_the_same_id(
    make_sqlite: MakeHost,
    receiver: Receiver,
    clock: Clock,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A redirect is not followed: what is signed is for this receiver."""
    host = make_sqlite(REFERRAL_WEBHOOK_URLS=receiver.url, REFERRAL_WEBHOOK_SECRET=SECRET, **ON)
    add_referrer(host)
    receiver.answers.append(status)
    assert deliver(host)["failed"] == 1
    (row,) = rows(host)
    assert f"answered {status}" in row.error
    assert "hush-hush" not in row.error + caplog.text
    clock.turn(minutes=1)
    assert deliver(host)["delivered"] == 1
    first, second = (headers for headers, _ in receiver.got)
    assert first["webhook-id"] == second["webhook-id"]
    assert receiver.got[0][1] == receiver.got[1][1]


def test_a_receiver_that_is_silent_or_away_is_not_waited_for_long(
    make_sqlite: MakeHost, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "TIMEOUT", 0.3)
    host = make_sqlite(
        REFERRAL_WEBHOOK_URLS=["http://127.0.0.1:9/", receiver.url],
        REFERRAL_WEBHOOK_SECRET=SECRET,
        **ON,
    )
    add_referrer(host)
    receiver.answers.append(None)
    assert deliver(host)["failed"] == 1
    (row,) = rows(host)
    assert row.error.count("did not answer") == 2
    clock.turn(minutes=1)
    assert deliver(host)["failed"] == 1
    (row,) = rows(host)
    # The one that took it does not get it again.
    assert len(receiver.got) == 2
    assert row.done == [posting.name_of(receiver.url)]
    clock.turn(minutes=2)
    deliver(host)
    assert len(receiver.got) == 2


@pytest.mark.parametrize("name", ["click_recorded", "conversion_paid", ""])
def test_a_function_for_what_is_not_told_is_refused(make_sqlite: MakeHost, name: str) -> None:
    with pytest.raises(ConfigurationError, match="The outbox has no event") as caught:
        make_sqlite(**ON).referral.on(name)
    assert "conversion_credited" in str(caught.value)


def test_of_two_functions_of_one_name_the_second_is_refused(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**ON)
    with pytest.raises(ConfigurationError, match="give this function another one"):
        for _ in range(2):
            host.referral.on("code_created")(deliver)
    host.referral.on("user_attributed")(deliver)


def test_doctor_says_when_nobody_delivers_or_nobody_is_told(
    make_sqlite: MakeHost, clock: Clock
) -> None:
    host = make_sqlite(**ON)
    add_referrer(host)
    assert "nobody is told" in host.cli("doctor").output
    host.referral.on("code_created")(print)
    assert "outbox" not in host.cli("doctor").output.replace("The outbox is", "")
    clock.turn(hours=1)
    assert "1 event waits in the outbox" in host.cli("doctor").output


def test_doctor_says_when_nothing_is_kept_for_those_who_wait(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    host.referral.on("code_created")(print)
    assert "they are never called" in host.cli("doctor", status=1).output


def test_export_tells_what_waits_and_erase_removes_what_was_given_up(make: MakeHost) -> None:
    """Also where the user is whom somebody else's event is about."""
    host = make(**ON)
    _, code = add_referrer(host)
    friend = host.add_user()
    with host.app.app_context():
        host.referral.attribute(friend, code=code)
        host.db.session.commit()
    told = json.loads(host.cli("export", str(friend)).stdout)
    assert [row["event"] for row in told["outbox"]] == ["user_attributed"]
    give_up(host, dt.datetime.now(dt.UTC))
    put(host, str(friend))
    host.cli("erase", str(friend), "--yes")
    assert names(host) == ["code_created", "code_created"]


def give_up(host: Host, at: dt.datetime) -> None:
    row = host.referral.models.ReferralOutbox.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(sa.update(row).values(set_aside_at=at))


def test_purge_forgets_what_was_given_up_long_ago(make: MakeHost) -> None:
    host = make(**ON)
    add_referrer(host)
    purge = ("purge", "--clicks-older-than", "30", "--yes")
    for days, left in ((179, 1), (181, 0)):
        give_up(host, dt.datetime.now(dt.UTC) - dt.timedelta(days=days))
        host.cli(*purge)
        assert len(rows(host)) == left


def test_a_deliverer_that_was_too_slow_removes_nothing_of_later(make: MakeHost) -> None:
    """SQLite gives the number of a row that is gone to the next one."""
    host = make(**ON)
    first, second = host.add_user(), host.add_user()
    told: list[t.Any] = []

    @host.referral.on("code_created")
    def slow(event: OutboxEvent) -> None:
        told.append(event.data.user_id)
        if len(told) > 1:
            return
        # Its lease is over: another one delivers the event, and something new happens.
        row = host.referral.models.ReferralOutbox.__table__
        past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        with host.app.app_context():
            host.db.session.execute(sa.update(row).values(next_attempt_at=past))
            host.db.session.commit()
            assert deliverer.deliver(host.referral.state) == "delivered"
            host.referral.get_or_create_code(second)
            host.db.session.commit()

    with host.app.app_context():
        host.referral.get_or_create_code(first)
        host.db.session.commit()
    deliver(host)
    assert told == [first, first, second]


def test_who_takes_an_event_reads_no_more_than_is_due(
    make_postgresql: MakeHost,
) -> None:
    host = make_postgresql(key="str", **ON)
    for subject in map(str, range(100)):
        put(host, subject, 5)
    with host.app.app_context():
        engine = host.db.engine
        row = host.referral.models.ReferralOutbox.__table__
        later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        with engine.begin() as db:
            db.execute(sa.update(row).where(row.c.id > 3).values(next_attempt_at=later))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.execute(sa.text("VACUUM ANALYZE referral_outbox"))
        with plans.sent(engine) as seen:
            assert deliverer.deliver(host.referral.state) == "delivered"
    with engine.connect() as db:
        scans = [scan for each in seen for scan in plans.scans(each.explain(db)["Plan"])]
    assert scans
    assert not [scan for scan in scans if scan.is_whole]


def test_every_event_can_be_written_down_and_read_again() -> None:
    numbers = itertools.count(1)
    samples: dict[str, t.Any] = {
        "int": lambda: next(numbers),
        "str": lambda: f"text {next(numbers)}",
        "str | None": lambda: None,
        "uuid.UUID": uuid.uuid4,
        "uuid.UUID | None": lambda: None,
        "t.Any": lambda: next(numbers),
        "RewardStatus": lambda: "pending",
        "RewardRole": lambda: "referrer",
    }
    assert len(EVENTS) == 9
    for event in EVENTS.values():
        fields = {
            field.name: samples[str(field.type)]() for field in event.__dataclass_fields__.values()
        }
        made: Event = event(**fields)
        assert event.of(json.loads(json.dumps(made.payload())), int) == made
        assert hasattr(made, event.subject) is event.is_kept
