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
