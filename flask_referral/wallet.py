"""Station 5: the host's ``wallet_transactions``.

The host's trigger computes each row's balance from the rows before it, so rows of one wallet
have to be written one transaction after the other. :func:`lock` sees to that: it is a statement
of its own, before the INSERT, because a statement's snapshot is older than a lock it waits for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import re
import typing as t
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from .clock import as_utc
from .db import qualified
from .db import sql
from .errors import ReferralError
from .errors import WalletRefused

if t.TYPE_CHECKING:
    from .db.models import Models

BONUS = "referral_bonus"
ADJUSTMENT = "adjustment"
REFERENCE_TYPE = "referral_conversion"

#: What a wallet table has to have.
COLUMNS = ("user_id", "amount_cents", "type", "reference_type", "reference_id")
#: How many rows are shown at once.
SHOWN = 20
#: The ``status`` of a row that counts as money.
COMPLETED = "completed"

_CHECK_VIOLATION = "23514"
# https://www.postgresql.org/docs/current/errcodes-appendix.html: what is no answer of a wallet's
# own rules but a fault: connection, transaction, integrity, syntax, resources, limits, locks,
# operator, system. What is left are the codes that a trigger's RAISE makes up.
_FAULTS = re.compile("(0[0-9A-Z]|2[0-9A-F]|3[0-9A-F]|4[0-4]|5[3-8]|72|F0|HV|XX).{3}")
_RAISED = re.compile(r"\bRAISE\b")
_SQLITE_REFUSALS = ("SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_TRIGGER")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row to write.

    :param amount_cents: what the wallet gains; negative where it loses.
    :param type: :data:`BONUS` or :data:`ADJUSTMENT`.
    """

    user_id: t.Any
    amount_cents: int
    type: str
    reward_id: uuid.UUID
    description: str
    metadata: dict[str, t.Any] = dataclasses.field(default_factory=dict)


def lock(
    db: sa.Connection,
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
    if db.dialect.name == "sqlite":
        sql.begin_writing(db)
        return
    ids = sorted(set(user_ids))
    if may_lock_rows is None:
        may_lock_rows = can_lock_rows(db, models)
    rows: t.Sequence[t.Any] = ()
    if may_lock_rows:
        rows = _lock_rows(db, models, ids=ids)
    if len(rows) < len(ids):
        # Row level security of the host's may hide rows of its user table.
        names = [f"flask_referral.wallet:{user_id}" for user_id in ids]
        rows = _lock_names(db, models, names=names)
    for row in rows:
        check_isolation(row.isolation)


def check_isolation(isolation: str) -> None:
    """Refuse a transaction that does not see what was written while it waited for a lock.

    :raises ReferralError: for ``repeatable read``.
    """
    if isolation == "repeatable read":
        raise ReferralError(
            "A wallet cannot be credited in a REPEATABLE READ transaction: the balance would be "
            "computed from old rows. Use READ COMMITTED or SERIALIZABLE for it."
        )


def locked_rows(models: Models, ids: t.Any) -> sa.Select[t.Any]:
    """Select and lock the rows of users, in the order of their keys.

    :param ids: what ``IN`` takes.
    """
    key = models.user_key
    isolation = _isolation().label("isolation")
    return sa.select(isolation).where(key.in_(ids)).order_by(key).with_for_update(key_share=True)


def can_lock_rows(db: sa.Connection, models: Models) -> bool:
    """Whether this connection may lock rows of the user table. One statement."""
    return bool(_is_lockable(db, models).scalar())


@sql.statement
def _is_lockable(models: Models, dialect: str) -> sa.Select[t.Any]:
    return sa.select(lockable(models, dialect))


@sql.statement
def _lock_rows(models: Models, dialect: str) -> sa.Select[t.Any]:
    return locked_rows(models, sa.bindparam("ids", type_=models.user_key.type, expanding=True))


@sql.statement
def _lock_names(models: Models, dialect: str) -> sa.Select[t.Any]:
    names = sa.bindparam("names", type_=postgresql.ARRAY(sa.Text()))
    name = sa.func.unnest(names).column_valued()
    lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, sql.NO_SEED))
    columns: list[sa.ColumnElement[t.Any]] = [
        _isolation().label("isolation"),
        sa.cast(lock, sa.Text()),
    ]
    return sa.select(*columns)


def _isolation() -> sa.ColumnElement[str]:
    return sa.func.current_setting("transaction_isolation", type_=sa.Text())


def lockable(models: Models, dialect: str) -> sa.ColumnElement[bool]:
    """Return what tells whether this connection may lock rows of the user table."""
    if dialect != "postgresql":
        return sa.true()
    table = sql.IDENTIFIERS.format_table(models.user_key.table)
    return sa.func.has_any_column_privilege(table, "UPDATE", type_=sa.Boolean())


def credit(db: sa.Connection, models: Models, table: sa.Table, entries: t.Sequence[Entry]) -> None:
    """Write rows that wallets gain by. One statement. The wallets have to be locked.

    :raises WalletRefused: where a rule of the wallet's own, or of one of its columns, says no.
    """
    with explaining_refusals(table, entries):
        _write(db, models, table, entries)


@contextlib.contextmanager
def explaining_refusals(table: sa.Table, entries: t.Sequence[Entry]) -> t.Iterator[None]:
    """Say whose rule it was where the block's statement is refused for a wallet's sake.

    :raises WalletRefused: for a rule of the wallet's own, or of one of its columns.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        if not (_is_refusal(error) or _is_of_wallet(error, table)):
            raise
        rule = str(error.orig).strip().splitlines()[0]
        raise WalletRefused(
            f"The wallet {table.fullname!r} refused a credit of {entries[0].amount_cents} cents to "
            f"user {entries[0].user_id}: {rule}. Nothing of this transaction (or "
            "savepoint) can be stored, the host's order included: roll back, let the rule take "
            "rows of type 'referral_bonus' and 'adjustment' (flask referral doctor helps), and "
            "repeat it; or store the order alone and make good later with flask referral convert."
        ) from error


def _is_of_wallet(error: sa.exc.DBAPIError, table: sa.Table) -> bool:
    if not isinstance(error, sa.exc.IntegrityError | sa.exc.DataError):
        return False
    # A value that does not fit has no table.
    named = getattr(getattr(error.orig, "diag", None), "table_name", None)
    return named in (None, table.name)


def debit(db: sa.Connection, models: Models, table: sa.Table, entry: Entry) -> int:
    """Take what an entry says out of a wallet, or what the wallet lets us take.

    Where its rules refuse the whole, what there is is tried: the completed rows, where rows have
    a ``status``, else all.

    :param entry: with a negative amount.
    :return: what was taken, in cents.
    """
    wanted = -entry.amount_cents
    if _try(db, models, table, entry):
        return wanted
    for there in _money(db, table, entry.user_id):
        # Refused although there is enough: the wallet has another reason, and keeps to it.
        if 0 < there < wanted and _try(
            db, models, table, dataclasses.replace(entry, amount_cents=-there)
        ):
            return there
    return 0


def _money(db: sa.Connection, table: sa.Table, user_id: t.Any) -> list[int]:
    columns = columns_of(table)
    amount = sa.func.coalesce(sa.func.sum(columns["amount_cents"]), 0)
    own = columns["user_id"] == user_id
    conditions = [own]
    if "status" in columns:
        # Compared as text, since it may be an enum of the host's.
        completed = sa.cast(columns["status"], sa.Text()) == COMPLETED
        conditions.append(sa.and_(own, completed))
    sums = {
        int(qualified.execute(db, sa.select(amount).where(where)).scalar() or 0)
        for where in conditions
    }
    return sorted(sums, reverse=True)


def _try(db: sa.Connection, models: Models, table: sa.Table, entry: Entry) -> bool:
    # A savepoint: the refused row must not cost the caller his transaction.
    savepoint = db.begin_nested()
    try:
        _write(db, models, table, [entry])
    except sa.exc.DBAPIError as error:
        savepoint.rollback()
        if not _is_refusal(error):
            raise
        return False
    savepoint.commit()
    return True


def _is_refusal(error: sa.exc.DBAPIError) -> bool:
    """Whether the wallet's own rules said no: a CHECK, or whatever a trigger raises by itself."""
    state = sql.sqlstate(error)
    if state is None:
        return getattr(error.orig, "sqlite_errorname", None) in _SQLITE_REFUSALS
    if state == _CHECK_VIOLATION or not _FAULTS.fullmatch(state):
        return True
    # A trigger may raise any code; where it happened is told, innermost first.
    context = getattr(getattr(error.orig, "diag", None), "context", None) or ""
    return bool(_RAISED.search(context.partition("\n")[0]))


def _write(db: sa.Connection, models: Models, table: sa.Table, entries: t.Sequence[Entry]) -> None:
    number = len(entries)
    insert = sql.kept(table.info, number, lambda: sql.statement(_values(table, number)))
    insert(db, models, **parameters(table, entries))


def parameters(table: sa.Table, entries: t.Sequence[Entry]) -> dict[str, t.Any]:
    """Return the bound parameters of the INSERT of some rows."""
    reference = columns_of(table)["reference_id"]
    values: dict[str, t.Any] = {}
    for index, entry in enumerate(entries):
        values |= {
            f"user_id_{index}": entry.user_id,
            f"amount_cents_{index}": entry.amount_cents,
            f"type_{index}": entry.type,
            f"reference_id_{index}": _reference(reference, entry.reward_id),
            f"description_{index}": entry.description,
            f"metadata_{index}": entry.metadata,
        }
    return values


def _values(table: sa.Table, number: int) -> t.Callable[[Models, str], sa.Insert]:
    """Return what builds the INSERT of some rows."""
    return lambda models, dialect: sa.insert(table).values(
        [_row(table, index, dialect) for index in range(number)]
    )


def is_plain(table: sa.Table) -> bool:
    """Whether a row can be written as a part of another statement.

    The database does not know the defaults that the host's own code makes for each row.
    """
    return sql.kept(
        table.info, is_plain, lambda: all(column.default is None for column in table.columns)
    )


def insert_where(table: sa.Table, index: int, condition: t.Any) -> sa.Insert:
    """Return the INSERT of one row, on PostgreSQL, where a condition holds."""
    row = _row(table, index, "postgresql")
    return sa.insert(table).from_select(list(row), sa.select(*row.values()).where(condition))


def _row(table: sa.Table, index: int, dialect: str) -> dict[sa.Column[t.Any], t.Any]:
    columns = columns_of(table)
    names = ["user_id", "amount_cents", "type", "reference_id"]
    if "description" in columns:
        names.append("description")
    if "metadata" in columns and isinstance(columns["metadata"].type, sa.JSON):
        names.append("metadata")
    row: dict[sa.Column[t.Any], t.Any] = {
        columns[name]: sql.parameter(f"{name}_{index}", columns[name]) for name in names
    }
    reference_type = columns["reference_type"]
    row[reference_type] = sa.literal(REFERENCE_TYPE, reference_type.type)
    status = columns.get("status")
    if status is not None and not (status.nullable or status.default or status.server_default):
        row[status] = sa.literal(COMPLETED, status.type)
    if "created_at" in columns and dialect == "postgresql":
        # now() is when the transaction began, which may be before the wallet's last row.
        row[columns["created_at"]] = sa.func.clock_timestamp()
    return row


def _reference(column: sa.Column[t.Any], reward_id: uuid.UUID) -> t.Any:
    return reward_id if sql.python_type(column.type) is uuid.UUID else str(reward_id)


class Shown(t.NamedTuple):
    """A row as its owner is shown it; None for what the wallet has no column of."""

    amount_cents: int
    balance_after_cents: int | None
    description: str | None
    status: str | None
    created_at: dt.datetime | None


def rows_of(
    db: sql.Connection,
    models: Models,
    table: sa.Table,
    user_id: t.Any,
    limit: int = SHOWN,
    *,
    reward_id: uuid.UUID | None = None,
) -> list[Shown]:
    """Return what the program gave to a wallet and took from it, newest first. One statement.

    :param reward_id: of which reward; None: of all.
    """
    columns = columns_of(table)
    # Compared and read as text, since it may be an enum of the host's.
    is_ours = sa.cast(columns["reference_type"], sa.Text()) == REFERENCE_TYPE
    shown = [
        sa.null().label(name)
        if name not in columns
        else (sa.cast(columns[name], sa.Text()) if name == "status" else columns[name]).label(name)
        for name in Shown._fields
    ]
    query = sa.select(*shown).where(columns["user_id"] == user_id, is_ours)
    if reward_id is not None:
        reference = columns["reference_id"]
        query = query.where(reference == _reference(reference, reward_id))
    query = query.order_by(*_newest_first(table)).limit(limit)
    found = map(Shown._make, qualified.execute(db, query, {}))
    return [
        row._replace(created_at=as_utc(row.created_at)) if row.created_at is not None else row
        for row in found
    ]


class Standing(t.NamedTuple):
    """What is in a wallet.

    :param balance_cents: as the host's trigger wrote it into the newest row; None where the
        wallet has no ``balance_after_cents``, or no row.
    :param total_cents: the sum of all rows, whatever their ``status``.
    """

    balance_cents: int | None
    total_cents: int


def standing(db: sql.Connection, table: sa.Table, user_id: t.Any) -> Standing:
    """Return what is in a wallet at this moment. Two statements; one without balances."""
    columns = columns_of(table)
    own = columns["user_id"] == user_id
    total = sa.select(sa.func.coalesce(sa.func.sum(columns["amount_cents"]), 0)).where(own)
    balance = None
    if "balance_after_cents" in columns:
        newest = sa.select(columns["balance_after_cents"]).where(own)
        newest = newest.order_by(*_newest_first(table)).limit(1)
        balance = qualified.execute(db, newest, {}).scalar()
    return Standing(balance, int(qualified.execute(db, total, {}).scalar() or 0))


def _newest_first(table: sa.Table) -> list[sa.ColumnElement[t.Any]]:
    columns = columns_of(table)
    newest = [columns["created_at"].desc()] if "created_at" in columns else []
    return [*newest, *(key.desc() for key in table.primary_key)]


def columns_of(table: sa.Table) -> dict[str, sa.Column[t.Any]]:
    """Return a wallet's columns by their names; "metadata" has another key on a mapped class."""
    return {column.name: column for column in table.columns}
