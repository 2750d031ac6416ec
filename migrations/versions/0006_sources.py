"""Sources: what links were tagged with, and where clicks, sign-ups and earnings came from.

Revision: 0006
Follows: 0005

What was there before has no source. What is there already is left alone: a host whose own history
or ``create_all()`` made the tables has all of it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flask_referral.schema import frozen

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CLICKS, CONVERSIONS, REWARDS = "referral_clicks", "referral_conversions", "referral_rewards"
DAILY, SOURCES = "referral_daily", "referral_daily_sources"
#: table, column, the most characters
COLUMNS = (
    (CLICKS, "utm_source", 64),
    (CLICKS, "utm_medium", 64),
    (CLICKS, "utm_campaign", 64),
    (CLICKS, "source", 255),
    (REWARDS, "source", 255),
)
#: index, table, columns, WHERE
INDEXES = (
    (
        "idx_referral_clicks_sources",
        CLICKS,
        ["referrer_user_id", "clicked_at", "source"],
        "source IS NOT NULL",
    ),
    (
        "idx_referral_clicks_signup_sources",
        CLICKS,
        ["referrer_user_id", "source"],
        "bound_at IS NOT NULL AND source IS NOT NULL",
    ),
)
#: What Supabase's users may read on top, each of the rows that the policies show.
READABLE = {
    CLICKS: "source",
    REWARDS: "source",
    SOURCES: "referrer_user_id, day, source, clicks",
}
ON_SUPABASE = (
    "pg_catalog.to_regprocedure('auth.uid()') IS NOT NULL AND (SELECT count(*) FROM pg_roles "
    "WHERE rolname IN ('anon', 'authenticated', 'service_role')) = 3"
)
#: What SQLite does with the sums by source of a deleted sum where foreign keys are switched off.
SQLITE_TRIGGER = "referral_daily_deleted"


def upgrade() -> None:
    frozen.patiently(op.get_context(), _upgrade, *_locked())


def check_downgrade() -> None:
    frozen.refuse_references(op.get_bind(), (SOURCES,))


def downgrade() -> None:
    frozen.patiently(op.get_context(), _downgrade, *_locked())


def _locked() -> list[sa.Table]:
    # The users too: the new table refers to them.
    ours = [sa.Table(name, sa.MetaData(), schema=frozen.schema()) for name in (CLICKS, REWARDS)]
    return [*ours, frozen.user_key().table]


def _upgrade() -> None:
    tables, columns, indexes = _there()
    for table, column, length in COLUMNS:
        if (table, column) not in columns:
            _add_column(table, column, length)
        elif _is_postgresql():
            op.execute(f"ALTER TABLE {_name(table)} ADD {_check(table, column, length)}")
    if SOURCES not in tables:
        _create_sources()
    for name, table, on, where in INDEXES:
        if name not in indexes:
            op.create_index(
                op.f(name),
                table,
                on,
                schema=frozen.schema(),
                postgresql_where=sa.text(where),
                sqlite_where=sa.text(where),
            )
    if _is_postgresql():
        _row_security()
    else:
        op.execute(
            f"CREATE TRIGGER IF NOT EXISTS {_name(SQLITE_TRIGGER)} AFTER DELETE ON {DAILY} "
            f"BEGIN DELETE FROM {SOURCES} WHERE referrer_user_id = OLD.referrer_user_id "
            "AND day = OLD.day; END"
        )


def _downgrade() -> None:
    if not _is_postgresql():
        op.execute(f"DROP TRIGGER IF EXISTS {_name(SQLITE_TRIGGER)}")
    for name, table, *_ in reversed(INDEXES):
        op.drop_index(op.f(name), table, schema=frozen.schema())
    op.drop_table(SOURCES, schema=frozen.schema())
    for table, column, _ in reversed(COLUMNS):
        # Its CHECK goes with it.
        op.execute(f"ALTER TABLE {_name(table)} DROP COLUMN {column}")


def _there() -> tuple[set[str], set[tuple[str, str]], set[str]]:
    """Return the tables, the columns of clicks and rewards, and the indexes that exist."""
    if op.get_context().as_sql:
        return set(), set(), set()
    schema, inspector = frozen.schema(), sa.inspect(op.get_bind())
    changed = (CLICKS, REWARDS)
    return (
        set(inspector.get_table_names(schema=schema)),
        {
            (table, column["name"])
            for table in changed
            for column in inspector.get_columns(table, schema)
        },
        {str(index["name"]) for table in changed for index in inspector.get_indexes(table, schema)},
    )


def _add_column(table: str, column: str, length: int) -> None:
    op.execute(
        f"ALTER TABLE {_name(table)} ADD COLUMN {column} TEXT {_check(table, column, length)}"
    )


def _check(table: str, column: str, length: int) -> str:
    if _is_postgresql():
        rule = f"pg_catalog.length({column}) OPERATOR(pg_catalog.<=) {length}"
    else:
        rule = f"length({column}) <= {length}"
    return f"CONSTRAINT {table}_{column}_check CHECK ({rule})"


def _create_sources() -> None:
    user_key = frozen.user_key()
    key = ("referrer_user_id", "day", "source", "campaign")
    op.create_table(
        SOURCES,
        sa.Column("referrer_user_id", user_key.type, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("campaign", sa.Text(), nullable=False),
        sa.Column("clicks", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(*key, name=op.f(f"{SOURCES}_pkey")),
        sa.ForeignKeyConstraint(
            ["referrer_user_id"],
            [user_key],
            name=op.f(f"{SOURCES}_referrer_user_id_fkey"),
            ondelete="CASCADE",
        ),
        schema=frozen.schema(),
    )


def _row_security() -> None:
    sources = _name(SOURCES)
    op.execute(f"ALTER TABLE {sources} ENABLE ROW LEVEL SECURITY")
    rights = "".join(
        f"    GRANT SELECT ({columns}) ON {_name(table)} TO authenticated;\n"
        for table, columns in READABLE.items()
    )
    # The identity is the one that revision 0002 chose for this database; that a row's referrer
    # sees it is asked of a policy that is there already.
    op.execute(
        sa.text(
            "DO $referral$ DECLARE identity text; BEGIN\n"
            "SELECT '(' || pg_catalog.pg_get_expr(polqual, polrelid) || ')' INTO STRICT identity\n"
            f"FROM pg_policy WHERE polrelid = '{_name(CONVERSIONS)}'::regclass::oid\n"
            f"AND polname = '{CONVERSIONS}_select_own';\n"
            f"EXECUTE 'CREATE POLICY {SOURCES}_select_own ON {sources} FOR SELECT USING ' "
            "|| identity;\n"
            f"IF {ON_SUPABASE} THEN\n"
            f"    REVOKE ALL ON {sources} FROM anon, authenticated;\n"
            f"{rights}"
            f"    GRANT SELECT, INSERT, UPDATE, DELETE ON {sources} TO service_role;\n"
            "END IF;\n"
            "END $referral$".replace(":", r"\:")
        )
    )


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _name(name: str) -> str:
    schema = frozen.schema()
    quote = op.get_context().dialect.identifier_preparer.quote
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)
