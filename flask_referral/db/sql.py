"""What differs between the dialects and their drivers, and the statements of the hot paths."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql.base import PGDialect

if t.TYPE_CHECKING:
    from .models import Models

#: Quotes names as PostgreSQL reads them; those of the drivers double each "%".
IDENTIFIERS = PGDialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"
SERIALIZATION_FAILURE = "40001"
INSUFFICIENT_PRIVILEGE = "42501"


class Statement:
    """A statement that is built once for each host and dialect, as :func:`statement` makes it."""

    def __init__(self, build: t.Callable[[Models, str], sa.Executable]) -> None:
        self._build = build

    def __call__(
        self, db: sa.Connection, models: Models, **values: t.Any
    ) -> sa.CursorResult[t.Any]:
        """Execute it.

        :param values: its bound parameters.
        """
        key = (self._build, db.dialect.name)
        prepared = models.statements.get(key)
        if prepared is None:
            prepared = models.statements.setdefault(key, self._build(models, db.dialect.name))
        return db.execute(prepared, values)


def statement(build: t.Callable[[Models, str], sa.Executable]) -> Statement:
    """Make a function that builds a statement one that executes it.

    The function gets the host's models and the name of the dialect; what is new in each call are
    bound parameters.
    """
    return Statement(build)


def insert(dialect: str, table: t.Any) -> t.Any:
    """Return an INSERT, into a table or a mapped class, that knows ON CONFLICT."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def parameter(name: str, column: sa.ColumnElement[t.Any]) -> sa.BindParameter[t.Any]:
    """Return a bound parameter of a column's type."""
    return sa.bindparam(name, type_=column.type)


def sqlstate(error: sa.exc.DBAPIError) -> str | None:
    """Return the five-character SQLSTATE of a database error, for psycopg2 and psycopg 3.

    :param error: the error as SQLAlchemy raised it.
    """
    original = error.orig
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)


def driver(db: sa.Connection) -> t.Any:
    """Return the driver's own connection."""
    return db.connection.dbapi_connection


def is_autocommit(db: sa.Connection) -> bool:
    """Whether the driver runs each statement in a transaction of its own."""
    if db.dialect.name == "sqlite":
        return driver(db).isolation_level is None and not driver(db).in_transaction
    return bool(driver(db).autocommit)


def begin_writing(db: sa.Connection, *, anew: bool = False) -> None:
    """Make an SQLite transaction the one that may write; nothing to do on PostgreSQL.

    Python's driver begins at the first write, and what was read before is of yesterday.

    :param anew: whether a transaction that the host's engine begins by itself is begun again; it
        must not have done anything yet.
    """
    if db.dialect.name != "sqlite":
        return
    if not db.in_transaction():
        # Where the host's engine begins by itself, it does so now.
        db.begin()
    if anew and driver(db).in_transaction:
        db.exec_driver_sql("ROLLBACK")
    if not driver(db).in_transaction:
        db.exec_driver_sql("BEGIN IMMEDIATE")
