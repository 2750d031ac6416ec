"""Short locks on live tables: give up soon, let the others through, try again later.

A DDL statement that waits for its lock makes everybody queue behind it, so one idle reader can
stop a whole application. With ``lock_timeout`` the statement gives up instead, and the pause
before the next attempt lets the queue drain.
"""

from __future__ import annotations

import contextlib
import typing as t
from time import sleep

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from ..db.sql import DEADLOCK_DETECTED
from ..db.sql import LOCK_NOT_AVAILABLE
from ..db.sql import sqlstate
from ..errors import MigrationRefused

#: How long one attempt waits for a lock that readers or writers would notice, in milliseconds.
LOCK_TIMEOUT_MS = 300
#: How long to wait for a lock that neither readers nor writers notice. Longer than PostgreSQL's
#: ``deadlock_timeout`` (1 second): an autovacuum only gives way to a waiter after that.
QUIET_LOCK_TIMEOUT_MS = 5000
#: How many attempts are made in all.
ATTEMPTS = 10
#: Seconds before the second attempt; doubled before each further one.
FIRST_PAUSE = 0.1
#: No pause is longer than this, in seconds.
LONGEST_PAUSE = 3.0

T = t.TypeVar("T")


def is_autocommit(connection: sa.Connection) -> bool:
    """Say whether the driver runs each statement in a transaction of its own.

    :param connection: a PostgreSQL connection.
    """
    return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))


def raw(connection: sa.Connection, sql: str) -> sa.CursorResult[t.Any]:
    """Run SQL exactly as written: no bind parameters, so that ``%`` and ``:`` mean themselves.

    :param connection: the connection.
    :param sql: one statement.
    """
    return connection.exec_driver_sql(sql, execution_options={"no_parameters": True})


@contextlib.contextmanager
def transaction(connection: sa.Connection) -> t.Iterator[None]:
    """Run the block between BEGIN and COMMIT on a connection in AUTOCOMMIT; an error rolls back.

    :param connection: a PostgreSQL connection in AUTOCOMMIT, for example inside Alembic's
        ``autocommit_block()``.
    """
    raw(connection, "BEGIN")
    try:
        yield
    except BaseException:
        # The server rolls back by itself when it loses the connection.
        if not connection.invalidated:
            raw(connection, "ROLLBACK")
        raise
    raw(connection, "COMMIT")


@contextlib.contextmanager
def committing(context: MigrationContext) -> t.Iterator[sa.Connection]:
    """Commit what a migration did so far, and lend its connection in AUTOCOMMIT for the block.

    It is Alembic's ``autocommit_block()``, except that our own error is not lost when the
    connection broke and leaving the block fails as well.

    :param context: Alembic's context, bound to a connection and to a transaction of its own.
    """
    refused: MigrationRefused | None = None
    try:
        with context.autocommit_block():
            try:
                assert context.connection is not None
                yield context.connection
            except MigrationRefused as error:
                refused = error
                raise
    except sa.exc.SQLAlchemyError as error:
        if refused is not None:
            raise refused from error
        raise


def set_lock_timeout(connection: sa.Connection, milliseconds: int) -> None:
    """Limit how long a statement waits for a lock, until the transaction ends.

    :param connection: a PostgreSQL connection inside a transaction.
    :param milliseconds: the limit.
    """
    raw(connection, f"SET LOCAL lock_timeout = {int(milliseconds)}")


def patiently(
    connection: sa.Connection,
    body: t.Callable[[], T],
    *,
    what: str,
    tables: t.Sequence[int] = (),
    timeout_ms: int | None = None,
) -> T:
    """Run ``body`` under a lock timeout, with growing pauses, until it has its locks.

    On a connection in AUTOCOMMIT each attempt is a transaction of its own. Otherwise it is a
    savepoint: what the transaction did before stays, and an attempt that fails gives back all
    locks it took. On SQLite, which has no such locks, ``body`` simply runs.

    :param connection: the connection that ``body`` uses.
    :param body: what to do; called once per attempt, so it must be repeatable after a rollback.
    :param what: the object to lock, as the error message shall name it, e.g. ``table users``.
    :param tables: oids of the tables, to name the sessions that hold them in the error message.
    :param timeout_ms: how long one attempt waits, in milliseconds; default ``LOCK_TIMEOUT_MS``.
    :raises MigrationRefused: when no attempt got its locks.
    """
    if connection.dialect.name != "postgresql":
        return body()
    limit = LOCK_TIMEOUT_MS if timeout_ms is None else timeout_ms
    pause = FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(connection, body, limit)
        except sa.exc.DBAPIError as error:
            if sqlstate(error) not in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
                raise
            if attempt == ATTEMPTS:
                raise MigrationRefused(_no_lock(connection, what, tables)) from error
        sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
    raise AssertionError("ATTEMPTS is at least 1")


def _attempt(connection: sa.Connection, body: t.Callable[[], T], limit: int) -> T:
    if is_autocommit(connection):
        with transaction(connection):
            set_lock_timeout(connection, limit)
            return body()
    before = raw(connection, "SHOW lock_timeout").scalar_one()
    with connection.begin_nested():
        set_lock_timeout(connection, limit)
        result = body()
        # A released savepoint keeps its settings; the rest of the transaction is not ours.
        raw(connection, f"SET LOCAL lock_timeout = '{before}'")
        return result


def _no_lock(connection: sa.Connection, what: str, tables: t.Sequence[int]) -> str:
    pids: set[int] = set()
    for oid in tables:
        pids.update(
            connection.execute(
                sa.text(
                    "SELECT pid FROM pg_catalog.pg_locks"
                    " WHERE granted AND pid <> pg_catalog.pg_backend_pid()"
                    " AND locktype = 'relation' AND relation = CAST(:oid AS oid)"
                    " AND database = (SELECT oid FROM pg_catalog.pg_database"
                    " WHERE datname = pg_catalog.current_database())"
                ),
                {"oid": oid},
            ).scalars()
        )
    sessions = ", ".join(str(pid) for pid in sorted(pids))
    holders = f" because of the sessions {sessions}" if pids else ""
    return (
        f"Could not lock {what} in {ATTEMPTS} attempts{holders}. Wait for or end the open"
        " transactions that use it (see pg_stat_activity), then run the command again."
    )
