"""Operators: users whose code is switched off, and indexes for what operators look through.

Revision: 0007
Follows: 0006

What is there already is left alone: a host whose own history or ``create_all()`` made the tables
has all of it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flask_referral.schema import frozen

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

CODES, CLICKS = "referral_codes", "referral_clicks"
REWARDS, EVENTS = "referral_rewards", "referral_events"
DISABLED = "referral_disabled"
#: index, table, columns, WHERE
INDEXES = (
    ("idx_referral_codes_created_at", CODES, ["created_at", "id"], None),
    (
        "idx_referral_clicks_bound_at",
        CLICKS,
        ["bound_at", "id", "source", "utm_campaign"],
        "bound_at IS NOT NULL",
    ),
    ("idx_referral_rewards_created_at", REWARDS, ["created_at", "id"], None),
    ("idx_referral_rewards_status", REWARDS, ["status", "created_at", "id"], None),
    (
        "idx_referral_events_deliveries",
        EVENTS,
        ["received_at", "provider", "event_id"],
        "kind = 'delivery'",
    ),
    (
        "idx_referral_events_operators",
        EVENTS,
        ["received_at", "provider", "event_id"],
        "kind = 'operator'",
    ),
)
#: What SQLite does with the row of a deleted user where foreign keys are switched off.
SQLITE_TRIGGER = "referral_users_deleted_disabled"
ON_SUPABASE = (
    "pg_catalog.to_regprocedure('auth.uid()') IS NOT NULL AND (SELECT count(*) FROM pg_roles "
    "WHERE rolname IN ('anon', 'authenticated', 'service_role')) = 3"
)


def upgrade() -> None:
    frozen.patiently(op.get_context(), _upgrade, *_locked())


def check_downgrade() -> None:
    frozen.refuse_references(op.get_bind(), (DISABLED,))


def downgrade() -> None:
    frozen.patiently(op.get_context(), _downgrade, *_locked())


def _locked() -> list[sa.Table]:
    # The users too: the new table refers to them.
    changed = (CODES, CLICKS, REWARDS, EVENTS)
    ours = [sa.Table(name, sa.MetaData(), schema=frozen.schema()) for name in changed]
    return [*ours, frozen.user_key().table]


def _upgrade() -> None:
    tables, indexes = _there()
    if DISABLED not in tables:
        _create_disabled()
    for name, table, on, where in INDEXES:
        if name not in indexes:
            options = {}
            if where is not None:
                options = dict.fromkeys(("postgresql_where", "sqlite_where"), sa.text(where))
            op.create_index(op.f(name), table, on, schema=frozen.schema(), **options)
    if _is_postgresql():
        _row_security()
    else:
        key = frozen.user_key()
        quote = op.get_context().dialect.identifier_preparer.quote
        op.execute(
            f"CREATE TRIGGER IF NOT EXISTS {_sqlite_trigger()} AFTER DELETE ON "
            f"{quote(key.table.name)} BEGIN DELETE FROM {DISABLED} "
            f"WHERE user_id = OLD.{quote(key.name)}; END"
        )


def _downgrade() -> None:
    if not _is_postgresql():
        op.execute(f"DROP TRIGGER IF EXISTS {_sqlite_trigger()}")
    for name, table, *_ in reversed(INDEXES):
        op.drop_index(op.f(name), table, schema=frozen.schema())
    op.drop_table(DISABLED, schema=frozen.schema())


def _there() -> tuple[set[str], set[str]]:
    """Return the tables and the indexes that exist."""
    if op.get_context().as_sql:
        return set(), set()
    schema, inspector = frozen.schema(), sa.inspect(op.get_bind())
    return (
        set(inspector.get_table_names(schema=schema)),
        {
            str(index["name"])
            for table in (CODES, CLICKS, REWARDS, EVENTS)
            for index in inspector.get_indexes(table, schema)
        },
    )


def _create_disabled() -> None:
    user_key = frozen.user_key()
    now = sa.text("pg_catalog.now()" if _is_postgresql() else "CURRENT_TIMESTAMP")
    op.create_table(
        DISABLED,
        sa.Column("user_id", user_key.type, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=now),
        sa.PrimaryKeyConstraint("user_id", name=op.f(f"{DISABLED}_pkey")),
        sa.ForeignKeyConstraint(
            ["user_id"], [user_key], name=op.f(f"{DISABLED}_user_id_fkey"), ondelete="CASCADE"
        ),
        schema=frozen.schema(),
    )
    newest = ["since", "user_id"]
    op.create_index(op.f(f"idx_{DISABLED}_since"), DISABLED, newest, schema=frozen.schema())


def _row_security() -> None:
    # No policy: users read nothing of it.
    disabled = _name(DISABLED)
    op.execute(f"ALTER TABLE {disabled} ENABLE ROW LEVEL SECURITY")
    op.execute(
        sa.text(
            f"DO $referral$ BEGIN IF {ON_SUPABASE} THEN\n"
            f"    REVOKE ALL ON {disabled} FROM anon, authenticated;\n"
            f"    GRANT SELECT, INSERT, UPDATE, DELETE ON {disabled} TO service_role;\n"
            "END IF; END $referral$".replace(":", r"\:")
        )
    )


def _sqlite_trigger() -> str:
    # A trigger lives in the schema of its table, and names tables without one.
    quote = op.get_context().dialect.identifier_preparer.quote
    schema = frozen.user_key().table.schema
    return f"{quote(schema)}.{SQLITE_TRIGGER}" if schema else SQLITE_TRIGGER


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _name(name: str) -> str:
    schema = frozen.schema()
    quote = op.get_context().dialect.identifier_preparer.quote
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)
