"""The wallet's CHECKs, enums and domains on PostgreSQL."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from .. import locks
from ..locks import committing
from .pg_enums import add_labels
from .pg_inspect import find_table
from .pg_inspect import literal
from .pg_inspect import quote
from .pg_inspect import read_wallet
from .pg_inspect import scratch
from .pg_inspect import Wallet
from .pg_plan import gaps
from .pg_plan import Plan
from .pg_plan import plan_extend
from .pg_plan import plan_restore
from .pg_plan import refuse_rows_in_use
from .pg_swap import replace
from .rows import Gap

#: The documented lists, for scripts that are written without a database to look at.
DOCUMENTED: t.Final = {
    "type": (
        "deal_payment",
        "affiliate_commission",
        "referral_bonus",
        "withdrawal",
        "adjustment",
    ),
    "reference_type": (
        "deal_enrollment",
        "affiliate_conversion",
        "referral_conversion",
        "manual",
    ),
}
NEW: t.Final = frozenset({"referral_bonus", "referral_conversion"})


def missing_values(connection: sa.Connection, table: str, schema: str | None) -> list[Gap]:
    """See ``flask_referral.wallet_checks.missing_values``."""
    oid = find_table(connection, table, schema)
    with scratch(connection):
        return gaps(connection, read_wallet(connection, oid))


def extend(context: MigrationContext, table: str, schema: str | None) -> None:
    """See ``flask_referral.wallet_checks.extend``."""
    plan = _planned(_bound(context), table, schema, plan_extend)
    if plan.empty:
        return
    with committing(context) as connection:
        if plan.labels:
            # A new label can be used, and CHECKs be tried with it, only once it is committed.
            add_labels(connection, plan.labels)
            plan = _planned(connection, table, schema, plan_extend)
        if not plan.empty:
            replace(connection, plan)


def restore(context: MigrationContext, table: str, schema: str | None) -> None:
    """See ``flask_referral.wallet_checks.restore``."""
    plan = _planned(_bound(context), table, schema, plan_restore)
    if plan.empty:
        return
    with committing(context) as connection:
        replace(connection, plan, recheck=lambda: refuse_rows_in_use(connection, plan.wallet))


def offline(table: str, schema: str | None, *, with_ours: bool) -> t.Iterator[str]:
    """Yield the SQL that writes the documented lists, with or without our new values."""
    name = quote(table) if schema is None else f"{quote(schema)}.{quote(table)}"
    lists = {
        column: ", ".join(literal(value) for value in documented if with_ours or value not in NEW)
        for column, documented in DOCUMENTED.items()
    }
    for column, listed in lists.items():
        yield _refuse_others(name, column, listed)
    for column, listed in lists.items():
        constraint = f"wallet_transactions_{column}_check"
        yield from _gently(
            f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {constraint},"
            f" ADD CONSTRAINT {constraint} CHECK ({column} IN ({listed})) NOT VALID"
        )
        yield from _gently(f"ALTER TABLE {name} VALIDATE CONSTRAINT {constraint}")


def _refuse_others(name: str, column: str, listed: str) -> str:
    # Before anything is changed: VALIDATE comes too late to keep the rule that was there.
    message = literal(
        f"{name} has rows whose {column} is not one of the documented values; run flask referral "
        "db upgrade or downgrade on the database itself, which keeps the rules that are there"
    )
    return (
        f"DO $referral$ BEGIN IF EXISTS (SELECT FROM {name} WHERE {column} NOT IN ({listed})) THEN"
        f" RAISE EXCEPTION USING MESSAGE = {message}; END IF; END $referral$"
    )


def _gently(statement: str) -> t.Iterator[str]:
    # A script cannot try again, but it does not make everybody wait behind it either.
    yield "BEGIN"
    yield f"SET LOCAL lock_timeout = {locks.QUIET_LOCK_TIMEOUT_MS}"
    yield statement
    yield "COMMIT"


def _planned(
    connection: sa.Connection,
    table: str,
    schema: str | None,
    planner: t.Callable[[sa.Connection, Wallet], Plan],
) -> Plan:
    oid = find_table(connection, table, schema)
    with scratch(connection):
        return planner(connection, read_wallet(connection, oid))


def _bound(context: MigrationContext) -> sa.Connection:
    connection = context.connection
    assert connection is not None, "the revision runs on a database connection"
    return connection
