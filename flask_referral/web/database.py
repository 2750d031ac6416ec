"""One connection and one commit for each request."""

from __future__ import annotations

import contextlib
import typing as t

import sqlalchemy as sa
from sqlalchemy.orm import Session

if t.TYPE_CHECKING:
    from ..extension import State


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
        engine = state.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection
            connection.commit()


def see_newest(state: State, db: Session | sa.Connection) -> None:
    """Make the next statements see what other requests have committed by then.

    READ COMMITTED, PostgreSQL's default, needs nothing. In a stricter transaction an insert
    that meets a row newer than the transaction fails, and so does any insert in an SQLite
    transaction that began by reading. There, what the request has done so far is committed now
    and not at the end of the view, and a new transaction begins on the same connection.
    """
    code = state.models.ReferralCode
    bind = db.get_bind(code) if isinstance(db, Session) else db.engine
    if isinstance(bind, sa.Connection):
        # Somebody else began the session's transaction and will end it.
        return
    arguments = {"mapper": sa.inspect(code)}
    connection = db.connection(arguments) if isinstance(db, Session) else db
    if bind.dialect.name == "sqlite":
        if t.cast(t.Any, connection.connection.dbapi_connection).in_transaction:
            db.commit()
        return
    levels = {
        connection.default_isolation_level,
        connection.get_execution_options().get("isolation_level"),
        state.engine.get_execution_options().get("isolation_level"),
    }
    if levels.isdisjoint(("REPEATABLE READ", "SERIALIZABLE")):
        return
    db.commit()
    options = {"isolation_level": "READ COMMITTED"}
    if isinstance(db, Session):
        db.connection(arguments, execution_options=options)
    else:
        db.execution_options(**options)
