"""Read what PostgreSQL's catalogue says about the wallet table. Nothing here writes."""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

import sqlalchemy as sa

from ...errors import MigrationRefused
from ..ddl_locks import is_autocommit
from ..ddl_locks import raw
from ..ddl_locks import transaction
from .rows import COLUMNS
from .rows import Rows
from .text import quote


@dataclasses.dataclass(frozen=True)
class Column:
    """A column, down to the base type under its domains."""

    name: str
    type: str
    type_oid: int
    kind: str
    category: str
    collation: str | None
    generated: str | None
    reads: tuple[str, ...]
    domains: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Holder:
    """A table or a domain: what constraints are attached to."""

    kind: t.Literal["TABLE", "DOMAIN"]
    oid: int
    schema: str
    name: str
    owner: str
    owned: bool
    depth: int
    columns: tuple[Column, ...]

    @property
    def sql(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}"

    @property
    def alter(self) -> str:
        return f"ALTER {self.kind} {self.sql}"

    def __str__(self) -> str:
        return f"{self.kind.lower()} {self.schema}.{self.name}"


@dataclasses.dataclass(frozen=True)
class Check:
    """A CHECK constraint that is defined on its holder (not merely inherited by it)."""

    holder: Holder
    oid: int
    name: str
    expression: str
    columns: tuple[str, ...]
    reads: frozenset[str]
    valid: bool
    no_inherit: bool
    inherited: bool
    comment: str | None

    def __str__(self) -> str:
        return f'CHECK "{self.name}" of {self.holder}'


@dataclasses.dataclass(frozen=True)
class Wallet:
    """The wallet table and what constrains its two columns, and the rows that it is to take."""

    rows: Rows
    #: The wallet first, then its partitions and children.
    tables: tuple[Holder, ...]
    domains: tuple[Holder, ...]
    checks: tuple[Check, ...]

    @property
    def table(self) -> Holder:
        return self.tables[0]


def run_as(what: str, owner: str) -> str:
    """Return the sentence for a role that is not the owner of what it would have to change."""
    return (
        f'Only the owner of {what} can change what it accepts. Run this as the role "{owner}"'
        " or a member of it."
    )


def our_columns(wallet: Wallet) -> list[Column]:
    """Return the two columns that our values go into."""
    return [column for column in wallet.table.columns if column.name in COLUMNS]


@contextlib.contextmanager
def scratch(connection: sa.Connection) -> t.Iterator[None]:
    """Run the block with the bare search path, and undo all it did to the database.

    With the bare path PostgreSQL prints every name of an expression with its schema, as pg_dump
    does, so that the text means the same in any later session.
    """
    with contextlib.ExitStack() as stack:
        if is_autocommit(connection):
            stack.enter_context(transaction(connection))
        savepoint = connection.begin_nested()
        try:
            raw(connection, "SET LOCAL search_path = pg_catalog")
            yield
        finally:
            savepoint.rollback()


def read_wallet(connection: sa.Connection, oid: int, rows: Rows) -> Wallet:
    """Read the wallet table and all that constrains its two columns. Call it inside ``scratch``.

    :param oid: the table, from ``find_table``.
    :param rows: what it is to take.
    :raises MigrationRefused: when a column is missing.
    """
    tables = _tables(connection, oid)
    wallet = tables[0]
    names = {column.name for column in wallet.columns}
    for missing in [column for column in COLUMNS if column not in names]:
        raise MigrationRefused(
            f'The wallet {wallet} has no column "{missing}". Add it in a migration of the'
            " application, or set up the extension with the right wallet_model."
        )
    domains = _domains(connection, wallet)
    checks = [check for holder in tables + domains for check in _checks(connection, holder)]
    return Wallet(rows, tables, domains, tuple(checks))


def find_table(connection: sa.Connection, table: str, schema: str | None) -> int:
    """Return the oid of the wallet table.

    :raises MigrationRefused: when there is no such table.
    """
    name = quote(table) if schema is None else f"{quote(schema)}.{quote(table)}"
    row = connection.execute(
        sa.text(
            "SELECT c.oid, c.relkind FROM pg_catalog.pg_class c"
            " WHERE c.oid = CAST(pg_catalog.to_regclass(:name) AS oid)"
        ),
        {"name": name},
    ).one_or_none()
    shown = table if schema is None else f"{schema}.{table}"
    if row is None:
        raise MigrationRefused(
            f"The wallet table {shown} does not exist in this database. Run the host's"
            " `flask db upgrade` first, or set up the extension without a wallet_model."
        )
    if row.relkind not in ("r", "p"):
        raise MigrationRefused(
            f"The wallet {shown} is not a table, so it has no CHECK that could be changed."
            " Set up the extension with the table that holds the wallet's rows as wallet_model."
        )
    return int(row.oid)


def _tables(connection: sa.Connection, oid: int) -> tuple[Holder, ...]:
    rows = connection.execute(
        sa.text(
            "WITH RECURSIVE tree(oid, depth) AS ("
            " SELECT CAST(:oid AS oid), 0"
            " UNION ALL SELECT i.inhrelid, tree.depth + 1"
            " FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)"
            " SELECT c.oid, n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner) AS owner,"
            " pg_catalog.pg_has_role(c.relowner, 'USAGE') AS owned,"
            " pg_catalog.max(tree.depth) AS depth"
            " FROM tree JOIN pg_class c ON c.oid = tree.oid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " GROUP BY c.oid, n.nspname, c.relname, c.relowner ORDER BY 6, 1"
        ),
        {"oid": oid},
    ).all()
    return tuple(
        Holder(
            "TABLE", r.oid, r.nspname, r.relname, r.owner, r.owned, r.depth,
            _columns(connection, r.oid),
        )
        for r in rows
    )  # fmt: skip


def _columns(connection: sa.Connection, oid: int) -> tuple[Column, ...]:
    rows = connection.execute(
        sa.text(
            "WITH RECURSIVE chain AS ("
            " SELECT a.attrelid, a.attnum, a.attname, a.attcollation, a.attgenerated,"
            " a.atttypid AS typ, a.atttypmod AS typmod, 0 AS step FROM pg_attribute a"
            " WHERE a.attrelid = CAST(:oid AS oid) AND a.attnum > 0 AND NOT a.attisdropped"
            " UNION ALL SELECT c.attrelid, c.attnum, c.attname, c.attcollation, c.attgenerated,"
            " t.typbasetype, CASE c.typmod WHEN -1 THEN t.typtypmod ELSE c.typmod END, c.step + 1"
            " FROM chain c JOIN pg_type t ON t.oid = c.typ AND t.typtype = 'd')"
            " SELECT c.attnum, CAST(c.attname AS text) AS name, c.typ, t.typtype, t.typcategory,"
            " pg_catalog.format_type(c.typ, c.typmod) AS shown, c.attgenerated <> '' AS generated,"
            " CASE WHEN c.attcollation <> t.typcollation THEN (SELECT"
            " pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.',"
            " pg_catalog.quote_ident(l.collname)) FROM pg_collation l"
            " JOIN pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = c.attcollation) END"
            " AS collation, pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS expression,"
            " ARRAY(SELECT CAST(r.attname AS text) FROM pg_attribute r JOIN pg_depend p"
            " ON p.refobjsubid = r.attnum AND p.refobjid = r.attrelid"
            " AND p.refclassid = CAST(CAST('pg_class' AS regclass) AS oid)"
            " WHERE r.attrelid = c.attrelid"
            " AND ((p.classid = CAST(CAST('pg_class' AS regclass) AS oid) AND p.objid = c.attrelid"
            " AND p.objsubid = c.attnum) OR (p.classid ="
            " CAST(CAST('pg_attrdef' AS regclass) AS oid)"
            " AND p.objid = d.oid))) AS reads"
            " FROM chain c JOIN pg_type t ON t.oid = c.typ"
            " LEFT JOIN pg_attrdef d ON d.adrelid = c.attrelid AND d.adnum = c.attnum"
            " ORDER BY c.attnum, c.step"
        ),
        {"oid": oid},
    ).all()
    columns: dict[int, Column] = {}
    for row in rows:
        above = columns.get(row.attnum)
        columns[row.attnum] = Column(
            name=row.name,
            type=row.shown,
            type_oid=row.typ,
            kind=row.typtype,
            category=row.typcategory,
            collation=row.collation,
            generated=row.expression if row.generated else None,
            reads=tuple(row.reads) if row.generated else (),
            domains=(*above.domains, above.type_oid) if above else (),
        )
    return tuple(columns.values())


def _domains(connection: sa.Connection, wallet: Holder) -> tuple[Holder, ...]:
    bases = {oid: c for c in wallet.columns if c.name in COLUMNS for oid in c.domains}
    return tuple(_domain(connection, oid, column) for oid, column in bases.items())


def _domain(connection: sa.Connection, oid: int, column: Column) -> Holder:
    row = connection.execute(
        sa.text(
            "SELECT n.nspname, d.typname, pg_catalog.pg_get_userbyid(d.typowner) AS owner,"
            " pg_catalog.pg_has_role(d.typowner, 'USAGE') AS owned FROM pg_type d"
            " JOIN pg_namespace n ON n.oid = d.typnamespace WHERE d.oid = CAST(:oid AS oid)"
        ),
        {"oid": oid},
    ).one()
    value = dataclasses.replace(column, name="value", collation=None, domains=())
    return Holder("DOMAIN", oid, row.nspname, row.typname, row.owner, row.owned, 0, (value,))


def _checks(connection: sa.Connection, holder: Holder) -> list[Check]:
    key = "conrelid" if holder.kind == "TABLE" else "contypid"
    rows = connection.execute(
        sa.text(
            "SELECT c.oid, c.conname, pg_catalog.pg_get_expr(c.conbin, c.conrelid) AS expression,"
            " c.convalidated, c.connoinherit, c.coninhcount > 0 AS inherited,"
            " pg_catalog.obj_description(c.oid, 'pg_constraint') AS comment,"
            " ARRAY(SELECT CAST(a.attname AS text) FROM pg_attribute a"
            " WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey)) AS columns"
            f" FROM pg_constraint c WHERE c.{key} = CAST(:oid AS oid) AND c.contype = 'c'"
            # What a child only inherits changes with its parent. The wallet table itself is the
            # top of what we may change, so what it inherits is reported, and refused later.
            " AND (c.conislocal OR c.conrelid = CAST(:top AS oid))"
            # PostgreSQL 18 has constraints that are NOT ENFORCED: they refuse nothing.
            " AND coalesce(CAST("
            "pg_catalog.to_jsonb(c) OPERATOR(pg_catalog.->>) 'conenforced' AS boolean), true)"
            " ORDER BY c.conname"
        ),
        {"oid": holder.oid, "top": holder.oid if holder.depth == 0 else 0},
    ).all()
    reads = {column.name: column.reads for column in holder.columns}
    return [
        Check(
            holder=holder,
            oid=row.oid,
            name=row.conname,
            expression=row.expression,
            columns=tuple(row.columns),
            reads=frozenset(row.columns).union(*(reads.get(c, ()) for c in row.columns)),
            valid=row.convalidated,
            no_inherit=row.connoinherit,
            inherited=row.inherited,
            comment=row.comment,
        )
        for row in rows
    ]
