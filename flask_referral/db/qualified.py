"""SQL that no function or operator of somebody else's gets into (PostgreSQL).

PostgreSQL looks for a function in all schemas of the search path, and one whose arguments match
exactly wins, wherever it stands: whoever may create functions in a schema of the path could make
one that runs as the application. So each one is looked for in ``pg_catalog`` alone.

https://www.postgresql.org/docs/current/typeconv-func.html
https://www.postgresql.org/docs/current/typeconv-oper.html
"""

from __future__ import annotations

import copy
import typing as t
import weakref

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.sql import operators

#: Constructs of the grammar that look like functions.
GRAMMAR = frozenset({"coalesce", "nullif", "greatest", "least"})
_OPERATORS = frozenset(("=", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "||", "->>"))

_dialects: weakref.WeakKeyDictionary[sa.Dialect, sa.Dialect] = weakref.WeakKeyDictionary()


def compile(statement: t.Any, dialect: sa.Dialect, **options: t.Any) -> t.Any:
    """Compile a statement of ours."""
    return statement.compile(dialect=qualifying(dialect), **options)


def execute(
    connection: t.Any, statement: t.Any, values: t.Any = None, **options: t.Any
) -> sa.CursorResult[t.Any]:
    """Execute what is not prepared, as a connection's own method does.

    :param values: parameters, or a list of them.
    :param options: ``execution_options``.
    """
    before = connection.dialect
    connection.dialect = qualifying(before)
    try:
        result: sa.CursorResult[t.Any] = connection.execute(statement, values, **options)
        return result
    finally:
        connection.dialect = before


class _Qualified:
    """What SQLAlchemy's compiler for a driver is given on top."""

    def visit_function(self, func: t.Any, *rest: t.Any, **named: t.Any) -> str:
        text: str = super().visit_function(func, *rest, **named)  # type: ignore[misc]
        if func.packagenames or func.name.lower() in GRAMMAR:
            return text
        return f"pg_catalog.{text}"

    def visit_binary(self, binary: t.Any, *rest: t.Any, **named: t.Any) -> str:
        # An IN can name no operator, and pg_catalog has none for two of these.
        if binary.operator in (operators.in_op, operators.not_in_op):
            exact = _exact(binary.left)
            if exact is not None:
                binary = binary._clone()
                binary.left = sa.cast(binary.left, exact)
        text: str = super().visit_binary(binary, *rest, **named)  # type: ignore[misc]
        return text

    def _generate_generic_binary(self, binary: t.Any, opstring: str, **named: t.Any) -> str:
        symbol = opstring.strip()
        is_ours = symbol in _OPERATORS and not any(map(is_foreign, (binary.left, binary.right)))
        if is_ours:
            opstring = f" OPERATOR(pg_catalog.{symbol.replace('!=', '<>')}) "
        text: str = super()._generate_generic_binary(  # type: ignore[misc]
            binary, opstring, **named
        )
        # Named like this, all operators bind equally.
        return f"({text})" if is_ours else text

    def render_bind_cast(self, type_: t.Any, dbapi_type: t.Any, sqltext: str) -> str:
        if _is_string(dbapi_type):
            return f"{sqltext}::TEXT"
        text: str = super().render_bind_cast(type_, dbapi_type, sqltext)  # type: ignore[misc]
        return text


def _is_string(type_: t.Any) -> bool:
    return isinstance(type_, sa.String) and not isinstance(type_, sa.Enum | CITEXT)


def _exact(element: t.Any) -> t.Any:
    """Return the type that is compared in place of one without operators of its own, or None."""
    type_ = _stored(element)
    if isinstance(type_, OID):
        return sa.BigInteger()
    return sa.Text() if _is_string(type_) and not isinstance(type_, sa.Text) else None


def is_foreign(element: t.Any) -> bool:
    """Whether a type comes with operators of its own, as an extension's does."""
    return isinstance(_stored(element), sa.types.UserDefinedType | CITEXT)


def _stored(element: t.Any) -> t.Any:
    type_ = getattr(element, "type", None)
    while isinstance(type_, sa.TypeDecorator):
        type_ = type_.impl_instance
    return type_


def qualify(connection: sa.Connection) -> None:
    """Do so for all that a connection of ours executes, SQLAlchemy's reflection included."""
    connection.dialect = qualifying(connection.dialect)


def qualifying(dialect: sa.Dialect) -> sa.Dialect:
    """Return a dialect as it is, but for how it writes functions and operators."""
    if dialect.name != "postgresql":
        return dialect
    known = _dialects.get(dialect)
    if known is None:
        known = copy.copy(dialect)
        compiler: t.Any = dialect.statement_compiler
        if not issubclass(compiler, _Qualified):
            compiler = type(f"Qualified{compiler.__name__}", (_Qualified, compiler), {})
        known.statement_compiler = compiler
        _dialects[dialect] = known
    return known
