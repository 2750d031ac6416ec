"""Find the text that makes PostgreSQL build the very same CHECK again."""

from __future__ import annotations

import re

import sqlalchemy as sa

from ..locks import raw
from .pg_inspect import Check
from .pg_inspect import Holder
from .pg_inspect import literal
from .pg_inspect import quote

_ARRAY_CAST = re.compile(r"\)::[\w .\"]+(?:\([\d, ]+\))?\[\]")


def reproducible(connection: sa.Connection, check: Check) -> str:
    """Return a text that PostgreSQL parses to the very expression the constraint has now.

    The printed text of ``varchar_column IN (…)`` does not: read back, its array cast moves to
    the elements. So texts are tried until one comes back as the constraint is printed.
    """
    for text in (check.expression, without_array_casts(check.expression)):
        try:
            with connection.begin_nested() as trial:
                printed = _print_back(connection, check.holder, text)
                trial.rollback()
        except sa.exc.DBAPIError:
            continue
        if printed == check.expression:
            return text
    return check.expression


def _print_back(connection: sa.Connection, holder: Holder, text: str) -> str:
    probe = f"pg_temp.{quote(holder.name)}"
    if holder.kind == "DOMAIN":
        sql = f"SELECT format_type(typbasetype, typtypmod) FROM pg_type WHERE oid = {holder.oid}"
        base = raw(connection, sql).scalar_one()
        raw(connection, f"CREATE DOMAIN {probe} AS {base} CHECK ({text})")
        where = f"contypid = {literal(probe)}::regtype"
    else:
        raw(connection, f"CREATE TEMPORARY TABLE {quote(holder.name)} (LIKE {holder.sql})")
        raw(connection, f"ALTER TABLE {probe} ADD CHECK ({text})")
        where = f"conrelid = {literal(probe)}::regclass"
    sql = f"SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE contype = 'c' AND {where}"
    return str(raw(connection, sql).scalar_one())


def without_array_casts(expression: str) -> str:
    """Return an expression with ``(ARRAY[…])::type[]`` written as ``ARRAY[…]``.

    :param expression: as ``pg_get_expr`` prints it.
    """
    opening = "(ARRAY["
    out: list[str] = []
    position = 0
    while True:
        start = expression.find(opening, position)
        end = _closing_bracket(expression, start + len(opening)) if start >= 0 else -1
        if start < 0 or end < 0:
            return "".join(out) + expression[position:]
        cast = _ARRAY_CAST.match(expression, end + 1)
        if cast is None:
            out.append(expression[position : start + len(opening)])
            position = start + len(opening)
        else:
            out.append(expression[position:start] + expression[start + 1 : end + 1])
            position = cast.end()


def _closing_bracket(expression: str, position: int) -> int:
    """Return where the bracket closes that opened before ``position``; -1 if it never does."""
    depth = 1
    quoted = ""
    for index in range(position, len(expression)):
        char = expression[index]
        if quoted:
            # A doubled quote closes and opens again, which comes to the same.
            quoted = "" if char == quoted else quoted
        elif char in "'\"":
            quoted = char
        elif char in "[]":
            depth += 1 if char == "[" else -1
            if depth == 0:
                return index
    return -1
