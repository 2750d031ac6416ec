"""One connection and one commit for each request."""

from __future__ import annotations

import contextlib
import typing as t

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import outbox
from ..db import failures
from ..db import qualified
from ..db import sql

if t.TYPE_CHECKING:
    from ..events import Event
    from ..host.state import State
T = t.TypeVar("T")


def in_one_commit(
    state: State,
    work: t.Callable[[sql.Connection], T],
    told: t.Callable[[T], t.Sequence[Event]],
    *,
    locks: bool = False,
) -> T:
    """Do what a view or a command does in one transaction, commit, and return what came of it.

    Where the request has opened ``db.session`` already, its connection is what is used: a second
    one could exhaust the pool with every thread waiting for its second one. Otherwise it is an
    AUTOCOMMIT connection, which spares the transaction: each statement is committed by itself.
    Row level security and locks are of a transaction, and always take the session.

    In a transaction stricter than READ COMMITTED, and in one of SQLite that began by reading,
    a database refuses to write next to what others have committed meanwhile. The work is done
    once more then, in a new transaction, if nothing of the host's is lost with the old one.

    :param locks: whether the work takes a lock that its later statements rely on.
    :param told: returns what is to be told of the result, when it is committed.
    """
    scoped = state.db.session
    # The outbox is written in the transaction of what it tells.
    locks = locks or state.settings.outbox
    if scoped.registry.has() or state.uses_row_security or locks:
        session: Session = scoped()

        def work_and_announce(connection: sql.Connection) -> T:
            session.flush()
            result = work(connection)
            events = told(result)
            outbox.announce(connection, session, state.models, state.settings, *events)
            return result

        return _commit_or_repeat(
            state, session, work_and_announce, lambda: _may_repeat(state, session)
        )
    with state.autocommit() as connection:
        result = _commit_or_repeat(state, connection, work, lambda: True)
    outbox.announce(None, None, state.models, state.settings, *told(result))
    return result


def _commit_or_repeat(
    state: State,
    owner: Session | sql.Connection,
    work: t.Callable[[sql.Connection], T],
    may_repeat: t.Callable[[], bool],
) -> T:
    is_first, is_last = True, False
    while True:
        try:
            connection = state.models.connection(owner) if isinstance(owner, Session) else owner
            if is_first:
                is_last = not may_repeat()
            else:
                # Waits for who is writing, and sees what was written.
                sql.begin_writing(connection, anew=True)
            result = work(connection)
            owner.commit()
            return result
        except BaseException as error:
            owner.rollback()
            contended = isinstance(error, sa.exc.DBAPIError) and failures.is_contended(error)
            if is_last or not contended:
                raise
            is_first, is_last = False, True


def _may_repeat(state: State, session: Session) -> bool:
    """Whether the session's transaction, if it is refused to write, holds nothing of the host's."""
    if is_joined(state, session) or session.new or session.dirty or session.deleted:
        return False
    connection = state.models.connection(session)
    if connection.dialect.name == "sqlite":
        # Whoever has written is never refused, since nobody else could.
        return True
    levels = {
        connection.default_isolation_level,
        connection.get_execution_options().get("isolation_level"),
        state.engine.get_execution_options().get("isolation_level"),
    }
    is_strict = not levels.isdisjoint(("REPEATABLE READ", "SERIALIZABLE"))
    return is_strict and _has_only_read(connection)


@contextlib.contextmanager
def reading(state: State, *, replica: bool = False) -> t.Iterator[sql.Connection]:
    """Yield what a view reads with; nothing of the host's is committed.

    :param replica: whether ``REFERRAL_READ_BIND`` will do, where it is set: it does not know yet
        what was written a moment ago, and its connection is not ``db.session``'s.
    """
    engine = state.read_engine if replica else None
    if engine is not None:
        # Row level security needs a transaction.
        lent = engine.connect() if state.uses_row_security else state.autocommit(engine)
        with lent as connection:
            yield connection
        return
    session = held_session(state)
    if session is None and state.uses_row_security:
        session = state.db.session()
    if session is not None:
        yield state.models.connection(session)
    else:
        with state.autocommit() as connection:
            yield connection


@contextlib.contextmanager
def beside_host(state: State, session: Session | None) -> t.Iterator[sql.Connection]:
    """Yield a connection for a row of ours next to whatever the host is doing.

    The host's work is neither committed nor lost, and no second connection is taken while
    ``db.session`` has one. If the session is in a transaction that has read only, the usual
    state after a page was made, our row is committed in it. If the host has changed something
    that it has not committed, our row waits in the same transaction for what the host decides.

    :param session: what :func:`held_session` returned.
    """
    if session is None:
        with state.autocommit() as connection:
            yield connection
        return
    untouched = _is_untouched(state, session)
    with in_savepoint(state, session) as connection:
        if untouched and not is_joined(state, session):
            # The commit ends what is set for the transaction.
            yield connection
        else:
            with waiting_at_most(connection, state.settings.lock_timeout_ms):
                yield connection
    if untouched:
        _commit(session)


@contextlib.contextmanager
def waiting_at_most(
    connection: sa.Connection, milliseconds: int, *, is_last: bool = False
) -> t.Iterator[None]:
    """Wait no longer than that for each lock of somebody else's, on PostgreSQL.

    The transaction's own limit holds again afterwards; a rollback, of a savepoint too, brings it
    back by itself. SQLite waits as long as the host has said when it connects.

    :param is_last: whether the transaction ends in the block.
    :raises sqlalchemy.exc.DBAPIError: contended, see :func:`~.db.failures.is_contended`.
    """
    if connection.dialect.name == "sqlite":
        yield
        return
    # No SELECT, which a strict transaction would see the state of this moment from.
    before = None if is_last else connection.exec_driver_sql("SHOW lock_timeout").scalar()
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
    yield
    if before is not None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'")


@contextlib.contextmanager
def in_savepoint(state: State, session: Session) -> t.Iterator[sa.Connection]:
    """Yield the session's own connection, so that a failure leaves its transaction usable."""
    connection = state.models.connection(session)
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
    return session if is_joined(state, session) or session.in_transaction() else None


def is_joined(state: State, session: Session) -> bool:
    """Whether somebody else began the session's transaction and will end it, as in tests."""
    return isinstance(state.models.bind(session), sa.Connection)


def _is_untouched(state: State, session: Session) -> bool:
    """Whether a commit would commit nothing of the host's."""
    if session.new or session.dirty or session.deleted or session.in_nested_transaction():
        return False
    connection = state.models.connection(session)
    if connection.dialect.name == "sqlite":
        return not sql.driver(connection).in_transaction
    return _has_only_read(connection)


def _has_only_read(connection: sa.Connection) -> bool:
    # PostgreSQL gives a transaction its number when it writes or locks a row.
    return bool(
        qualified.execute(
            connection, sa.select(sa.func.pg_current_xact_id_if_assigned().is_(None))
        ).scalar()
    )


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
