"""What a database's own catalogue says about the referral tables."""

from __future__ import annotations

import re
import typing as t

import sqlalchemy as sa

from flask_referral.db.models import VERSION_TABLE

_POSTGRESQL = r"""
SELECT 'column', c.relname, format('%s. %I %s%s%s', a.attnum, a.attname,
       format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
       coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), ''))
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind = 'r' AND c.relname LIKE 'referral\_%'
UNION ALL
SELECT 'constraint', c.relname, format('%I %s%s', k.conname, pg_get_constraintdef(k.oid),
       CASE WHEN k.convalidated THEN '' ELSE ' NOT VALID' END)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relname LIKE 'referral\_%'
UNION ALL
SELECT 'index', c.relname, pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relname LIKE 'referral\_%'
UNION ALL
SELECT 'trigger', c.relname, pg_get_triggerdef(g.oid)
FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
WHERE c.relname LIKE 'referral\_%' AND NOT g.tgisinternal
"""
_SQLITE = "SELECT type, tbl_name, coalesce(sql, name) FROM sqlite_master"


def catalogue(connection: sa.Connection) -> set[tuple[str, str, str]]:
    """Return (kind, table, definition) of all there is, but row level security.

    A definition holds the names of constraints and indexes, and a column its place in the table.
    """
    if connection.dialect.name == "postgresql":
        rows = connection.execution_options(no_parameters=True).exec_driver_sql(_POSTGRESQL)
        return {(kind, table, sql) for kind, table, sql in rows}
    found: set[tuple[str, str, str]] = set()
    for kind, table, sql in connection.exec_driver_sql(_SQLITE).all():
        if not table.startswith("referral_"):
            continue
        if kind != "table":
            found.add((kind, table, _spaced(sql)))
            continue
        for place, *column in connection.exec_driver_sql(f"PRAGMA table_xinfo({table})"):
            # SQLAlchemy 2.0 puts parentheses around a function more often than is needed.
            described = [
                part.strip("()") if part == column[3] and part else part for part in column
            ]
            found.add(("column", table, f"{place}. {described}"))
        found |= {("constraint", table, text) for text in _constraints(sql)}
    return found


def _constraints(sql: str) -> t.Iterator[str]:
    """Yield the named constraints of a CREATE TABLE, wherever a column's stands."""
    body = sql[sql.index("(") + 1 : sql.rindex(")")]
    depth, item = 0, ""
    for character in body + ",":
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            *_, constraint = _spaced(item).partition("CONSTRAINT ")
            if constraint:
                yield constraint
            item = ""
        else:
            item += character


def _spaced(sql: str) -> str:
    # Spaces mean nothing, and Alembic puts others than SQLAlchemy.
    return re.sub(r"\s+", " ", sql).replace(" ,", ",").strip()


def without_version(found: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    return {row for row in found if row[1] != VERSION_TABLE}
