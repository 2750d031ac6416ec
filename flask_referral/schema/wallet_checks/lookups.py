"""Lookup tables: the host lists what its wallet allows as rows, behind a foreign key.

A key that has a further column, such as a tenant, is left out: nobody can say which rows will be
asked for.
"""

from __future__ import annotations

import dataclasses
import typing as t

import sqlalchemy as sa

from ...errors import MigrationRefused
from ..ddl_locks import raw
from .rows import COLUMNS
from .rows import Gap
from .rows import Rows
from .text import literal
from .text import quote


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A foreign key over ``type``, ``reference_type`` or both."""

    #: e.g. ``The foreign key "wallet_transactions_type_fkey" of table wallet_transactions``
    rule: str
    #: The table it refers to, quoted.
    table: str
    #: By column of the wallet: the column it refers to, quoted.
    columns: dict[str, str]


def in_postgresql(connection: sa.Connection, oid: int, wallet: str) -> t.Iterator[Lookup]:
    """Yield the lookups of a table. Call it inside ``scratch``.

    :param oid: the wallet.
    :param wallet: what messages call it.
    """
    rows = raw(
        connection,
        "SELECT c.conname, n.nspname, r.relname,"
        " ARRAY(SELECT ARRAY[a.attname::text, b.attname::text]"
        " FROM ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey))"
        " WITH ORDINALITY AS k(own, other, place)"
        " JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own"
        " JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = k.other"
        " ORDER BY k.place) AS columns"
        " FROM pg_constraint c JOIN pg_class r ON r.oid = c.confrelid"
        " JOIN pg_namespace n ON n.oid = r.relnamespace"
        f" WHERE c.conrelid = '{oid}' AND c.contype = 'f'"
        # PostgreSQL 18 has constraints that are NOT ENFORCED: they refuse nothing.
        " AND coalesce((pg_catalog.to_jsonb(c) OPERATOR(pg_catalog.->>) 'conenforced')::boolean,"
        " true) ORDER BY c.conname",
    ).all()
    for row in rows:
        columns = dict(row.columns)
        if columns.keys() <= set(COLUMNS):
            yield Lookup(
                f'The foreign key "{row.conname}" of {wallet}',
                f"{quote(row.nspname)}.{quote(row.relname)}",
                {own: quote(other) for own, other in columns.items()},
            )


def in_sqlite(connection: sa.Connection, schema: str, wallet: str) -> t.Iterator[Lookup]:
    """Yield the lookups of a table, whether or not this connection enforces foreign keys.

    :param schema: the database it is in, usually ``main``.
    :param wallet: the table.
    """
    keys: dict[int, dict[str, str | None]] = {}
    tables: dict[int, str] = {}
    parts = raw(connection, f"PRAGMA {quote(schema)}.foreign_key_list({quote(wallet)})")
    for part in parts.mappings():
        keys.setdefault(part["id"], {})[part["from"].lower()] = part["to"]
        tables[part["id"]] = part["table"]
    for number, columns in keys.items():
        if columns.keys() <= set(COLUMNS):
            table = tables[number]
            # Where no column is named, the primary key is meant.
            primary = _primary_key(connection, schema, table) or list(columns)
            others = [other or key for other, key in zip(columns.values(), primary, strict=False)]
            yield Lookup(
                f"The foreign key to {table} of table {wallet}",
                f"{quote(schema)}.{quote(table)}",
                dict(zip(columns, map(quote, others), strict=True)),
            )


def missing_rows(connection: sa.Connection, lookups: t.Iterable[Lookup], rows: Rows) -> list[Gap]:
    """Return the lookup tables that lack rows for ours, each with the INSERT that adds them.

    :raises MigrationRefused: when one cannot be read.
    """
    found = []
    for lookup in lookups:
        needed = dict.fromkeys(
            tuple(str(sample[column]) for column in lookup.columns) for sample in rows.samples
        )
        missing = [row for row in needed if not _has(connection, lookup, row)]
        if missing:
            listed = ", ".join(f"({', '.join(map(literal, row))})" for row in missing)
            columns = ", ".join(lookup.columns.values())
            cure = f"INSERT INTO {lookup.table} ({columns}) VALUES {listed}"
            values = tuple(dict.fromkeys(value for row in missing for value in row))
            found.append(Gap(lookup.rule, values, cure))
    return found


def refuse_missing_rows(gaps: t.Sequence[Gap], first: t.Iterable[str] = ()) -> None:
    """Refuse where lookup tables lack rows.

    :param first: statements without which the INSERTs fail.
    :raises MigrationRefused: with all of the statements that the host needs.
    """
    if gaps:
        cures = [*first, *(gap.cure for gap in gaps if gap.cure)]
        raise MigrationRefused(
            f"{'; '.join(map(str, gaps))}. Add the rows in a migration of the application, with"
            f" what else the table asks for, then run this one again: {'; '.join(cures)}"
        )


def _has(connection: sa.Connection, lookup: Lookup, row: tuple[str, ...]) -> bool:
    # Cast: the column may be an enum that does not know the value at all.
    condition = " AND ".join(
        f"CAST({column} AS text) = {literal(value)}"
        for column, value in zip(lookup.columns.values(), row, strict=True)
    )
    sql = f"SELECT EXISTS (SELECT 1 FROM {lookup.table} WHERE {condition})"
    try:
        return bool(raw(connection, sql).scalar_one())
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise MigrationRefused(
            f"{lookup.rule} cannot be followed: {reason}. Let this role read {lookup.table}, or"
            " correct the key in a migration of the application, then run this one again."
        ) from error


def _primary_key(connection: sa.Connection, schema: str, table: str) -> list[str]:
    columns = raw(connection, f"PRAGMA {quote(schema)}.table_info({quote(table)})").all()
    return [column.name for column in sorted(columns, key=lambda each: each.pk) if column.pk]
