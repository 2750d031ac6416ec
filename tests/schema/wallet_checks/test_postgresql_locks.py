"""On a live table: strong locks for moments only, and a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
import typing as t

import pytest
from sqlalchemy import event

from flask_referral.errors import MigrationRefused
from flask_referral.schema import ddl_locks
from flask_referral.schema.ddl_locks import raw
from flask_referral.schema.wallet_checks import pg_swap

from .support import BONUS
from .support import Database
from .support import Shape
from .test_postgresql_shapes import wallet

MakeDatabase = t.Callable[[Shape], Database]

TABLE = "wallet_transactions"


@pytest.fixture
def database(postgresql: MakeDatabase) -> Database:
    return postgresql(Shape("in_list", wallet()))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[t.Callable[[], None]]:
    """Replace each pause between two attempts by the next of these calls, if there is one."""
    calls: list[t.Callable[[], None]] = []
    monkeypatch.setattr(ddl_locks, "ATTEMPTS", 4)
    monkeypatch.setattr(pg_swap, "LOCK_TIMEOUT_MS", 20)
    monkeypatch.setattr(ddl_locks, "sleep", lambda seconds: calls.pop(0)() if calls else None)
    return calls


class Reader:
    """A session that reads the wallet and leaves its transaction open."""

    def __init__(self, database: Database) -> None:
        self.connection = database.engine.connect()
        self.pid = raw(self.connection, "SELECT pg_backend_pid()").scalar_one()
        raw(self.connection, f"SELECT count(*) FROM {TABLE}")

    def leave(self) -> None:
        self.connection.close()


@contextlib.contextmanager
def reader(database: Database) -> t.Iterator[Reader]:
    session = Reader(database)
    try:
        yield session
    finally:
        session.leave()


@contextlib.contextmanager
def after(database: Database, text: str, call: t.Callable[[], None]) -> t.Iterator[None]:
    """Call something right after the first statement with this text, its transaction still open."""
    done: list[str] = []

    def hook(connection: t.Any, cursor: t.Any, statement: str, *rest: t.Any) -> None:
        if text in statement and not done:
            done.append(statement)
            call()

    event.listen(database.engine, "after_cursor_execute", hook)
    try:
        yield
    finally:
        event.remove(database.engine, "after_cursor_execute", hook)
    assert done, f"no statement had {text}"


def test_an_idle_reader_lets_the_upgrade_fail_with_nothing_changed(
    database: Database, pauses: list[t.Callable[[], None]]
) -> None:
    before = database.dump()
    used: list[int] = []
    pauses += [lambda: used.append(1)] * 10
    with reader(database) as session, pytest.raises(MigrationRefused) as refused:
        database.extend()
    assert f"4 attempts because of the sessions {session.pid}." in str(refused.value)
    assert len(used) == 3
    assert database.dump() == before
    database.extend()
    assert database.gaps() == []


def test_the_upgrade_goes_on_when_the_reader_leaves(
    database: Database, pauses: list[t.Callable[[], None]]
) -> None:
    with reader(database) as session:
        pauses += [lambda: None, session.leave]
        database.extend()
    assert database.gaps() == []


def test_readers_are_not_kept_waiting_between_attempts(
    database: Database, pauses: list[t.Callable[[], None]]
) -> None:
    with reader(database) as session:

        def read() -> None:
            assert database.scalar(f"SELECT count(*) FROM {TABLE}") == 0
            session.leave()

        pauses.append(read)
        database.extend()
    assert not pauses


@pytest.mark.parametrize("step", ["extend", "restore"])
def test_writers_go_on_during_the_scan(database: Database, step: str) -> None:
    if step == "restore":
        database.extend()

    def write() -> None:
        with database.engine.begin() as connection:
            raw(connection, "SET LOCAL lock_timeout = '1s'")
            raw(
                connection,
                f"INSERT INTO {TABLE} (user_id, type, reference_type, amount_cents)"
                " VALUES (1, 'deposit', 'manual', 100)",
            )
            raw(connection, f"UPDATE {TABLE} SET status = 'pending'")

    with after(database, "VALIDATE CONSTRAINT", write):
        getattr(database, step)()
    assert database.scalar(f"SELECT count(*) FROM {TABLE}") == 1


def test_no_strong_lock_is_held_together_with_a_scan(database: Database) -> None:
    modes: list[set[str]] = []

    def look() -> None:
        with database.engine.connect() as connection:
            found = raw(
                connection,
                "SELECT mode FROM pg_locks WHERE granted AND pid <> pg_backend_pid()"
                f" AND relation = '{TABLE}'::regclass",
            ).scalars()
            modes.append(set(found))

    with after(database, "VALIDATE CONSTRAINT", look):
        database.extend()
    assert modes == [{"ShareUpdateExclusiveLock"}]


def test_a_reader_who_stops_the_swap_leaves_the_old_checks(
    database: Database, pauses: list[t.Callable[[], None]]
) -> None:
    before = database.dump()
    sessions: list[Reader] = []
    # Three pauses until the swap gives up; the clean-up has to wait once more.
    pauses += [lambda: None] * 3 + [lambda: sessions[0].leave()]
    with (
        after(database, "VALIDATE CONSTRAINT", lambda: sessions.append(Reader(database))),
        pytest.raises(MigrationRefused, match="Could not lock"),
    ):
        database.extend()
    assert database.dump() == before
    database.extend()
    assert database.gaps() == []


def test_a_temporary_constraint_that_could_not_be_removed_goes_with_the_next_run(
    database: Database, pauses: list[t.Callable[[], None]]
) -> None:
    before = database.dump()
    sessions: list[Reader] = []
    with (
        after(database, "VALIDATE CONSTRAINT", lambda: sessions.append(Reader(database))),
        pytest.raises(MigrationRefused, match=r"type_check__referral.*the next run removes"),
    ):
        database.extend()
    sessions[0].leave()
    assert "__referral" in database.dump()
    database.extend()
    assert "__referral" not in database.dump()
    database.restore()
    assert database.dump() == before


@pytest.mark.parametrize("moment", ["ADD CONSTRAINT", "VALIDATE CONSTRAINT", "DROP CONSTRAINT"])
def test_a_run_that_is_killed_can_be_repeated(database: Database, moment: str) -> None:
    before = database.dump()

    def kill() -> None:
        with database.engine.connect() as connection:
            raw(
                connection,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'",
            )

    with (
        after(database, moment, kill),
        pytest.raises(MigrationRefused, match="run the command again"),
    ):
        database.extend()
    database.extend()
    assert database.gaps() == []
    database.restore()
    assert database.dump() == before


def test_a_bonus_that_arrives_during_the_downgrade_stops_it(database: Database) -> None:
    database.extend()
    widened = database.dump()
    with (
        # Planning is over, the old CHECKs are not yet back.
        after(database, "SHARE UPDATE EXCLUSIVE", lambda: t.cast("None", database.insert(BONUS))),
        pytest.raises(MigrationRefused, match="1 row of"),
    ):
        database.restore()
    assert database.dump() == widened
    database.insert(BONUS)


def test_a_check_that_the_host_changes_meanwhile_is_left_alone(
    database: Database, pauses: list[t.Callable[[], None]]
) -> None:
    def change() -> None:
        database.run(
            f"ALTER TABLE {TABLE} DROP CONSTRAINT {TABLE}_type_check,"
            f" ADD CONSTRAINT {TABLE}_type_check CHECK (type <> 'other')"
        )

    with reader(database) as session:

        def leave_and_change() -> None:
            session.leave()
            change()

        pauses.append(leave_and_change)
        with pytest.raises(MigrationRefused, match="changed by somebody else"):
            database.extend()
    assert "type <> 'other'" in database.dump()
    assert "__referral" not in database.dump()
    database.extend()
    assert "type <> 'other'" in database.dump()


def test_the_rest_of_the_transaction_keeps_its_lock_timeout(database: Database) -> None:
    with database.engine.begin() as connection:
        raw(connection, "SET LOCAL lock_timeout = '7s'")
        limit = ddl_locks.patiently(
            connection,
            lambda: raw(connection, "SHOW lock_timeout").scalar_one(),
            what="nothing",
            timeout_ms=123,
        )
        assert limit == "123ms"
        assert raw(connection, "SHOW lock_timeout").scalar_one() == "7s"


def test_a_savepoint_gives_its_locks_back_before_each_pause(
    database: Database, pauses: list[t.Callable[[], None]]
) -> None:
    """Revisions that run inside Alembic's transaction keep what they did, and no locks."""
    with reader(database) as session, database.engine.begin() as connection:
        raw(connection, "CREATE TABLE kept (id int)")

        def body() -> None:
            raw(connection, "LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            raw(connection, f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")

        def read_users() -> None:
            assert database.scalar("SELECT count(*) FROM users") == 1
            session.leave()

        pauses.append(read_users)
        ddl_locks.patiently(connection, body, what="both", timeout_ms=20)
    assert database.scalar("SELECT count(*) FROM kept") == 0
