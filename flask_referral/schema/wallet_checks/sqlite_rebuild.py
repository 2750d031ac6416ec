"""Give a SQLite table a new CREATE TABLE text and keep everything else as it is.

The procedure is SQLite's own (https://www.sqlite.org/lang_altertable.html#otheralter), except that
no table is renamed, since a rename rewrites texts: the rows wait in a temporary table instead.
"""

from __future__ import annotations

import contextlib
import re
import typing as t

import sqlalchemy as sa

from ...errors import MigrationRefused
from ..ddl_locks import raw
from .sqlite_ddl import TableText
from .text import quote

#: Begins every text in sqlite_master; SQLite stores it in this form, without the schema.
_HEAD = re.compile(r"CREATE\s+(?:UNIQUE\s+)?(?:TABLE|INDEX|TRIGGER)\s+", re.IGNORECASE)

#: Where the rows wait meanwhile.
HOLD: t.Final = "flask_referral_rows"
#: SQLite's own tables about other tables, with the column that names the table.
RECORDS: t.Final = {"sqlite_sequence": "name", "sqlite_stat1": "tbl", "sqlite_stat4": "tbl"}


def rebuild(
    connection: sa.Connection,
    schema: str,
    name: str,
    old: TableText,
    new: str,
    *,
    recheck: t.Callable[[sa.Connection], None] | None = None,
) -> None:
    """Make the table anew from another text, in one transaction.

    :param connection: in AUTOCOMMIT, so that nothing but this function begins or commits.
    :param schema: the database it is in, usually ``main``.
    :param name: the table.
    :param old: its present text.
    :param new: its text to be, with the same columns.
    :param recheck: called once nobody else can write any more; may refuse.
    :raises MigrationRefused: when SQLite refuses, with everything as it was before.
    """
    with _pragmas(connection, foreign_keys=0):
        try:
            # IMMEDIATE: nobody else writes between our first look and our first change.
            raw(connection, "BEGIN IMMEDIATE")
            if recheck is not None:
                recheck(connection)
            # A row that was there before its CHECK may stay as it is.
            with _pragmas(connection, ignore_check_constraints=1):
                _Rebuild(connection, schema, name).run(old, new)
            raw(connection, "COMMIT")
        except BaseException as error:
            if _in_transaction(connection):
                raw(connection, "ROLLBACK")
            if isinstance(error, sa.exc.DBAPIError):
                raise MigrationRefused(
                    f"SQLite refused to rebuild the table {name}: {error.orig}. Nothing was"
                    " changed; if the database is in use, stop its users, and run this again."
                ) from error
            raise


class _Rebuild:
    def __init__(self, connection: sa.Connection, schema: str, name: str) -> None:
        self.connection = connection
        self.schema = quote(schema)
        self.schema_name = schema
        self.name = name

    def run(self, old: TableText, new: str) -> None:
        if self._table_text() != old.sql:
            raise MigrationRefused(
                f"The table {self.name} was changed by somebody else meanwhile. Run the command"
                " again."
            )
        violations = self._foreign_key_violations()
        attached = self._attached()
        records = self._records()
        columns = self._columns(old)
        listed = ", ".join(columns)
        # Without types, so that every value waits exactly as it is.
        waiting = ", ".join(f"c{number}" for number in range(len(columns)))
        table = f"{self.schema}.{quote(self.name)}"

        self._run(f"CREATE TEMPORARY TABLE {HOLD} ({waiting})")
        self._run(f"INSERT INTO temp.{HOLD} SELECT {listed} FROM {table}")
        self._run(f"DROP TABLE {table}")
        self._run(self._in_schema(new))
        self._run(f"INSERT INTO {table} ({listed}) SELECT {waiting} FROM temp.{HOLD}")
        counts = {
            self._run(f"SELECT count(*) FROM {each}").scalar_one()
            for each in (table, f"temp.{HOLD}")
        }
        self._run(f"DROP TABLE temp.{HOLD}")
        for sql in attached:
            self._run(self._in_schema(sql))
        self._restore(records)

        if len(counts) > 1 or self._table_text() != new or self._attached() != attached:
            raise MigrationRefused(f"The table {self.name} did not come out as it was.")
        if self._foreign_key_violations() != violations:
            raise MigrationRefused(f"Foreign keys of or to {self.name} would have been broken.")

    def _run(self, sql: str) -> sa.CursorResult[t.Any]:
        return raw(self.connection, sql)

    def _in_schema(self, sql: str) -> str:
        return _HEAD.sub(lambda head: f"{head.group()}{self.schema}.", sql, count=1)

    def _table_text(self) -> str | None:
        return self._query(
            "SELECT sql FROM {}.sqlite_master WHERE type = 'table' AND name = :name"
        ).scalar_one_or_none()

    def _attached(self) -> list[str]:
        """Return the text of the table's indexes and triggers, in the order they were made."""
        return list(
            self._query(
                "SELECT sql FROM {}.sqlite_master WHERE lower(tbl_name) = lower(:name)"
                " AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY rowid"
            ).scalars()
        )

    def _columns(self, old: TableText) -> list[str]:
        """Return the columns to copy: what is not generated, and the rowid if it has a name."""
        rows = self.connection.execute(
            sa.text("SELECT name, hidden FROM pragma_table_xinfo(:name, :schema)"),
            {"name": self.name, "schema": self.schema_name},
        ).all()
        columns = [quote(row.name) for row in rows if row.hidden == 0]
        if not old.without_rowid:
            taken = {row.name.lower() for row in rows}
            free = [alias for alias in ("rowid", "_rowid_", "oid") if alias not in taken]
            columns[:0] = free[:1]
        return columns

    def _records(self) -> dict[str, list[dict[str, t.Any]]]:
        """Return the rows of SQLite's own tables about this one; dropping it removes them.

        The counter of an AUTOINCREMENT table may be ahead of its last row, and statistics are
        made by ANALYZE alone.
        """
        present = self._run(f"SELECT name FROM {self.schema}.sqlite_master").scalars().all()
        return {
            table: [
                dict(row)
                for row in self._query(
                    f"SELECT rowid, * FROM {{}}.{table} WHERE {key} = :name"
                ).mappings()
            ]
            for table, key in RECORDS.items()
            if table in present
        }

    def _restore(self, records: dict[str, list[dict[str, t.Any]]]) -> None:
        for table, rows in records.items():
            self._query(f"DELETE FROM {{}}.{table} WHERE {RECORDS[table]} = :name")
            for row in rows:
                values = ", ".join(f":{column}" for column in row)
                self.connection.execute(
                    sa.text(
                        f"INSERT INTO {self.schema}.{table} ({', '.join(row)}) VALUES ({values})"
                    ),
                    row,
                )

    def _foreign_key_violations(self) -> list[tuple[t.Any, ...] | str]:
        """Return what foreign_key_check says of the table and of the tables that refer to it."""
        children = self._query(
            "SELECT DISTINCT m.name FROM {}.sqlite_master m"
            ' JOIN pragma_foreign_key_list(m.name, :schema) f ON lower(f."table") = lower(:name)'
            " WHERE m.type = 'table' ORDER BY 1",
            schema=self.schema_name,
        ).scalars()
        found: list[tuple[t.Any, ...] | str] = []
        for table in dict.fromkeys([self.name, *children]):
            try:
                rows = self._run(f"PRAGMA {self.schema}.foreign_key_check({quote(table)})")
                found += sorted(tuple(row) for row in rows)
            except sa.exc.DBAPIError as error:
                # A key that refers to no unique column is the host's fault, before and after.
                found.append(str(error.orig))
        return found

    def _query(self, sql: str, **values: t.Any) -> sa.CursorResult[t.Any]:
        parameters = {"name": self.name, **values}
        used = {key: value for key, value in parameters.items() if f":{key}" in sql}
        return self.connection.execute(sa.text(sql.format(self.schema)), used)


@contextlib.contextmanager
def _pragmas(connection: sa.Connection, **wanted: int) -> t.Iterator[None]:
    """Set pragmas of the connection for a block, and set them back whatever happens."""
    if "foreign_keys" in wanted and _in_transaction(connection):
        # SQLite ignores this pragma inside a transaction.
        raw(connection, "COMMIT")
    before = {name: raw(connection, f"PRAGMA {name}").scalar_one() for name in wanted}
    try:
        for name, value in wanted.items():
            raw(connection, f"PRAGMA {name} = {value}")
        for name, value in wanted.items():
            if raw(connection, f"PRAGMA {name}").scalar_one() != value:
                raise MigrationRefused(f"This connection to SQLite does not let {name} be set.")
        yield
    finally:
        for name, value in before.items():
            raw(connection, f"PRAGMA {name} = {value}")


def _in_transaction(connection: sa.Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", False))
