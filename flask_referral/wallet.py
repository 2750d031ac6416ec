"""Station 5: the host's ``wallet_transactions``.

The host's trigger computes each row's balance from the rows before it, so rows of one wallet
have to be written one transaction after the other. :func:`lock` sees to that: it is a statement
of its own, before the INSERT, because a statement's snapshot is older than a lock it waits for.
"""

from __future__ import annotations

import dataclasses
import typing as t
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from .db.sql import sqlstate
from .errors import ReferralError

if t.TYPE_CHECKING:
    from .db.models import Models
BONUS = "referral_bonus"
ADJUSTMENT = "adjustment"
REFERENCE_TYPE = "referral_conversion"

#: What a wallet table has to have.
COLUMNS = ("user_id", "amount_cents", "type", "reference_type", "reference_id")

# How a host's wallet says no: a CHECK, or what a trigger raises by itself. Other integrity
# errors, a missing user for example, are faults and no answer.
_REFUSALS = ("23514", "P0001", "SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_TRIGGER")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row to write.

    :param amount_cents: what the wallet gains; negative where it loses.
    :param type: :data:`BONUS` or :data:`ADJUSTMENT`.
    """

    user_id: t.Any
    amount_cents: int
    type: str
    conversion_id: uuid.UUID
    description: str
    metadata: dict[str, t.Any] = dataclasses.field(default_factory=dict)


def refuse_autocommit(session: Session, models: Models) -> None:
    """Refuse to begin what could be stored by halves.

    :raises ReferralError: where each statement is a transaction of its own.
    """
    connection = session.connection({"mapper": sa.inspect(models.ReferralConversion)})
    driver = t.cast(t.Any, connection.connection.dbapi_connection)
    if connection.dialect.name == "sqlite":
        autocommit = driver.isolation_level is None and not driver.in_transaction
    else:
        autocommit = driver.autocommit
    if autocommit:
        raise ReferralError(
            "A wallet cannot be credited in AUTOCOMMIT, where a conversion could be stored "
            "without its credit; use a session with the default isolation level."
        )


def lock(
    session: Session,
    models: Models,
    user_ids: t.Iterable[t.Any],
    *,
    may_lock_rows: bool | None = None,
) -> None:
    """Wait until no other transaction writes to these users' wallets, and keep others waiting.

    One statement; the users' rows are locked in the order of their keys. Where the connection
    may not lock rows of the user table, as with Supabase's ``auth.users``, it is an advisory
    lock of the transaction. SQLite has one writer at a time, which this becomes.

    :param may_lock_rows: the answer of :func:`lockable`, where the caller has it.
    :raises ReferralError: in a REPEATABLE READ transaction, whose snapshot hides the rows that
        were written while it waited.
    """
    bind = session.get_bind(models.ReferralConversion)
    connection = session.connection({"mapper": sa.inspect(models.ReferralConversion)})
    if bind.dialect.name != "postgresql":
        if not t.cast(t.Any, connection.connection.dbapi_connection).in_transaction:
            # Python's driver begins at the first write, and reads before it are of yesterday.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    key = models.user_key
    ids = sorted(set(user_ids))
    isolation = sa.func.current_setting("transaction_isolation")
    if may_lock_rows is None:
        may_lock_rows = bool(session.scalar(sa.select(lockable(models, bind.dialect))))
    rows: t.Sequence[sa.Row[t.Any]] = ()
    if may_lock_rows:
        rows = session.execute(
            sa.select(isolation).where(key.in_(ids)).order_by(key).with_for_update(key_share=True)
        ).all()
    if len(rows) < len(ids):
        # Row level security of the host's may hide rows of its user table.
        names = [f"flask_referral.wallet:{user_id}" for user_id in ids]
        name = sa.func.unnest(sa.literal(names, postgresql.ARRAY(sa.Text()))).column_valued()
        advisory = sa.cast(
            sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0)), sa.Text()
        )
        rows = session.execute(sa.select(isolation, advisory)).all()
    if any(row[0] == "repeatable read" for row in rows):
        raise ReferralError(
            "A wallet cannot be credited in a REPEATABLE READ transaction: the balance would be "
            "computed from old rows. Use READ COMMITTED or SERIALIZABLE for it."
        )


def lockable(models: Models, dialect: sa.Dialect) -> sa.ColumnElement[bool]:
    """Return what tells whether this connection may lock rows of the user table."""
    if dialect.name != "postgresql":
        return sa.true()
    table = dialect.identifier_preparer.format_table(models.user_key.table)
    return sa.func.has_any_column_privilege(table, "UPDATE", type_=sa.Boolean())


def post(session: Session, table: sa.Table, entries: t.Sequence[Entry]) -> None:
    """Write rows. One statement. The wallets have to be locked."""
    session.execute(sa.insert(table).values([_row(session, table, entry) for entry in entries]))


def debit(session: Session, table: sa.Table, entry: Entry) -> int:
    """Take what an entry says out of a wallet, or what is in it where it may not go negative.

    :param entry: with a negative amount.
    :return: what was taken, in cents.
    """
    wanted = -entry.amount_cents
    if _try(session, table, entry):
        return wanted
    columns = _columns(table)
    balance = session.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(columns["amount_cents"]), 0)).where(
            columns["user_id"] == entry.user_id
        )
    )
    there = max(0, int(balance or 0))
    # Refused although there is enough: the wallet has another reason, and keeps to it.
    if 0 < there < wanted and _try(session, table, dataclasses.replace(entry, amount_cents=-there)):
        return there
    return 0


def _try(session: Session, table: sa.Table, entry: Entry) -> bool:
    # A savepoint: the refused row must not cost the caller his transaction.
    savepoint = session.begin_nested()
    try:
        post(session, table, [entry])
    except sa.exc.DBAPIError as error:
        savepoint.rollback()
        if (sqlstate(error) or getattr(error.orig, "sqlite_errorname", None)) not in _REFUSALS:
            raise
        return False
    savepoint.commit()
    return True


def _row(session: Session, table: sa.Table, entry: Entry) -> dict[sa.Column[t.Any], t.Any]:
    columns = _columns(table)
    values: dict[str, t.Any] = {
        "user_id": entry.user_id,
        "amount_cents": entry.amount_cents,
        "type": entry.type,
        "reference_type": REFERENCE_TYPE,
        "reference_id": _reference(columns["reference_id"], entry.conversion_id),
    }
    if "description" in columns:
        values["description"] = entry.description
    if "metadata" in columns and isinstance(columns["metadata"].type, sa.JSON):
        values["metadata"] = entry.metadata
    status = columns.get("status")
    if status is not None and not (status.nullable or status.default or status.server_default):
        values["status"] = "completed"
    created_at = columns.get("created_at")
    if created_at is not None and session.get_bind().dialect.name == "postgresql":
        # now() is when the transaction began, which may be before the wallet's last row.
        values["created_at"] = sa.func.clock_timestamp()
    return {columns[name]: value for name, value in values.items()}


def _reference(column: sa.Column[t.Any], conversion_id: uuid.UUID) -> t.Any:
    try:
        is_uuid = column.type.python_type is uuid.UUID
    except NotImplementedError:
        is_uuid = False
    return conversion_id if is_uuid else str(conversion_id)


def _columns(table: sa.Table) -> dict[str, sa.Column[t.Any]]:
    # By name: "metadata" has another key on a mapped class.
    return {column.name: column for column in table.columns}
