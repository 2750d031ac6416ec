"""Whether the host's wallet takes our rows and adds them up."""

from __future__ import annotations

import re
import typing as t

import sqlalchemy as sa

from ..db import qualified
from ..db.sql import IDENTIFIERS
from ..schema import wallet_checks
from ..wallet import ADJUSTMENT
from ..wallet import BONUS
from ..wallet import REFERENCE_TYPE
from .findings import Check
from .findings import counted
from .findings import EXAMPLES
from .findings import fault
from .findings import Finding
from .findings import ok
from .findings import Patient
from .findings import warning

NEEDED = (
    "user_id",
    "amount_cents",
    "balance_after_cents",
    "type",
    "reference_type",
    "reference_id",
)
#: Filled where they exist.
OPTIONAL = ("created_at", "status", "description", "metadata")
#: What conversions and reversals write.
ROWS = wallet_checks.Rows(
    kinds=((BONUS, 1), (ADJUSTMENT, -1), (ADJUSTMENT, 1)),
    reference_type=REFERENCE_TYPE,
    own_types=(BONUS,),
)

# One that never ends is one, too.
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_LOCKS = re.compile(
    r"\bFOR\s+(NO\s+KEY\s+)?UPDATE\b|\bpg_advisory_(xact_)?lock\b|\bLOCK\s+TABLE\b"
    # An account row that is updated is locked, too.
    r"|\bDO\s+UPDATE\s+SET\b|\bUPDATE\s+(ONLY\s+)?(?P<table>[\w.\"]+)(\s+(AS\s+)?\w+)?\s+SET\b",
    re.IGNORECASE,
)
_TRIGGERS = sa.text(
    """
    SELECT tgname AS name, pg_catalog.pg_get_functiondef(tgfoid) AS source
    FROM pg_trigger
    WHERE tgrelid = CAST(pg_catalog.to_regclass(:name) AS oid) AND NOT tgisinternal
      -- tgtype is a bit field, in which 4 is INSERT; "D" is disabled, "R" fires on replicas only
      AND tgtype & 4 <> 0 AND tgenabled NOT IN ('D', 'R')
    ORDER BY tgname
    """
)


def exists(patient: Patient) -> t.Iterator[Finding]:
    """Whether the table exists and has the columns that are written."""
    table = patient.state.wallet_table
    if table is None:
        yield ok("There is no wallet model: conversions are recorded and nothing is credited.")
        return
    with patient.connect() as connection:
        inspector = sa.inspect(connection)
        if not inspector.has_table(table.name, schema=table.schema):
            yield fault(
                f"The wallet table {table.fullname!r} does not exist.",
                "Run the application's own migrations: flask db upgrade.",
            )
            return
        found = inspector.get_columns(table.name, table.schema)
        keys = inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"]
    columns = {column["name"] for column in found}
    unfilled = [
        column["name"]
        for column in found
        if not (column["nullable"] or column.get("default") or column["name"] in keys)
        and not (column.get("identity") or column.get("computed"))
        and column["name"] not in (*NEEDED, *OPTIONAL)
        and getattr(table.c.get(column["name"]), "default", None) is None
    ]
    if unfilled:
        yield warning(
            f"The wallet table {table.fullname!r} wants {' and '.join(unfilled)} filled, which "
            "credits do not: unless a trigger does it, every credit is refused.",
            "Give each a default in a migration of the application's own.",
        )
    if missing := [name for name in NEEDED if name not in columns]:
        yield fault(
            f"The wallet table {table.fullname!r} has no {_listed(missing)}, so nothing can be "
            "credited.",
            "Add what is missing in a migration of the application's own.",
        )
    if missing := [name for name in OPTIONAL if name not in columns]:
        yield ok(
            f"The wallet table {table.fullname!r} has no {_listed(missing)}; credits are written "
            "without."
        )


def values(patient: Patient) -> t.Iterator[Finding]:
    """Whether the host's rules accept our rows."""
    table = patient.wallet
    with patient.connect() as connection:
        gaps = wallet_checks.missing_values(connection, ROWS, table.name, table.schema)
    for gap in gaps:
        yield fault(
            f"The wallet cannot take a referral bonus: {gap}.",
            f"Add the rows in a migration of the application's own: {gap.cure}."
            if gap.cure
            else "Run flask referral db upgrade. Where the database is at the newest revision "
            "already, the rule was made anew since: allow these values in a migration of the "
            "application's own.",
        )


def trigger(patient: Patient) -> t.Iterator[Finding]:
    """Whether something computes the balance, and whether it locks the wallet first."""
    table = patient.wallet
    with patient.connect() as connection:
        triggers = _triggers(connection, table)
    if not any("balance_after" in f"{each.name} {each.source}" for each in triggers):
        yield fault(
            f"No trigger fills balance_after_cents of {table.fullname!r}, so a credit has no "
            "balance.",
            "Make the trigger calculate_balance_after again, in a migration of the application's "
            "own; flask referral init prints one. Where PostgreSQL has it "
            "disabled, enable it with ALTER TABLE ... ENABLE TRIGGER.",
        )
    elif patient.dialect == "sqlite":
        yield ok("A trigger computes the wallet's balances; SQLite has one writer at a time.")
    elif not any(_takes_lock(each.source, table) for each in triggers):
        key = patient.state.models.user_key
        users, column = IDENTIFIERS.format_table(key.table), IDENTIFIERS.quote(key.name)
        yield warning(
            f"The trigger that computes the balances of {table.fullname!r} takes no lock: two "
            "writers at once read the same last balance, and one amount is lost from it. Credits "
            "of flask-referral lock the user's row first; every other writer has to do so, too.",
            "Before each INSERT into the wallet, as a statement of its own in the same "
            f"transaction: SELECT 1 FROM {users} WHERE {column} = ... FOR NO "
            "KEY UPDATE; and insert created_at as clock_timestamp(). A lock inside the trigger "
            "alone comes too late, since ids and defaults are drawn before it.",
            detail="\n\n".join(each.source.strip() for each in triggers),
        )


def _triggers(connection: sa.Connection, table: sa.Table) -> t.Sequence[t.Any]:
    if connection.dialect.name == "postgresql":
        name = connection.dialect.identifier_preparer.format_table(table)
        return connection.execute(_TRIGGERS, {"name": name}).all()
    schema = connection.dialect.identifier_preparer.quote(table.schema or "main")
    rows = connection.execute(
        sa.text(
            f"SELECT name, sql AS source FROM {schema}.sqlite_master "
            "WHERE type = 'trigger' AND lower(tbl_name) = lower(:name) ORDER BY name"
        ),
        {"name": table.name},
    ).all()
    return [row for row in rows if re.search(r"\bINSERT\s+ON\b", row.source, re.IGNORECASE)]


def _takes_lock(source: str, table: sa.Table) -> bool:
    for lock in _LOCKS.finditer(_COMMENTS.sub(" ", source)):
        updated = (lock["table"] or "").replace('"', "").rpartition(".")[2]
        if updated.lower() != table.name.lower():
            return True
    return False


def balances(patient: Patient) -> t.Iterator[Finding]:
    """Whether each wallet's last balance is the sum of its amounts. One statement."""
    table = patient.wallet
    with patient.connect() as connection:
        wrong = qualified.execute(connection, _wrong_balances(connection, table)).all()
    if wrong:
        examples = "; ".join(
            f"user {row.user_id} has {row.balance} cents, and the amounts sum up to {row.total}"
            for row in wrong
        )
        more = ", the first of them" if wrong[0].wallets > len(wrong) else ""
        wallets = counted(wrong[0].wallets, "wallet has", "wallets have")
        yield fault(
            f"{wallets} a last balance that is not the sum of the amounts{more}: {examples}.",
            "Find the writer that does not lock the user's row before it inserts, then compute "
            "balance_after_cents of these wallets again, in the order of created_at and id.",
        )


def _wrong_balances(connection: sa.Connection, table: sa.Table) -> sa.Select[t.Any]:
    inspector = sa.inspect(connection)
    keys = inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"]
    columns = {column["name"] for column in inspector.get_columns(table.name, table.schema)}
    names = dict.fromkeys([*NEEDED, *keys, *(name for name in ("created_at",) if name in columns)])
    wallet = sa.table(table.name, *map(sa.column, names), schema=table.schema)
    newest_first = [
        wallet.c[name].desc().nulls_last() for name in ("created_at", *keys) if name in wallet.c
    ]
    user = wallet.c.user_id
    rows = (
        sa.select(
            user,
            wallet.c.balance_after_cents.label("balance"),
            sa.func.sum(wallet.c.amount_cents).over(partition_by=user).label("total"),
            sa.func.row_number().over(partition_by=user, order_by=newest_first).label("position"),
        )
        .where(user.is_not(None))
        .subquery()
    )
    return (
        sa.select(
            rows.c.user_id,
            rows.c.balance,
            rows.c.total,
            sa.func.count().over().label("wallets"),
        )
        .where(rows.c.position == 1, rows.c.balance.is_distinct_from(rows.c.total))
        .order_by(rows.c.user_id)
        .limit(EXAMPLES)
    )


def _listed(names: list[str]) -> str:
    return " and no ".join(names)


def _has_wallet(patient: Patient) -> bool:
    return patient.state.wallet_table is not None


_NEEDS = ("database", "wallet")
CHECKS = (
    Check("wallet", exists, "The wallet table has all columns that credits fill.", ("database",)),
    Check(
        "wallet-values",
        values,
        "The wallet takes bonuses and their reversals.",
        _NEEDS,
        _has_wallet,
    ),
    Check(
        "wallet-trigger",
        trigger,
        "A trigger computes the wallet's balances, under a lock.",
        _NEEDS,
        _has_wallet,
    ),
    Check(
        "wallet-balances",
        balances,
        "The last balance of each wallet is the sum of its amounts.",
        _NEEDS,
        _has_wallet,
    ),
)
