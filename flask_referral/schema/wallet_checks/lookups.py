"""Lookup tables: the host lists what its wallet allows as rows, behind a foreign key."""

from __future__ import annotations

import dataclasses
import typing as t

import sqlalchemy as sa

from ...errors import MigrationRefused
from ..ddl_locks import raw
from .rows import COLUMNS
from .rows import Gap
from .rows import Rows


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A foreign key over ``type``, ``reference_type`` or both, and nothing else.

    With a further column, such as a tenant, nobody can say which rows will be asked for.
    """

    #: e.g. ``foreign key "wallet_transactions_type_fkey" of table public.wallet_transactions``
    rule: str
    #: The table it refers to, quoted.
    table: str
    #: By column of the wallet: the column it refers to, quoted.
    columns: dict[str, str]


def missing_rows(
    connection: sa.Connection, lookups: t.Iterable[Lookup], rows: Rows
) -> t.Iterator[Gap]:
    """Yield the lookup tables that lack rows for ours, each with the INSERT that adds them."""
    for lookup in lookups:
        if not set(lookup.columns) <= set(COLUMNS):
            continue
        needed = dict.fromkeys(
            tuple(str(sample[column]) for column in lookup.columns) for sample in rows.samples
        )
        missing = [row for row in needed if not _has(connection, lookup, row)]
        if missing:
            listed = ", ".join(f"({', '.join(map(_literal, row))})" for row in missing)
            yield Gap(
                lookup.rule,
                tuple(dict.fromkeys(value for row in missing for value in row)),
                f"INSERT INTO {lookup.table} ({', '.join(lookup.columns.values())})"
                f" VALUES {listed}",
            )


def refuse_missing_rows(gaps: t.Iterable[Gap], first: t.Iterable[str] = ()) -> None:
    """Refuse where lookup tables lack rows.

    :param first: statements without which the INSERTs fail.
    :raises MigrationRefused: with all of the statements that the host needs.
    """
    found = list(gaps)
    if found:
        cures = [*first, *(gap.cure for gap in found if gap.cure)]
        raise MigrationRefused(
            f"{'; '.join(map(str, found))}. Add the rows in a migration of the application, with"
            f" what else the table asks for, then run this one again: {'; '.join(cures)}"
        )


def _has(connection: sa.Connection, lookup: Lookup, row: tuple[str, ...]) -> bool:
    # Cast: the column may be an enum that does not know the value at all.
    condition = " AND ".join(
        f"CAST({column} AS text) = {_literal(value)}"
        for column, value in zip(lookup.columns.values(), row, strict=True)
    )
    sql = f"SELECT EXISTS (SELECT 1 FROM {lookup.table} WHERE {condition})"
    return bool(raw(connection, sql).scalar_one())


def _literal(value: str) -> str:
    # Our values, which have no quotes in them.
    return f"'{value}'"
