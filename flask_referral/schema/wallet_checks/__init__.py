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

__all__ = [
    "Gap",
    "extend",
    "missing_values",
    "offline_downgrade",
    "offline_upgrade",
    "restore",
]


def extend(context: MigrationContext, table: str, schema: str | None = None) -> None:
    """Widen the CHECKs, enums and domains of the wallet so that they take our values.

    Everything that speaks against it is found before anything is committed. If something has to
    change, the transaction so far is committed (``autocommit_block``), since a live table may be
    locked for moments only; if it fails then, the table is as before and a new run works.
    Labels added to a native enum stay even after a downgrade: PostgreSQL cannot drop them. A
    domain is widened for all columns that use it.

    :param context: Alembic's context, bound to a database connection.
    :param table: the name of the wallet table.
    :param schema: its schema; None for the connection's search path.
    :raises MigrationRefused: when it cannot be done, with the reason and the cure.
    """
    _of(context.connection).extend(context, table, schema)


def restore(context: MigrationContext, table: str, schema: str | None = None) -> None:
    """Give the CHECKs and domains of the wallet the definitions they had before ``extend``.

    :param context: Alembic's context, bound to a database connection.
    :param table: the name of the wallet table.
    :param schema: its schema; None for the connection's search path.
    :raises MigrationRefused: while rows of the wallet need our values; nothing is changed then.
    """
    _of(context.connection).restore(context, table, schema)


def missing_values(connection: sa.Connection, table: str, schema: str | None = None) -> list[Gap]:
    """Return the rules of the wallet that still refuse rows of ours; an empty list is fine.

    :param connection: a connection to the host's database.
    :param table: the name of the wallet table.
    :param schema: its schema; None for the connection's search path.
    :raises MigrationRefused: when the table or one of its columns is missing.
    """
    return t.cast("list[Gap]", _of(connection).missing_values(connection, table, schema))


def offline_upgrade(table: str, schema: str | None = None) -> t.Iterator[str]:
    """Yield the PostgreSQL statements that write the documented lists with our values.

    Without a database there is nothing to look at. The statements are to run one by one, each
    in a transaction of its own.

    :param table: the name of the wallet table.
    :param schema: its schema; None for the search path.
    """
    return postgresql.offline(table, schema, with_ours=True)


def offline_downgrade(table: str, schema: str | None = None) -> t.Iterator[str]:
    """Yield the PostgreSQL statements that write the documented lists without our values.

    :param table: the name of the wallet table.
    :param schema: its schema; None for the search path.
    """
    return postgresql.offline(table, schema, with_ours=False)


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
