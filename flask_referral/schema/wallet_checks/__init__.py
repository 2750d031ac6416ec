"""Let the host's wallet table take the rows of the referral system, and take that back.

The wallet table belongs to the host, and so do its CHECKs. A rule is changed only when the
database itself says that it refuses a row of ours, it is widened and never replaced, it keeps its
name, and what it was is kept with it for the downgrade. Triggers are never touched.
"""

from __future__ import annotations

import types
import typing as t

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from ...errors import MigrationRefused
from . import postgresql
from . import sqlite
from .rows import Gap
from .rows import Rows

__all__ = [
    "Gap",
    "Rows",
    "check",
    "check_index",
    "extend",
    "missing_values",
    "restore",
]


def check(connection: sa.Connection, rows: Rows, table: str, schema: str | None = None) -> None:
    """Refuse what ``extend`` would refuse, and change nothing.

    :param connection: a connection to the host's database.
    :param rows: what the wallet is to take.
    :param table: the name of the wallet table.
    :param schema: its schema; None for the connection's search path.
    :raises MigrationRefused: with the reason and the cure.
    """
    _of(connection).check(connection, rows, table, schema)


def check_index(connection: sa.Connection, table: str, schema: str | None = None) -> None:
    """Refuse where no unique index can be made on a live wallet.

    :param connection: a connection to the host's database.
    :param table: the name of the wallet table.
    :param schema: its schema; None for the connection's search path.
    :raises MigrationRefused: with the reason and the cure.
    """
    _of(connection).check_index(connection, table, schema)


def extend(context: MigrationContext, rows: Rows, table: str, schema: str | None = None) -> None:
    """Widen the CHECKs, enums and domains of the wallet so that they take our values.

    Everything that speaks against it is found before anything is committed. If something has to
    change, the transaction so far is committed (``autocommit_block``), since a live table may be
    locked for moments only; if it fails then, the table is as before and a new run works.
    Labels added to a native enum stay even after a downgrade: PostgreSQL cannot drop them. A
    domain is widened for all columns that use it.

    :param context: Alembic's context, bound to a database connection.
    :param rows: what the wallet is to take.
    :param table: the name of the wallet table.
    :param schema: its schema; None for the connection's search path.
    :raises MigrationRefused: when it cannot be done, with the reason and the cure.
    """
    _of(context.connection).extend(context, rows, table, schema)


def restore(context: MigrationContext, rows: Rows, table: str, schema: str | None = None) -> None:
    """Let the CHECKs and domains of the wallet accept what they accepted before ``extend``.

    :param context: Alembic's context, bound to a database connection.
    :param rows: what the wallet is to take.
    :param table: the name of the wallet table.
    :param schema: its schema; None for the connection's search path.
    :raises MigrationRefused: while rows of the wallet need our values; nothing is changed then.
    """
    _of(context.connection).restore(context, rows, table, schema)


def missing_values(
    connection: sa.Connection, rows: Rows, table: str, schema: str | None = None
) -> list[Gap]:
    """Return the rules of the wallet that still refuse rows of ours; an empty list is fine.

    :param connection: a connection to the host's database.
    :param rows: what the wallet is to take.
    :param table: the name of the wallet table.
    :param schema: its schema; None for the connection's search path.
    :raises MigrationRefused: when the table or one of its columns is missing.
    """
    return t.cast("list[Gap]", _of(connection).missing_values(connection, rows, table, schema))


def _of(connection: sa.Connection | None) -> types.ModuleType:
    assert connection is not None, "offline there is no database to look at"
    dialect = connection.dialect.name
    if dialect == "postgresql":
        return postgresql
    if dialect == "sqlite":
        return sqlite
    raise MigrationRefused(
        f"The wallet is in a {dialect} database. Flask-Referral works on PostgreSQL and SQLite."
    )
