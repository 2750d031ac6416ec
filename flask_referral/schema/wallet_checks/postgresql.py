"""The wallet's CHECKs, enums and domains on PostgreSQL."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from ...errors import MigrationRefused
from ..ddl_locks import committing
from ..ddl_locks import raw
from .pg_enums import add_labels
from .pg_inspect import find_table
from .pg_inspect import read_wallet
from .pg_inspect import run_as
from .pg_inspect import scratch
from .pg_inspect import Wallet
from .pg_plan import gaps
from .pg_plan import Plan
from .pg_plan import plan_extend
from .pg_plan import plan_restore
from .pg_plan import refuse_rows_in_use
from .pg_swap import replace
from .rows import Gap
from .rows import Rows


def missing_values(
    connection: sa.Connection, rows: Rows, table: str, schema: str | None
) -> list[Gap]:
    """See ``flask_referral.schema.wallet_checks.missing_values``."""
    oid = find_table(connection, table, schema)
    with scratch(connection):
        return gaps(connection, read_wallet(connection, oid, rows))


def check(connection: sa.Connection, rows: Rows, table: str, schema: str | None) -> None:
    """See ``flask_referral.schema.wallet_checks.check``."""
    _planned(connection, rows, table, schema, plan_extend)


def check_index(connection: sa.Connection, table: str, schema: str | None) -> None:
    """See ``flask_referral.schema.wallet_checks.check_index``."""
    oid = find_table(connection, table, schema)
    with scratch(connection):
        wallet = raw(
            connection,
            "SELECT relkind, pg_catalog.pg_get_userbyid(relowner) AS owner,"
            " pg_catalog.pg_has_role(relowner, 'USAGE') AS"
            f" owned FROM pg_class WHERE oid = '{oid}'",
        ).one()
    if wallet.relkind == "p":
        raise MigrationRefused(
            f"The wallet table {table} is partitioned, and PostgreSQL cannot make the unique index"
            " on it that keeps a bonus from being paid twice. Set up the extension with an"
            " ordinary table as wallet_model, or without one: conversions are then recorded and"
            " nothing is credited."
        )
    if not wallet.owned:
        raise MigrationRefused(run_as(f"the wallet table {table}", wallet.owner))


def extend(context: MigrationContext, rows: Rows, table: str, schema: str | None) -> None:
    """See ``flask_referral.schema.wallet_checks.extend``."""
    plan = _planned(_bound(context), rows, table, schema, plan_extend)
    if plan.empty:
        return
    with committing(context) as connection:
        if plan.labels:
            # A new label can be used, and CHECKs be tried with it, only once it is committed.
            add_labels(connection, plan.labels)
            plan = _planned(connection, rows, table, schema, plan_extend)
        if not plan.empty:
            replace(connection, plan)


def restore(context: MigrationContext, rows: Rows, table: str, schema: str | None) -> None:
    """See ``flask_referral.schema.wallet_checks.restore``."""
    plan = _planned(_bound(context), rows, table, schema, plan_restore)
    if plan.empty:
        return
    with committing(context) as connection:
        replace(connection, plan, recheck=lambda: refuse_rows_in_use(connection, plan.wallet))


def _planned(
    connection: sa.Connection,
    rows: Rows,
    table: str,
    schema: str | None,
    planner: t.Callable[[sa.Connection, Wallet], Plan],
) -> Plan:
    oid = find_table(connection, table, schema)
    with scratch(connection):
        return planner(connection, read_wallet(connection, oid, rows))


def _bound(context: MigrationContext) -> sa.Connection:
    connection = context.connection
    assert connection is not None, "the revision runs on a database connection"
    return connection
