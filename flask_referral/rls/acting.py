"""Row level security from inside the application (PostgreSQL).

A block sets the role and the identity for the transaction only, so nothing stays on a pooled
connection and a transaction pooler may stand in between. What the host had set is kept in a
setting of ours, equally transaction-local: whatever moment a rolled back savepoint takes the
transaction back to, the three belong together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import typing as t
import weakref

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Mapper
from sqlalchemy.orm import Session
from sqlalchemy.orm import SessionTransaction

from ..db.sql import Connection
from ..db.sql import IDENTIFIERS
from ..db.sql import sqlstate
from ..errors import RowSecurityUnavailable

if t.TYPE_CHECKING:
    from ..db.models import Models
    from ..host.state import State
    from ..settings import Settings
# "request.jwt.claims" is what PostgREST sets; Supabase's auth.uid() looks at the older
# "request.jwt.claim.sub" first. The materialised part is read before anything is set.
_ENTER = """
WITH host AS MATERIALIZED (
    SELECT coalesce(
               nullif(pg_catalog.current_setting('flask_referral.host', true), ''),
               pg_catalog.json_build_object(
                   'role', pg_catalog.current_setting('role'),
                   'claims', coalesce(pg_catalog.current_setting('request.jwt.claims', true), ''),
                   'sub', coalesce(pg_catalog.current_setting('request.jwt.claim.sub', true), '')
               )::text
           ) AS settings,
           pg_catalog.to_regclass(%(table)s) AS codes
)
SELECT pg_catalog.set_config('flask_referral.host', host.settings, true),
       pg_catalog.set_config('request.jwt.claims', %(claims)s, true),
       pg_catalog.set_config('request.jwt.claim.sub', %(sub)s, true),
       pg_catalog.set_config('role', %(role)s, true),
       pg_catalog.row_security_active(host.codes) AS enforced
FROM host
"""
_LEAVE = """
WITH host AS MATERIALIZED (
    SELECT nullif(pg_catalog.current_setting('flask_referral.host', true), '')::json AS settings
), before AS MATERIALIZED (
    SELECT settings OPERATOR(pg_catalog.->>) 'role' AS role,
           settings OPERATOR(pg_catalog.->>) 'claims' AS claims,
           settings OPERATOR(pg_catalog.->>) 'sub' AS sub
    FROM host WHERE settings IS NOT NULL
)
SELECT pg_catalog.set_config('role', before.role, true),
       pg_catalog.set_config('request.jwt.claims', before.claims, true),
       pg_catalog.set_config('request.jwt.claim.sub', before.sub, true),
       pg_catalog.set_config('flask_referral.host', '', true)
FROM before
"""
#: Single statements that leave the settings of the transaction as they are. What was read is not
#: read again: a statement may end in any number of blanks.
_KEEPS_SETTINGS = re.compile(
    r"\s*+(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE|SAVEPOINT|RELEASE)\b[^;]*+;?\s*+",
    re.IGNORECASE,
)

# libpq's PGTransactionStatusType; psycopg2 and psycopg 3 show it in the same place.
_IDLE = 0
_IN_TRANSACTION = 2


# Blocks are told apart by identity: several may be of the same user.
@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
    """What a transaction is set to; the names are those of the parameters of ``_ENTER``."""

    role: str
    claims: str
    sub: str
    table: str


class _Guard:
    """Keeps the transactions of a session at what its innermost open block asks for.

    It looks at each statement before it is sent, and goes on doing so after the last block: a
    savepoint that was made inside one and is rolled back after it brings the block's role back.
    """

    def __init__(self, mapper: Mapper[t.Any]) -> None:
        self.mapper = mapper
        #: The open blocks, innermost last.
        self.blocks: list[_Block] = []
        #: Whether each connection is known to be set as it should be.
        self.settled: weakref.WeakKeyDictionary[sa.Connection, bool]
        self.settled = weakref.WeakKeyDictionary()
        self.is_settling = False

    def enter(self, connection: sa.Connection, block: _Block) -> None:
        self.watch(connection)
        self.blocks.append(block)
        try:
            self.settle(connection)
        except BaseException:
            self.leave(block)
            raise

    def leave(self, block: _Block) -> None:
        self.blocks.remove(block)
        for connection in list(self.settled):
            self.settled[connection] = False
            # Outside a transaction there is nothing to take back. One in error waits for a
            # rollback, and so may SQLAlchemy; on_execute settles what comes after it.
            if _status(connection) == _IN_TRANSACTION:
                with contextlib.suppress(sa.exc.InvalidRequestError):
                    self.settle(connection)

    def watch(self, connection: sa.Connection) -> None:
        if connection in self.settled:
            return
        try:
            event.listen(connection, "before_cursor_execute", self.on_execute)
        except sa.exc.InvalidRequestError as error:
            # https://github.com/sqlalchemy/sqlalchemy/issues/12289
            raise RowSecurityUnavailable(
                "acting_as() cannot watch a connection of an engine that has execution_options() "
                "with this version of SQLAlchemy; upgrade it to 2.0.38 or newer."
            ) from error
        self.settled[connection] = False

    def settle(self, connection: sa.Connection) -> None:
        self.settled[connection] = False
        self.is_settling = True
        try:
            if self.blocks:
                _apply(connection, self.blocks[-1])
            else:
                connection.exec_driver_sql(_LEAVE).close()
        finally:
            self.is_settling = False
        self.settled[connection] = True

    def on_begin(
        self, session: Session, transaction: SessionTransaction, connection: sa.Connection
    ) -> None:
        # A savepoint begins with the settings of its transaction.
        if not self.blocks or transaction.nested:
            return
        # The pool tells the database: execution options make another engine of the same.
        if session.get_bind(self.mapper).engine.pool is connection.engine.pool:
            try:
                self.watch(connection)
            except RowSecurityUnavailable:
                # The session would go on with it, unguarded.
                connection.invalidate()
                raise
            self.settle(connection)

    def on_execute(
        self, connection: sa.Connection, cursor: t.Any, statement: str, *rest: t.Any
    ) -> None:
        if self.is_settling:
            return
        status = _status(connection)
        # Idle: the last transaction was ended behind SQLAlchemy's back.
        if (status == _IDLE and self.blocks) or (
            status == _IN_TRANSACTION and not self.settled[connection]
        ):
            self.settle(connection)
        if not _KEEPS_SETTINGS.fullmatch(statement):
            self.settled[connection] = False


#: By session, or by the connection that sessions join; a guard refers to neither.
_guards: weakref.WeakKeyDictionary[Session | sa.Connection, _Guard] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def acting_as(
    session: Session, models: Models, settings: Settings, user_id: t.Any
) -> t.Iterator[None]:
    """See :meth:`flask_referral.Referral.acting_as`.

    :raises RowSecurityUnavailable: where this database, connection or role cannot do it.
    """
    mapper: Mapper[t.Any] = sa.inspect(models.ReferralCode)
    block = _block(models, session.get_bind(mapper).dialect, settings.rls_role, user_id)
    guard = _guard(session, mapper)
    # Where this begins a transaction, the blocks around this one come into force first.
    connection = session.connection({"mapper": mapper})
    # What is pending belongs to the host and is written before its rights are taken away.
    session.flush()
    _expire_own_rows(session, models)
    guard.enter(connection, block)
    try:
        yield
    except sa.exc.ProgrammingError as error:
        if sqlstate(error) == "42501":
            error.add_note(
                f"Inside acting_as() the role {block.role!r} may read the referral tables and "
                "nothing else; if it may not do that either, run `flask referral rls grant "
                f"--user-role {block.role}`."
            )
        raise
    finally:
        guard.leave(block)


def own_read(
    state: State, user_id: t.Any, db: Connection | None = None
) -> contextlib.AbstractContextManager[None]:
    """Return what a read of ours for one user is made in, where the settings ask for it.

    :param db: a connection of ours that the read goes through and that is in no transaction;
        default: ``db.session``'s own.
    """
    if not state.uses_row_security:
        return contextlib.nullcontext()
    if db is not None:
        return _one_transaction(state, user_id, t.cast(sa.Connection, db))
    return acting_as(state.db.session(), state.models, state.settings, user_id)


@contextlib.contextmanager
def _one_transaction(state: State, user_id: t.Any, db: sa.Connection) -> t.Iterator[None]:
    # The settings go with the transaction, which nobody but us ends.
    try:
        _apply(db, _block(state.models, db.dialect, state.settings.rls_role, user_id))
        yield
    finally:
        db.rollback()


def _guard(session: Session, mapper: Mapper[t.Any]) -> _Guard:
    bind = session.get_bind(mapper)
    # Sessions that join the transaction of one connection share its settings as well.
    owner = bind if isinstance(bind, sa.Connection) else session
    guard = _guards.get(owner)
    if guard is None:
        guard = _guards[owner] = _Guard(mapper)
        if owner is session:
            event.listen(session, "after_begin", guard.on_begin)
    return guard


def _block(models: Models, dialect: sa.Dialect, role: str | None, user_id: t.Any) -> _Block:
    if dialect.name != "postgresql":
        raise RowSecurityUnavailable(
            f"acting_as() needs PostgreSQL, and this database is {dialect.name!r}; row level "
            "security does not exist there."
        )
    if dialect.driver not in ("psycopg2", "psycopg"):
        raise RowSecurityUnavailable(
            f"acting_as() works with the drivers psycopg2 and psycopg, not with "
            f"{dialect.driver!r}; name one of them in SQLALCHEMY_DATABASE_URI, as in "
            "postgresql+psycopg2://."
        )
    if role is None:
        raise RowSecurityUnavailable(
            "acting_as() needs a role: run `flask referral rls grant --user-role ROLE` and set "
            "REFERRAL_RLS_ROLE to it."
        )
    # As the column stores it: a type of the host's own may convert.
    processor = models.user_key.type.dialect_impl(dialect).bind_processor(dialect)
    sub = str(user_id if processor is None else processor(user_id))
    table = IDENTIFIERS.format_table(models.ReferralCode.__table__)
    return _Block(role, json.dumps({"sub": sub, "role": role}), sub, table)


def _apply(connection: sa.Connection, block: _Block) -> None:
    try:
        row = connection.exec_driver_sql(_ENTER, vars(block)).one()
    except sa.exc.DBAPIError as error:
        if sqlstate(error) not in ("22023", "42501"):
            raise
        raise RowSecurityUnavailable(
            f"The database connection may not take the role {block.role!r} of "
            f"REFERRAL_RLS_ROLE: run `flask referral rls grant --user-role {block.role}` as the "
            "owner of the tables."
        ) from error
    # psycopg2 begins no other transaction after a COMMIT that it has not sent itself.
    if _status(connection) != _IN_TRANSACTION:
        raise RowSecurityUnavailable(
            "acting_as() needs a transaction, and this connection has none: use a session that "
            "is not in AUTOCOMMIT, and end transactions with its commit() and rollback()."
        )
    if row.enforced is False:
        raise RowSecurityUnavailable(
            f"Row level security does not bind the role {block.role!r} of REFERRAL_RLS_ROLE on "
            f"{block.table}: run `flask referral db upgrade`, and name a role that neither owns "
            "the tables nor has SUPERUSER or BYPASSRLS."
        )


def _expire_own_rows(session: Session, models: Models) -> None:
    # Session.get() would answer with a row that was loaded before, without asking the database.
    for instance in session.identity_map.values():
        if isinstance(instance, models.classes):
            session.expire(instance)


def _status(connection: sa.Connection) -> int:
    if connection.closed or connection.invalidated:
        return _IDLE
    status: int = t.cast(t.Any, connection.connection.dbapi_connection).info.transaction_status
    return status
