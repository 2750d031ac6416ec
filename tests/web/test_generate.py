"""``POST /api/referral/generate``: one code for each user, whatever happens."""

from __future__ import annotations

import collections
import contextlib
import threading
import typing as t

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from flask_referral import codes
from flask_referral.errors import CodeExhausted
from flask_referral.errors import UnknownUser

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS

URL = "/api/referral/generate"
THREADS = 16

#: Ways in which a host makes every transaction strict.
ISOLATION: dict[str, dict[str, t.Any]] = {
    "default": {},
    "repeatable-read": {"isolation_level": "REPEATABLE READ"},
    "serializable": {"isolation_level": "SERIALIZABLE"},
    "serializable-option": {"execution_options": {"isolation_level": "SERIALIZABLE"}},
    "serializable-server": {
        "connect_args": {"options": "-c default_transaction_isolation=serializable"}
    },
    "autocommit": {"isolation_level": "AUTOCOMMIT"},
}


def load_user_first(host: Host) -> None:
    """Make the identity loader open ``db.session``, as Flask-Login's does."""

    @host.referral.identity_loader
    def load() -> t.Any:
        return host.db.session.get(host.User, host.current_user)


@pytest.fixture(params=["session", "autocommit"])
def prepare(request: pytest.FixtureRequest) -> t.Callable[[Host], None]:
    """Run the test with ``db.session`` opened before the view, and without."""
    return load_user_first if request.param == "session" else lambda host: None


def stored(host: Host) -> list[str]:
    with host.app.app_context():
        model = host.referral.models.ReferralCode
        return list(host.db.session.scalars(sa.select(model.code).order_by(model.code)))


@contextlib.contextmanager
def counted(host: Host) -> t.Iterator[collections.Counter[str]]:
    """Count the connections that are taken from the pool, the commits and the rollbacks."""
    counts: collections.Counter[str] = collections.Counter()
    open_now = 0

    def checkout(*rest: t.Any) -> None:
        nonlocal open_now
        open_now += 1
        counts["checkout"] += 1
        counts["at once"] = max(counts["at once"], open_now)

    def checkin(*rest: t.Any) -> None:
        nonlocal open_now
        open_now -= 1

    def commit(connection: sa.Connection) -> None:
        counts["commit"] += 1

    def rollback(connection: sa.Connection) -> None:
        counts["rollback"] += 1

    with host.app.app_context():
        engine = host.db.engine
    listeners: list[tuple[str, t.Callable[..., None]]] = [
        ("checkout", checkout),
        ("checkin", checkin),
        ("commit", commit),
        ("rollback", rollback),
    ]
    for name, function in listeners:
        event.listen(engine, name, function)
    try:
        yield counts
    finally:
        for name, function in listeners:
            event.remove(engine, name, function)


def draw(monkeypatch: pytest.MonkeyPatch, *drawn: str) -> None:
    """Make the source of codes answer with these, one after another."""
    source = iter(drawn)
    monkeypatch.setattr(codes, "generate_referral_code", lambda: next(source))


@pytest.mark.parametrize("key", KEYS)
def test_same_code_each_time(make: MakeHost, key: str, prepare: t.Callable[[Host], None]) -> None:
    host = make(key=key)
    prepare(host)
    host.current_user = host.add_user()
    answers = [host.client().post(URL) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    found = {answer.get_json()["code"] for answer in answers}
    assert len(found) == 1
    assert stored(host) == list(found)
    assert codes.normalize_code(found.pop()) is not None
    assert answers[0].get_json().keys() == {"code"}
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


def test_codes_of_two_users_differ(make: MakeHost) -> None:
    host = make()
    found = set()
    for _ in range(2):
        host.current_user = host.add_user()
        found.add(host.client().post(URL).get_json()["code"])
    assert len(found) == 2


def test_psycopg_3(
    postgresql_url: str,
    host_on: t.Callable[..., Host],
    prepare: t.Callable[[Host], None],
) -> None:
    host = host_on(postgresql_url.replace("+psycopg2", "+psycopg"))
    prepare(host)
    host.current_user = host.add_user()
    answers = [host.client().post(URL) for _ in range(2)]
    assert answers[0].get_json() == answers[1].get_json() == {"code": stored(host)[0]}


def test_nobody_is_logged_in(make: MakeHost) -> None:
    host = make()
    with host.statements() as statements:
        answer = host.client().post(URL)
    assert answer.status_code == 401
    assert answer.get_json().keys() == {"error", "code"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert statements == []


def test_no_such_user(make: MakeHost) -> None:
    host = make()
    host.current_user = 77
    answer = host.client().post(URL)
    assert (answer.status_code, answer.get_json()["code"]) == (401, "unknown_user")
    with host.app.app_context():
        host.db.session.execute(sa.text("SELECT 1"))
        with pytest.raises(UnknownUser, match="no user 77 in table 'users'"):
            host.referral.get_or_create_code(77)
        host.db.session.commit()
    assert stored(host) == []


def test_user_who_is_deleted_while_logged_in(make: MakeHost) -> None:
    host = make()
    host.current_user = host.add_user()
    host.client().post(URL)
    with host.app.app_context():
        host.db.session.execute(sa.delete(host.User))
        host.db.session.commit()
        if host.db.engine.dialect.name == "sqlite":
            # Foreign keys are off there unless the host turns them on.
            host.db.session.execute(sa.delete(host.referral.models.ReferralCode))
            host.db.session.commit()
    assert host.client().post(URL).status_code == 401
    assert host.client().get("/api/referral/stats").status_code == 401
    assert stored(host) == []


# Budgets


def test_statements_and_connections(make: MakeHost) -> None:
    host = make()
    host.current_user = host.add_user()
    with host.statements() as first, counted(host) as counts:
        assert host.client().post(URL).status_code == 200
    assert len(first) == 2
    assert (counts["checkout"], counts["commit"]) == (1, 1)
    with host.statements() as second, counted(host) as counts:
        assert host.client().post(URL).status_code == 200
    assert len(second) == 1
    assert (counts["checkout"], counts["commit"]) == (1, 1)


def test_statements_and_connections_on_an_open_session(make: MakeHost) -> None:
    host = make()
    load_user_first(host)
    host.current_user = host.add_user()
    # One more than above: the host's own, which loads the user.
    for budget in (3, 2):
        with host.statements() as statements, counted(host) as counts:
            assert host.client().post(URL).status_code == 200
        assert len(statements) == budget
        assert counts == {"checkout": 1, "at once": 1, "commit": 1}


def test_first_statement_is_in_autocommit(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    host.current_user = host.add_user()
    modes: list[bool] = []

    def look(connection: sa.Connection, *rest: t.Any) -> None:
        modes.append(t.cast(t.Any, connection.connection.dbapi_connection).autocommit)

    with host.app.app_context():
        event.listen(host.db.engine, "before_cursor_execute", look)
    host.client().post(URL)
    assert modes == [True, True]


@pytest.mark.parametrize("isolation", ISOLATION)
def test_pool_of_one_connection(
    make_postgresql: MakeHost, prepare: t.Callable[[Host], None], isolation: str
) -> None:
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1, **ISOLATION[isolation]}
    host = make_postgresql(SQLALCHEMY_ENGINE_OPTIONS=options)
    prepare(host)
    host.current_user = host.add_user()
    with counted(host) as counts:
        assert host.client().post(URL).status_code == 200
    assert counts["at once"] == 1
    with host.app.app_context(), host.db.engine.connect() as connection:
        level = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
    # What was set for one transaction did not stay on the pooled connection.
    expected = "read-committed" if isolation in ("default", "autocommit") else isolation
    assert level.replace(" ", "-") == expected.removesuffix("-option").removesuffix("-server")


# Races


def race(host: Host, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Ask in sixteen threads, none of which sees a code before all of them have looked."""
    barrier = threading.Barrier(THREADS)
    here = threading.local()
    find = codes.find

    def find_together(*args: t.Any) -> t.Any:
        found = find(*args)
        if not hasattr(here, "has_looked"):
            here.has_looked = True
            assert found is None
            barrier.wait(30)
        return found

    monkeypatch.setattr(codes, "find", find_together)
    answers: list[tuple[int, str]] = []

    def ask() -> None:
        answer = host.client().post(URL)
        answers.append((answer.status_code, answer.get_data(as_text=True)))

    threads = [threading.Thread(target=ask) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def assert_one_code(host: Host, answers: list[tuple[int, str]]) -> None:
    assert {status for status, _ in answers} == {200}, set(answers)
    assert len(answers) == THREADS
    assert len({body for _, body in answers}) == 1
    assert len(stored(host)) == 1


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("isolation", ISOLATION)
def test_sixteen_threads_on_postgresql(
    postgresql_url: str,
    host_on: t.Callable[..., Host],
    prepare: t.Callable[[Host], None],
    monkeypatch: pytest.MonkeyPatch,
    isolation: str,
    driver: str,
) -> None:
    options = {"pool_size": THREADS, **ISOLATION[isolation]}
    url = postgresql_url.replace("+psycopg2", f"+{driver}")
    host = host_on(url, SQLALCHEMY_ENGINE_OPTIONS=options)
    prepare(host)
    host.current_user = host.add_user()
    assert_one_code(host, race(host, monkeypatch))


@pytest.mark.parametrize("begins", [False, True])
def test_sixteen_threads_on_sqlite(
    make_sqlite: MakeHost,
    prepare: t.Callable[[Host], None],
    monkeypatch: pytest.MonkeyPatch,
    begins: bool,
) -> None:
    options = {"pool_size": THREADS, "connect_args": {"timeout": 60}}
    host = make_sqlite(SQLALCHEMY_ENGINE_OPTIONS=options)
    if begins:
        # SQLAlchemy documents this for hosts that want real transactions.
        with host.app.app_context():
            engine = host.db.engine
            engine.dispose()

        @event.listens_for(engine, "connect")
        def leave_transactions_to_us(connection: t.Any, record: t.Any) -> None:
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    prepare(host)
    host.current_user = host.add_user()
    assert_one_code(host, race(host, monkeypatch))


def test_second_tab_on_an_open_transaction(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    user_id = host.add_user()
    host.current_user = user_id
    with host.app.app_context():
        session = host.db.session()
        session.execute(sa.text("SELECT 1"))
        code = host.client().post(URL).get_json()["code"]
        assert host.referral.get_or_create_code(user_id).code == code
        session.commit()
    assert stored(host) == [code]


# Collisions


def test_fifth_draw_is_free(
    make: MakeHost, prepare: t.Callable[[Host], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make()
    prepare(host)
    draw(monkeypatch, "TAKEN222", *["TAKEN222"] * 4, "FREE2222")
    for expected in ("TAKEN222", "FREE2222"):
        host.current_user = host.add_user()
        assert host.client().post(URL).get_json() == {"code": expected}
    assert stored(host) == ["FREE2222", "TAKEN222"]


def test_five_draws_are_taken(
    make: MakeHost,
    prepare: t.Callable[[Host], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = make()
    prepare(host)
    draw(monkeypatch, "TAKEN222", *["TAKEN222"] * 5, "FREE2222")
    host.current_user = host.add_user()
    host.client().post(URL)
    host.current_user = host.add_user()
    answer = host.client().post(URL)
    assert answer.status_code == 500
    assert answer.get_json() == {
        "error": "The referral program could not answer; the error was logged.",
        "code": "internal_error",
    }
    assert str(CodeExhausted()) in caplog.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert stored(host) == ["TAKEN222"]


@pytest.mark.parametrize("draws", [3, 5])
def test_pending_row_of_the_hosts_survives(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch, draws: int
) -> None:
    host = make()
    draw(monkeypatch, "TAKEN222", *["TAKEN222"] * draws, "FREE2222")
    first, second = host.add_user(), host.add_user()
    with host.app.app_context():
        session = host.db.session()
        host.referral.get_or_create_code(first)
        session.commit()
        order = host.Wallet(user_id=second, amount_cents=1, type="adjustment")
        session.add(order)
        with counted(host) as counts:
            if draws < 5:
                assert host.referral.get_or_create_code(second).code == "FREE2222"
            else:
                with pytest.raises(CodeExhausted):
                    host.referral.get_or_create_code(second)
        assert (counts["commit"], counts["rollback"]) == (0, 0)
        assert session.in_transaction()
        session.commit()
        assert session.scalar(sa.select(sa.func.count(host.Wallet.id))) == 1
    assert stored(host) == ["FREE2222", "TAKEN222"][draws // 5 :]


def test_code_goes_with_the_transaction(make: MakeHost) -> None:
    host = make()
    user_id = host.add_user()
    with host.app.app_context():
        first = host.referral.get_or_create_code(user_id)
        assert host.referral.get_or_create_code(user_id) is first
        host.db.session.rollback()
    assert stored(host) == []


# The host's own work in the same request


def add_order_first(host: Host) -> None:
    @host.app.before_request
    def order() -> None:
        host.db.session.add(
            host.Wallet(user_id=host.current_user, amount_cents=1, type="adjustment")
        )
        host.db.session.flush()


def count_orders(host: Host) -> int:
    with host.app.app_context():
        return host.db.session.scalar(sa.select(sa.func.count(host.Wallet.id))) or 0


@pytest.mark.parametrize("isolation", ISOLATION)
def test_work_of_the_request_is_committed_too(make_postgresql: MakeHost, isolation: str) -> None:
    host = make_postgresql(SQLALCHEMY_ENGINE_OPTIONS=ISOLATION[isolation])
    host.current_user = host.add_user()
    add_order_first(host)
    assert host.client().post(URL).status_code == 200
    assert count_orders(host) == len(stored(host)) == 1


@pytest.mark.parametrize("isolation", [*sorted(ISOLATION.keys() - {"autocommit"}), "sqlite"])
def test_work_of_the_request_is_rolled_back_with_a_failure(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    sqlite = isolation == "sqlite"
    make: MakeHost = request.getfixturevalue("make_sqlite" if sqlite else "make_postgresql")
    host = make(SQLALCHEMY_ENGINE_OPTIONS=ISOLATION.get(isolation, {}))
    host.current_user = host.add_user()
    add_order_first(host)

    def fail(*args: t.Any) -> t.NoReturn:
        raise CodeExhausted()

    monkeypatch.setattr(codes, "create", fail)
    # The session outlives the request here, so it is the view that rolls back.
    with host.app.app_context():
        assert host.client().post(URL).status_code == 500
        host.db.session.commit()
    assert count_orders(host) == len(stored(host)) == 0


# Refused by a strict transaction, because of a code that was made meanwhile


def make_code_meanwhile(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another tab make the code just after the first look for it."""
    find, calls = codes.find, iter(range(100))
    table = host.referral.models.ReferralCode.__table__

    def find_and_lose(*args: t.Any) -> t.Any:
        found = find(*args)
        if next(calls) == 0:
            with host.db.engine.begin() as other:
                values = {"user_id": host.current_user, "code": "QTHERTAB"}
                other.execute(sa.insert(table).values(values))
        return found

    monkeypatch.setattr(codes, "find", find_and_lose)


@pytest.mark.parametrize("isolation", ["repeatable-read", "serializable"])
def test_another_tab_is_found_by_a_second_look(
    make_postgresql: MakeHost, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    host = make_postgresql(SQLALCHEMY_ENGINE_OPTIONS=ISOLATION[isolation])
    load_user_first(host)
    host.current_user = host.add_user()
    make_code_meanwhile(host, monkeypatch)
    answer = host.client().post(URL)
    assert (answer.status_code, answer.get_json()) == (200, {"code": "QTHERTAB"})


@pytest.mark.parametrize("isolation", ["repeatable-read", "serializable"])
@pytest.mark.parametrize("flushed", [True, False])
def test_work_of_the_request_is_never_lost_with_a_good_answer(
    make_postgresql: MakeHost, monkeypatch: pytest.MonkeyPatch, isolation: str, flushed: bool
) -> None:
    host = make_postgresql(SQLALCHEMY_ENGINE_OPTIONS=ISOLATION[isolation])
    host.current_user = host.add_user()

    @host.app.before_request
    def order() -> None:
        host.db.session.add(
            host.Wallet(user_id=host.current_user, amount_cents=1, type="adjustment")
        )
        if flushed:
            host.db.session.flush()

    make_code_meanwhile(host, monkeypatch)
    assert host.client().post(URL).status_code == 500
    assert count_orders(host) == 0
    assert host.client().post(URL).get_json() == {"code": "QTHERTAB"}
    assert count_orders(host) == 1
