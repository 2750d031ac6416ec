"""Row level security from inside the application (PostgreSQL).

The role and the identity are set for the transaction only, so nothing stays on a pooled
connection and a transaction pooler may stand in between. While a block is open, every new
transaction of the session starts with them, and a rolled back savepoint, which takes them back
to what they were when it was made, is followed by setting them again.
"""

from __future__ import annotations

import contextlib
import json
import typing as t

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.orm import SessionTransaction

from .errors import RowSecurityUnavailable

if t.TYPE_CHECKING:
    from .models import Models
    from .settings import Settings

_INFO_KEY = "flask_referral.acting_as"

# "request.jwt.claims" is what PostgREST sets; Supabase's auth.uid() looks at the older
# "request.jwt.claim.sub" first. The materialised part is read before anything is set.
_APPLY = """
WITH before AS MATERIALIZED (
    SELECT current_setting('role') AS role,
           coalesce(current_setting('request.jwt.claims', true), '') AS claims,
           coalesce(current_setting('request.jwt.claim.sub', true), '') AS sub
)
SELECT before.*,
       set_config('request.jwt.claims', %(claims)s, true),
       set_config('request.jwt.claim.sub', %(sub)s, true),
       set_config('role', %(role)s, true)
FROM before
"""


class Scope(t.NamedTuple):
    """What a transaction is set to."""

    role: str
    claims: str
    sub: str


class _Blocks:
    """The open blocks of one session, innermost last."""

    def __init__(self, session: Session, models: Models) -> None:
        self.session = session
        self.bind_arguments = {"mapper": sa.inspect(models.ReferralCode)}
        self.stack: list[Scope] = []
        #: What the host had set in this transaction before the outermost block.
        self.before: Scope | None = None
        #: A savepoint was rolled back, and the settings may be those of an earlier moment.
        self.stale = False
        event.listen(session, "after_begin", self.on_begin)

    def enter(self, scope: Scope) -> None:
        # Where this begins a transaction, on_begin applies the outer blocks first.
        connection = self.session.connection(self.bind_arguments)
        self.apply(connection, scope, remember=not self.stack and not self.stale)
        self.stack.append(scope)

    def leave(self) -> None:
        self.stack.pop()
        if not self.joins_outer and not self.session.in_transaction():
            return
        connection = (
            self.session.connection(self.bind_arguments) if self.session.is_active else None
        )
        if connection is None or _is_in_error(connection):
            self.stale = True
        else:
            self.apply(connection, self.wanted)

    @property
    def wanted(self) -> Scope:
        if self.stack:
            return self.stack[-1]
        return self.before or Scope("none", "", "")

    @property
    def joins_outer(self) -> bool:
        """Whether the session is bound to a connection whose transaction is somebody else's."""
        return isinstance(self.session.get_bind(**self.bind_arguments), sa.Connection)

    def apply(self, connection: sa.Connection, scope: Scope, *, remember: bool = False) -> None:
        if not event.contains(connection, "before_cursor_execute", self.on_execute):
            event.listen(connection, "before_cursor_execute", self.on_execute)
        # The DBAPI's cursor: this runs inside events of the Connection too.
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.execute(_APPLY, scope._asdict())
            row = cursor.fetchone()
        assert row is not None
        if remember:
            self.before = Scope(*row[:3])
        self.stale = False

    def on_begin(
        self, session: Session, transaction: SessionTransaction, connection: sa.Connection
    ) -> None:
        ours = session.get_bind(**self.bind_arguments).engine is connection.engine
        if not ours or transaction.nested:
            return
        if not self.joins_outer:
            self.before = None
            self.stale = False
        if self.stack:
            self.apply(connection, self.stack[-1], remember=not self.joins_outer)

    def on_execute(
        self, connection: sa.Connection, cursor: t.Any, statement: str, *rest: t.Any
    ) -> None:
        if statement.lstrip()[:11].upper() == "ROLLBACK TO":
            self.stale = True
        elif self.stale and not _is_in_error(connection):
            self.apply(connection, self.wanted)


@contextlib.contextmanager
def acting_as(
    session: Session, models: Models, settings: Settings, user_id: t.Any
) -> t.Iterator[None]:
    """See :meth:`flask_referral.Referral.acting_as`.

    :raises RowSecurityUnavailable: where this database or connection cannot do it.
    """
    role = settings.rls_role
    bind = session.get_bind(models.ReferralCode)
    if bind.dialect.name != "postgresql":
        raise RowSecurityUnavailable(
            f"acting_as() needs PostgreSQL, and this database is {bind.dialect.name!r}; row level "
            "security does not exist there."
        )
    if role is None:
        raise RowSecurityUnavailable(
            "acting_as() needs a role: run `flask referral rls grant --user-role ROLE` and set "
            "REFERRAL_RLS_ROLE to it."
        )
    # What is pending belongs to the host and is written before its rights are taken away.
    session.flush()
    if getattr(session.connection().connection.dbapi_connection, "autocommit", False):
        raise RowSecurityUnavailable(
            "acting_as() needs a transaction, and this session is in AUTOCOMMIT; use a session "
            "with the default isolation level."
        )
    _expire_own_rows(session, models)
    blocks: _Blocks | None = session.info.get(_INFO_KEY)
    if blocks is None:
        blocks = session.info[_INFO_KEY] = _Blocks(session, models)
    sub = str(user_id)
    scope = Scope(role, json.dumps({"sub": sub, "role": role}), sub)
    try:
        blocks.enter(scope)
    except Exception as error:
        if sqlstate(error) not in ("22023", "42501"):
            raise
        raise RowSecurityUnavailable(
            f"The database connection may not take the role {role!r} of REFERRAL_RLS_ROLE: run "
            f"`flask referral rls grant --user-role {role}` as the owner of the tables."
        ) from error
    try:
        yield
    finally:
        blocks.leave()


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a PostgreSQL driver's error, wrapped by SQLAlchemy or not."""
    original = getattr(error, "orig", None) or error
    state: str | None = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state


def _expire_own_rows(session: Session, models: Models) -> None:
    # Session.get() would answer with a row that was loaded before, without asking the database.
    own = (models.ReferralCode, models.ReferralClick, models.ReferralConversion)
    for instance in session.identity_map.values():
        if isinstance(instance, own):
            session.expire(instance)


def _is_in_error(connection: sa.Connection) -> bool:
    # libpq's PQTRANS_INERROR; psycopg2 and psycopg 3 show it in the same place.
    info = t.cast(t.Any, connection.connection.dbapi_connection).info
    return bool(info.transaction_status == 3)
