"""Try CHECK expressions on rows of ours, inside the database."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from ..ddl_locks import raw
from .pg_inspect import Column
from .pg_inspect import Holder
from .pg_inspect import Wallet
from .rows import Sample
from .rows import SAMPLE_UUID
from .text import literal
from .text import quote


def refused_samples(
    connection: sa.Connection,
    holder: Holder,
    expression: str,
    samples: t.Iterable[Sample],
) -> list[Sample]:
    """Return those sample rows of ours for which a CHECK expression is false.

    :raises sqlalchemy.exc.DBAPIError: when the expression cannot be evaluated for such a row.
    """
    refused = []
    for sample in samples:
        source = _row(holder, sample)
        sql = f"SELECT ({expression}) IS FALSE FROM {source}"
        with connection.begin_nested():
            if raw(connection, sql).scalar_one():
                refused.append(sample)
    return refused


def domain_samples(wallet: Wallet, domain: Holder) -> list[Sample]:
    """Return our values that pass through a domain, as sample rows with the column VALUE."""
    return [
        {"value": value}
        for column in wallet.table.columns
        if domain.oid in column.domains
        for value in wallet.rows.values.get(column.name, ())
    ]


def _row(holder: Holder, sample: Sample) -> str:
    """Return a subquery of one row that looks like ``sample`` stored in the table."""
    plain = [column for column in holder.columns if column.generated is None]
    cells = []
    for column in plain:
        value = sample.get(column.name)
        if value is None and column.name in ("reference_id", "user_id"):
            value = _some_id(column)
        text = literal(None if value is None else str(value))
        collate = f" COLLATE {column.collation}" if column.collation else ""
        cells.append(f"CAST({text} AS {column.type}){collate} AS {quote(column.name)}")
    source = f"(SELECT {', '.join(cells)}) AS {quote(holder.name)}"
    generated = [column for column in holder.columns if column.generated is not None]
    if not generated:
        return source
    extra = ", ".join(f"({column.generated}) AS {quote(column.name)}" for column in generated)
    return f"(SELECT *, {extra} FROM {source}) AS {quote(holder.name)}"


def _some_id(column: Column) -> str | None:
    if column.category == "N":
        return "1"
    if column.category == "S" or column.type == "uuid":
        return SAMPLE_UUID
    return None
