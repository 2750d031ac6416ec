"""The wallet's CHECKs on SQLite, where a changed CHECK means a new table."""

from __future__ import annotations

import dataclasses
import typing as t

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from ...errors import MigrationRefused
from ..ddl_locks import committing
from ..ddl_locks import raw
from .lookups import in_sqlite
from .lookups import missing_rows
from .lookups import refuse_missing_rows
from .rows import COLUMNS
from .rows import Gap
from .rows import Rows
from .rows import Sample
from .rows import SAMPLE_UUID
from .rows import values_of
from .sqlite_ddl import balanced
from .sqlite_ddl import CheckClause
from .sqlite_ddl import MalformedSQL
from .sqlite_ddl import mentioned
from .sqlite_ddl import parse_table
from .sqlite_ddl import TableText
from .sqlite_rebuild import rebuild
from .text import quote

#: Ends every CHECK we widened; what stands before it tells the downgrade what to take out.
MARK: t.Final = "/* flask-referral */"


@dataclasses.dataclass(frozen=True)
class Table:
    """The wallet table as SQLite describes it."""

    #: What it is to take.
    rows: Rows
    schema: str
    name: str
    text: TableText
    types: dict[str, str]

    @property
    def sql(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}"

    def reads(self, check: CheckClause) -> frozenset[str]:
        """Return the columns a CHECK reads, also through generated columns."""
        found = mentioned(self.text.inside(check), self.types)
        return found.union(*(self._behind(column, found) for column in found))

    def _behind(self, column: str, seen: frozenset[str]) -> frozenset[str]:
        for described in self.text.columns:
            if described.name.lower() == column.lower() and described.generated is not None:
                new = mentioned(described.generated, self.types) - seen
                return new.union(*(self._behind(c, seen | new) for c in new))
        return frozenset()


def missing_values(
    connection: sa.Connection, rows: Rows, table: str, schema: str | None
) -> list[Gap]:
    """See ``flask_referral.schema.wallet_checks.missing_values``."""
    wallet = _read(connection, rows, table, schema)
    found = []
    for number, check in enumerate(wallet.text.checks, start=1):
        refused = _refused(connection, wallet, check)
        if refused:
            name = f'"{check.name}"' if check.name else f"number {number}"
            values = values_of(refused, wallet.reads(check))
            found.append(Gap(f"CHECK {name} of table {wallet.name}", values))
    return [*found, *_lacking(connection, wallet)]


def check(connection: sa.Connection, rows: Rows, table: str, schema: str | None) -> None:
    """See ``flask_referral.schema.wallet_checks.check``."""
    _extensions(connection, _read(connection, rows, table, schema))


def check_index(connection: sa.Connection, table: str, schema: str | None) -> None:
    """Do nothing: SQLite can index every table, in one transaction with all else."""


def extend(context: MigrationContext, rows: Rows, table: str, schema: str | None) -> None:
    """See ``flask_referral.schema.wallet_checks.extend``."""
    connection = _bound(context)
    wallet = _read(connection, rows, table, schema)
    _apply(context, wallet, _extensions(connection, wallet))


def restore(context: MigrationContext, rows: Rows, table: str, schema: str | None) -> None:
    """See ``flask_referral.schema.wallet_checks.restore``."""
    connection = _bound(context)
    wallet = _read(connection, rows, table, schema)
    changes = {}
    for check in wallet.text.checks:
        before = _before(wallet, wallet.text.inside(check))
        if before is not None:
            changes[check] = before

    def refuse_rows_lost(connection: sa.Connection) -> None:
        _refuse_rows_in_use(connection, wallet)
        for before in changes.values():
            _refuse_rows_lost(connection, wallet, before)

    refuse_rows_lost(connection)
    _apply(context, wallet, changes, refuse_rows_lost)


def _apply(
    context: MigrationContext,
    wallet: Table,
    changes: dict[CheckClause, str],
    recheck: t.Callable[[sa.Connection], None] | None = None,
) -> None:
    if not changes:
        return
    new = wallet.text.edited(changes)
    with committing(context) as connection:
        rebuild(connection, wallet.schema, wallet.name, wallet.text, new, recheck=recheck)


def _extensions(connection: sa.Connection, wallet: Table) -> dict[CheckClause, str]:
    """Return the CHECKs to change, with what they are to become."""
    refuse_missing_rows(_lacking(connection, wallet))
    changes = {}
    for check in wallet.text.checks:
        if _refused(connection, wallet, check):
            columns = mentioned(wallet.text.inside(check), wallet.types)
            changes[check] = f"({wallet.text.inside(check)}{_suffix(wallet, columns)}"
    return changes


def _lacking(connection: sa.Connection, wallet: Table) -> list[Gap]:
    lookups = in_sqlite(connection, wallet.schema, wallet.name)
    return missing_rows(connection, lookups, wallet.rows)


def _suffix(wallet: Table, columns: t.Collection[str]) -> str:
    return f") OR ({wallet.rows.condition(columns)}) {MARK}"


def _before(wallet: Table, inside: str) -> str | None:
    """Return what a CHECK was before we widened it, None if we did not."""
    for columns in (("type",), ("reference_type",), COLUMNS):
        suffix = _suffix(wallet, columns)
        if inside.startswith("(") and inside.endswith(suffix):
            before = inside[1 : -len(suffix)]
            if balanced(before):
                return before
    return None


def _read(connection: sa.Connection, rows: Rows, table: str, schema: str | None) -> Table:
    where = schema or "main"
    row = connection.execute(
        sa.text(
            f"SELECT type, name, sql FROM {quote(where)}.sqlite_master"
            " WHERE lower(name) = lower(:name) AND type IN ('table', 'view')"
        ),
        {"name": table},
    ).one_or_none()
    if row is None:
        raise MigrationRefused(
            f"The wallet table {table} does not exist in this database. Run the host's"
            " `flask db upgrade` first, or set up the extension without a wallet_model."
        )
    try:
        text = parse_table(row.sql)
    except MalformedSQL as error:
        raise MigrationRefused(
            f"The wallet {row.name} is not an ordinary table ({error}), so its CHECKs cannot be"
            " changed. Set up the extension with an ordinary table as wallet_model."
        ) from error
    info = connection.execute(
        sa.text("SELECT name, type FROM pragma_table_xinfo(:name, :schema)"),
        {"name": row.name, "schema": where},
    ).all()
    wallet = Table(rows, where, row.name, text, {column.name: column.type for column in info})
    lowered = {column.lower() for column in wallet.types}
    for missing in [column for column in COLUMNS if column not in lowered]:
        raise MigrationRefused(
            f'The wallet table {row.name} has no column "{missing}". Add it in a migration of'
            " the application, or set up the extension with the right wallet_model."
        )
    return wallet


def _refused(connection: sa.Connection, wallet: Table, check: CheckClause) -> list[Sample]:
    """Return those sample rows of ours that a CHECK refuses; none if it is not about them."""
    reads = {column.lower() for column in wallet.reads(check)}
    if not reads & set(COLUMNS):
        return []
    refused = []
    for sample in wallet.rows.samples:
        # The line break ends a comment at the end of the host's text.
        sql = f"SELECT NOT (\n{wallet.text.inside(check)}\n) FROM {_row(wallet, sample)}"
        try:
            if raw(connection, sql).scalar_one():
                refused.append(sample)
        except sa.exc.DBAPIError as error:
            raise MigrationRefused(
                f"A CHECK of the wallet table {wallet.name} cannot be tried on a row of the"
                f" referral system: {error.orig}. Change it in a migration of the application,"
                " then run this again."
            ) from error
    return refused


def _row(wallet: Table, sample: Sample) -> str:
    """Return a subquery of one row that looks like ``sample`` stored in the table."""
    described = {column.name.lower(): column for column in wallet.text.columns}
    cells = []
    later = []
    for name, declared in wallet.types.items():
        column = described.get(name.lower())
        if column is not None and column.generated is not None:
            later.append((name, column.generated))
            continue
        value = sample.get(name.lower())
        if value is None and name.lower() in ("reference_id", "user_id"):
            value = 1 if "INT" in declared.upper() else SAMPLE_UUID
        text = "NULL" if value is None else repr(value)
        # Text affinity: https://www.sqlite.org/datatype3.html#determination_of_column_affinity
        if any(word in declared.upper() for word in ("CHAR", "CLOB", "TEXT")):
            text = f"CAST({text} AS TEXT)"
        if column is not None and column.collation is not None:
            text += f" COLLATE {quote(column.collation)}"
        cells.append(f"{text} AS {quote(name)}")
    source = f"(SELECT {', '.join(cells)}) AS {quote(wallet.name)}"
    # A generated column may read others; each is put on top of those it reads.
    while later:
        ready = next((c for c in later if not mentioned(c[1], [n for n, _ in later])), later[0])
        later.remove(ready)
        source = f"(SELECT *, (\n{ready[1]}\n) AS {quote(ready[0])} FROM {source})"
        source += f" AS {quote(wallet.name)}"
    return source


def _refuse_rows_in_use(connection: sa.Connection, wallet: Table) -> None:
    sql = f"SELECT count(*) FROM {wallet.sql} WHERE {wallet.rows.in_use()}"
    count = raw(connection, sql).scalar_one()
    if count:
        raise MigrationRefused(wallet.rows.in_use_message(f"the table {wallet.name}", count))


def _refuse_rows_lost(connection: sa.Connection, wallet: Table, before: str) -> None:
    """Refuse when rows exist that the old CHECK refuses and only the widened one accepts."""
    ours = wallet.rows.condition(mentioned(before, wallet.types))
    sql = f"SELECT count(*) FROM {wallet.sql} WHERE NOT (\n{before}\n) AND ({ours})"
    count = raw(connection, sql).scalar_one()
    if count:
        raise MigrationRefused(
            f"The downgrade is refused: an old CHECK of the table {wallet.name} does not allow"
            f" {count} of the rows. Move these rows to another table or change them, then"
            " downgrade again."
        )


def _bound(context: MigrationContext) -> sa.Connection:
    connection = context.connection
    assert connection is not None, "the revision runs on a database connection"
    return connection
