"""What the revisions import, and all that they import of this package.

A revision that was released runs for ever as it did on its day. So what stands here never
changes: no name, no signature, no default, no result. What has to differ gets a new name.

That goes for what ``wallet_checks`` leaves in a host's database, too: the comments and marks that
a downgrade reads.
"""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from flask import current_app

from ..errors import MigrationRefused
from . import ddl_locks
from .wallet_checks import check as check_wallet
from .wallet_checks import check_index as check_wallet_index
from .wallet_checks import extend as extend_wallet
from .wallet_checks import restore as restore_wallet
from .wallet_checks import Rows as WalletRows

__all__ = [
    "MigrationRefused",
    "WalletRows",
    "check_wallet",
    "check_wallet_index",
    "extend_wallet",
    "patiently",
    "refuse_references",
    "restore_wallet",
    "schema",
    "user_key",
    "wallet_table",
]


def user_key() -> sa.Column[t.Any]:
    """Return the key of the host's users."""
    column: sa.Column[t.Any] = current_app.extensions["referral"].user_key
    return column


def wallet_table() -> sa.Table | None:
    """Return the host's wallet, None where it has none."""
    table: sa.Table | None = current_app.extensions["referral"].wallet_table
    return table


def schema() -> str | None:
    """Return the schema of our tables, None for the connection's search path."""
    name: str | None = current_app.extensions["referral"].models.metadata.schema
    return name


def refuse_references(connection: sa.Connection, ours: t.Collection[str]) -> None:
    """Refuse to drop tables of ours that foreign keys of others refer to.

    PostgreSQL would stop at them half way, and SQLite would let them point to nothing.

    :param ours: the tables, without their schema; their own references to each other are none.
    :raises MigrationRefused: which names the foreign keys.
    """
    inspector = sa.inspect(connection)
    home = schema() or inspector.default_schema_name
    schemas = inspector.get_schema_names() if connection.dialect.name == "postgresql" else [home]
    found = [
        f"{table} ({', '.join(key['constrained_columns'])})"
        for (where, table), keys in _foreign_keys(inspector, schemas)
        if not (where == home and table in ours)
        for key in keys
        if key["referred_table"] in ours
        and (key["referred_schema"] or inspector.default_schema_name) == home
    ]
    if found:
        raise MigrationRefused(
            f"The downgrade is refused: {' and '.join(sorted(found))} would refer to a table that "
            "is gone. Drop these foreign keys in a migration of the application's own first; "
            "nothing was changed."
        )


def _foreign_keys(
    inspector: sa.Inspector, schemas: t.Iterable[str | None]
) -> t.Iterator[tuple[tuple[str | None, str], t.Any]]:
    for name in schemas:
        for (_, table), keys in inspector.get_multi_foreign_keys(schema=name).items():
            yield (name, table), keys


def patiently(context: MigrationContext, body: t.Callable[[], None], *tables: sa.Table) -> None:
    """Run a revision's DDL without making a live application queue behind it for long.

    Online it gives up its locks and tries again, see :func:`flask_referral.ddl_locks.patiently`. A
    printed script cannot: there the statement fails, its transaction with it, and the script can
    be run again.

    :param body: called once for each attempt.
    :param tables: what ``body`` needs locks on.
    :raises MigrationRefused: where it did not get them.
    """
    if context.as_sql:
        context.execute("SET LOCAL lock_timeout = 5000")
        body()
        return
    connection = context.connection
    assert connection is not None
    names = [connection.dialect.identifier_preparer.format_table(table) for table in tables]
    oids: list[int] = []
    if connection.dialect.name == "postgresql":
        query = sa.text("SELECT CAST(pg_catalog.to_regclass(:name) AS oid)")
        found = [connection.scalar(query, {"name": name}) for name in names]
        oids = [oid for oid in found if oid is not None]
    what = f"table{'s' if names[1:] else ''} {', '.join(names)}"
    ddl_locks.patiently(connection, body, what=what, tables=oids)
