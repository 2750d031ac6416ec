"""One connection and one commit for each request."""

from __future__ import annotations

import contextlib
import typing as t

import sqlalchemy as sa
from sqlalchemy.orm import Session

if t.TYPE_CHECKING:
    from ..host.state import State


@contextlib.contextmanager
def one_commit(state: State) -> t.Iterator[Session | sa.Connection]:
    """Yield what a view executes its statements on, and commit at the end.

    Where the request has opened ``db.session`` already, that is what is used: a second
    connection could exhaust the pool with every thread waiting for its second one. Otherwise
    it is an AUTOCOMMIT connection, which spares the ORM's transaction. Row level security is
    transaction-local and always takes the session.
    """
    scoped = state.db.session
    if scoped.registry.has() or state.uses_row_security:
        session = scoped()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
    else:
        with autocommit(state) as connection:
            yield connection
            connection.commit()


def see_newest(state: State, db: Session | sa.Connection) -> None:
    """Make the next statements see what other requests have committed by then.

    READ COMMITTED, PostgreSQL's default, needs nothing. In a stricter transaction an insert
    that meets a row newer than the transaction fails, and so does an insert in an SQLite
    transaction that began by reading. Such a transaction is ended here and a new one begins on
    the same connection, unless the host has written in it: that is for the end of the view.
    """
    code = state.models.ReferralCode
    bind = db.get_bind(code) if isinstance(db, Session) else db.engine
    if isinstance(bind, sa.Connection):
        # Somebody else began the session's transaction and will end it.
        return
    arguments = _bind_arguments(state)
    connection = db.connection(arguments) if isinstance(db, Session) else db
    if bind.dialect.name == "sqlite":
        if _begins_by_reading(connection.connection.dbapi_connection):
            db.commit()
        return
    levels = {
        connection.default_isolation_level,
        connection.get_execution_options().get("isolation_level"),
        state.engine.get_execution_options().get("isolation_level"),
    }
    if levels.isdisjoint(("REPEATABLE READ", "SERIALIZABLE")):
        return
    if not _has_only_read(connection):
        return
    db.commit()
    options = {"isolation_level": "READ COMMITTED"}
    if isinstance(db, Session):
        db.connection(arguments, execution_options=options)
    else:
        db.execution_options(**options)


def _begins_by_reading(connection: t.Any) -> bool:
    # The sqlite3 module begins a transaction before the first write, unless the host turned
    # that off (SQLAlchemy's documentation shows how) or asked for PEP 249's behaviour.
    host_begins = connection.isolation_level is None
    pep_249 = getattr(connection, "autocommit", None) is False
    return bool(connection.in_transaction and (host_begins or pep_249))


@contextlib.contextmanager
def autocommit(state: State) -> t.Iterator[sa.Connection]:
    """Yield a connection on which each statement is a transaction of its own."""
    engine = state.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def reading(state: State) -> t.Iterator[sa.Connection]:
    """Yield what a view reads with; nothing of the host's is committed."""
    session = held_session(state)
    if session is not None:
        yield session.connection(_bind_arguments(state))
    else:
        with autocommit(state) as connection:
            yield connection


@contextlib.contextmanager
def reading_as(state: State, user_id: t.Any) -> t.Iterator[Session | sa.Connection]:
    """As :func:`reading`, under the user's row level security where the settings ask for it."""
    if state.uses_row_security:
        with state.acting_as(user_id):
            yield state.db.session()
    else:
        with reading(state) as connection:
            yield connection


@contextlib.contextmanager
def beside_host(state: State) -> t.Iterator[sa.Connection]:
    """Yield a connection for a row of ours next to whatever the host is doing.

    The host's work is neither committed nor lost, and no second connection is taken while
    ``db.session`` has one. If the session is in a transaction that has read only, the usual
    state after a page was made, our row is committed in it. If the host has changed something
    that it has not committed, our row waits in the same transaction for what the host decides.
    """
    session = held_session(state)
    if session is None:
        with autocommit(state) as connection:
            yield connection
        return
    untouched = _is_untouched(state, session)
    with in_savepoint(state, session) as connection:
        yield connection
    if untouched:
        _commit(session)


@contextlib.contextmanager
def in_savepoint(state: State, session: Session) -> t.Iterator[sa.Connection]:
    """Yield the session's own connection, so that a failure leaves its transaction usable."""
    connection = session.connection(_bind_arguments(state))
    # The session's begin_nested() would flush what the host has pending.
    with connection.begin_nested():
        yield connection


def held_session(state: State) -> Session | None:
    """Return ``db.session`` where it holds a connection, or may hold one."""
    scoped = state.db.session
    if not scoped.registry.has():
        return None
    session: Session = scoped()
    # A session that was joined to a connection sees what others cannot.
    return session if state.is_joined(session) or session.in_transaction() else None


def _bind_arguments(state: State) -> dict[str, t.Any]:
    return {"mapper": sa.inspect(state.models.ReferralClick)}


def _is_untouched(state: State, session: Session) -> bool:
    """Whether a commit would commit nothing of the host's."""
    if session.new or session.dirty or session.deleted or session.in_nested_transaction():
        return False
    connection = session.connection(_bind_arguments(state))
    if connection.dialect.name == "sqlite":
        return not t.cast(t.Any, connection.connection.dbapi_connection).in_transaction
    return _has_only_read(connection)


def _has_only_read(connection: sa.Connection) -> bool:
    # PostgreSQL gives a transaction its number when it writes or locks a row.
    return bool(connection.scalar(sa.select(sa.func.pg_current_xact_id_if_assigned().is_(None))))


def _commit(session: Session) -> None:
    # The host's objects stay loaded, as without us.
    expire_on_commit, session.expire_on_commit = session.expire_on_commit, False
    try:
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.expire_on_commit = expire_on_commit
