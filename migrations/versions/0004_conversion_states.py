"""States of conversions, events, closed days, and one bonus for each conversion.

Revision: 0004
Follows: 0003

Nothing that 0001 made changes; a downgrade keeps the rows. What is there already is left alone:
a host whose own history or ``create_all()`` made the tables has all of it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flask_referral.schema import frozen

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CLICKS, CONVERSIONS = "referral_clicks", "referral_conversions"
WALLET_INDEX = "idx_wallet_transactions_referral_bonus_unique"
OUR_BONUS = "type = 'referral_bonus' AND reference_type = 'referral_conversion'"
BOUND = "referred_user_id IS NOT NULL"

#: table, column, definition, name of its CHECK, CHECK
COLUMNS = (
    (
        CLICKS,
        "bound_at",
        "{moment}",
        "referral_clicks_referrer_not_referred_check",
        "referrer_user_id <> referred_user_id",
    ),
    (
        CONVERSIONS,
        "status",
        "TEXT DEFAULT 'credited' NOT NULL",
        "referral_conversions_status_check",
        "status IN ('pending', 'held', 'credited', 'reversed', 'void')",
    ),
    (CONVERSIONS, "available_at", "{moment}", None, None),
    (CONVERSIONS, "credited_at", "{moment}", None, None),
    (
        CONVERSIONS,
        "reversed_cents",
        "INTEGER DEFAULT '0' NOT NULL",
        "referral_conversions_reversed_cents_check",
        "reversed_cents >= 0 AND reversed_cents <= bonus_cents",
    ),
    (CONVERSIONS, "shortfall_cents", "INTEGER DEFAULT '0' NOT NULL", None, None),
    (CONVERSIONS, "referred_bonus_cents", "INTEGER DEFAULT '0' NOT NULL", None, None),
    (
        CONVERSIONS,
        "referred_reversed_cents",
        "INTEGER DEFAULT '0' NOT NULL",
        "referral_conversions_referred_reversed_cents_check",
        "referred_reversed_cents >= 0 AND referred_reversed_cents <= referred_bonus_cents",
    ),
)
#: index, table, columns, unique, WHERE
INDEXES = (
    ("idx_referral_clicks_bound_unique", CLICKS, ["referred_user_id"], True, BOUND),
    (
        "idx_referral_clicks_signups",
        CLICKS,
        ["referrer_user_id", "clicked_at"],
        False,
        BOUND,
    ),
    (
        "idx_referral_conversions_membership_unique",
        CONVERSIONS,
        ["whop_membership_id"],
        True,
        None,
    ),
    (
        "idx_referral_conversions_available_at",
        CONVERSIONS,
        ["available_at"],
        False,
        "status = 'pending'",
    ),
)


def check() -> None:
    wallet = frozen.wallet_table()
    if wallet is not None:
        frozen.check_wallet_index(op.get_bind(), wallet.name, wallet.schema)
    _refuse_duplicates()


def upgrade() -> None:
    _create_wallet_index()
    frozen.patiently(op.get_context(), _upgrade_tables, *_locked())


def downgrade() -> None:
    wallet = [table for table in (frozen.wallet_table(),) if table is not None]
    frozen.patiently(op.get_context(), _downgrade_tables, *_locked(), *wallet)


def _locked() -> list[sa.Table]:
    # The users too: referral_daily refers to them.
    ours = [sa.Table(name, sa.MetaData(), schema=frozen.schema()) for name in (CLICKS, CONVERSIONS)]
    return [*ours, frozen.user_key().table]


def _downgrade_tables() -> None:
    schema = frozen.schema()
    if _is_postgresql():
        op.execute(f"DROP POLICY referral_daily_select_own ON {_name('referral_daily')}")
    op.drop_table("referral_daily", schema=schema)
    op.drop_table("referral_events", schema=schema)
    for name, table, *_ in reversed(INDEXES):
        op.drop_index(op.f(name), table, schema=schema)
    for table, column, _, check, _ in reversed(COLUMNS):
        # SQLite drops the CHECK with the column that it was declared with.
        if check is not None and _is_postgresql():
            op.execute(f"ALTER TABLE {_name(table)} DROP CONSTRAINT {check}")
        op.execute(f"ALTER TABLE {_name(table)} DROP COLUMN {column}")
    wallet = frozen.wallet_table()
    if wallet is not None:
        op.drop_index(op.f(WALLET_INDEX), wallet.name, schema=wallet.schema)


def _upgrade_tables() -> None:
    schema = frozen.schema()
    there = _there(schema)
    for table, column, definition, check, expression in COLUMNS:
        if (table, column) not in there:
            _add_column(table, column, definition, check, expression)
    if (CONVERSIONS, "credited_at") not in there:
        op.execute(f"UPDATE {_name(CONVERSIONS)} SET credited_at = converted_at")
    for name, table, columns, unique, where in INDEXES:
        if (table, name) not in there:
            op.create_index(
                op.f(name),
                table,
                columns,
                unique=unique,
                schema=schema,
                postgresql_where=sa.text(where) if where else None,
                sqlite_where=sa.text(where) if where else None,
            )
    if "referral_events" not in there:
        _create_events(schema)
    if "referral_daily" not in there:
        _create_daily(schema)
    if _is_postgresql():
        _row_security()


def _there(schema: str | None) -> set[str | tuple[str, str]]:
    """Return the tables, and (table, column or index), that exist."""
    if op.get_context().as_sql:
        return set()
    inspector = sa.inspect(op.get_bind())
    there: set[str | tuple[str, str]] = set(inspector.get_table_names(schema=schema))
    for table in (CLICKS, CONVERSIONS):
        there |= {(table, column["name"]) for column in inspector.get_columns(table, schema)}
        there |= {(table, index["name"]) for index in inspector.get_indexes(table, schema)}
    return there


def _add_column(
    table: str, column: str, definition: str, check: str | None, expression: str | None
) -> None:
    moment = "TIMESTAMP WITH TIME ZONE" if _is_postgresql() else "DATETIME"
    add = f"ALTER TABLE {_name(table)} ADD COLUMN {column} {definition.format(moment=moment)}"
    if check is not None:
        # SQLite can add a CHECK with a column only, and lets it name any other.
        separate = f", ADD CONSTRAINT {check}" if _is_postgresql() else f" CONSTRAINT {check}"
        add += f"{separate} CHECK ({expression})"
    op.execute(add)


def _create_events(schema: str | None) -> None:
    op.create_table(
        "referral_events",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("membership_id", sa.Text()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger()),
        sa.Column("base_cents", sa.BigInteger()),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("provider", "event_id", name=op.f("referral_events_pkey")),
        schema=schema,
    )
    op.create_index(
        op.f("idx_referral_events_membership_id"),
        "referral_events",
        ["membership_id"],
        schema=schema,
    )


def _create_daily(schema: str | None) -> None:
    user_key = frozen.user_key()
    op.create_table(
        "referral_daily",
        sa.Column("referrer_user_id", user_key.type, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("clicks", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("referrer_user_id", "day", name=op.f("referral_daily_pkey")),
        sa.ForeignKeyConstraint(
            ["referrer_user_id"],
            [user_key],
            name=op.f("referral_daily_referrer_user_id_fkey"),
            ondelete="CASCADE",
        ),
        schema=schema,
    )
    op.create_index(op.f("idx_referral_daily_day"), "referral_daily", ["day"], schema=schema)


def _row_security() -> None:
    events, daily = _name("referral_events"), _name("referral_daily")
    conversions = _name(CONVERSIONS)
    op.execute(f"ALTER TABLE {events} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {daily} ENABLE ROW LEVEL SECURITY")
    # The identity is the one that revision 0002 chose for this database; that a row's referrer
    # sees it is asked of a policy that is there already.
    op.execute(
        sa.text(
            "DO $referral$ DECLARE identity text; BEGIN\n"
            "SELECT pg_get_expr(polqual, polrelid) INTO STRICT identity FROM pg_policy\n"
            f"WHERE polrelid = '{conversions}'::regclass\n"
            "AND polname = 'referral_conversions_select_own';\n"
            f"EXECUTE 'CREATE POLICY referral_daily_select_own ON {daily} "
            "FOR SELECT USING (' || identity || ')';\n"
            "IF to_regprocedure('auth.uid()') IS NOT NULL\n"
            "   AND (SELECT count(*) FROM pg_roles\n"
            "        WHERE rolname IN ('anon', 'authenticated', 'service_role')) = 3 THEN\n"
            f"    REVOKE ALL ON {events}, {daily} FROM anon, authenticated;\n"
            f"    GRANT SELECT ON {daily} TO authenticated;\n"
            f"    GRANT SELECT, INSERT, UPDATE, DELETE ON {events}, {daily} TO service_role;\n"
            "END IF;\n"
            "END $referral$".replace(":", r"\:")
        )
    )


def _create_wallet_index() -> None:
    wallet = frozen.wallet_table()
    if wallet is None:
        return
    context = op.get_context()
    preparer = context.dialect.identifier_preparer
    # IF NOT EXISTS: the index stands in the host's metadata, and create_all() makes it.
    create = (
        f"IF NOT EXISTS {WALLET_INDEX} ON {preparer.format_table(wallet)} "
        f"(reference_id) WHERE {OUR_BONUS}"
    )
    if not _is_postgresql():
        op.execute(f"CREATE UNIQUE INDEX {create}")
        return
    index = ".".join(preparer.quote(part) for part in (wallet.schema, WALLET_INDEX) if part)
    # The wallet is live: CONCURRENTLY blocks no writer, and runs in no transaction.
    with context.autocommit_block():
        if not context.as_sql and _is_invalid(index):
            # An attempt that broke off leaves an index that guards nothing.
            op.execute(f"DROP INDEX CONCURRENTLY {index}")
        op.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {create}")


def _is_invalid(index: str) -> bool:
    query = sa.text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(op.get_bind().execute(query, {"name": index}).scalar())


def _refuse_duplicates() -> None:
    """Print what would break the new constraints, before anything is changed."""
    bind = op.get_bind()
    wallet = frozen.wallet_table()
    questions = []
    # Not where 0001 is still to run.
    if sa.inspect(bind).has_table(CONVERSIONS, schema=frozen.schema()):
        questions += [
            (
                f"SELECT whop_membership_id, count(*) FROM {_name(CONVERSIONS)} "
                "GROUP BY whop_membership_id HAVING count(*) > 1",
                "conversions with the same whop_membership_id",
            ),
            (
                f"SELECT referred_user_id, count(*) FROM {_name(CLICKS)} WHERE {BOUND} "
                "GROUP BY referred_user_id HAVING count(*) > 1",
                "clicks bound to the same referred_user_id",
            ),
            (
                f"SELECT referrer_user_id, count(*) FROM {_name(CLICKS)} "
                "WHERE referrer_user_id = referred_user_id GROUP BY referrer_user_id",
                "clicks bound to their own referrer",
            ),
        ]
    if wallet is not None:
        format_table = bind.dialect.identifier_preparer.format_table
        # Cast: before 0003 an enum does not know the value.
        bonus = "CAST(type AS TEXT) = 'referral_bonus'"
        bonus += " AND CAST(reference_type AS TEXT) = 'referral_conversion'"
        questions.append(
            (
                f"SELECT reference_id, count(*) FROM {format_table(wallet)} WHERE {bonus} "
                "GROUP BY reference_id HAVING count(*) > 1",
                "wallet rows of type 'referral_bonus' with the same reference_id",
            )
        )
    for sql, what in questions:
        found = bind.execute(sa.text(f"{sql} ORDER BY 1 LIMIT 5")).all()
        if found:
            rows = ", ".join(f"{key} ({count})" for key, count in found)
            raise frozen.MigrationRefused(
                f"There are {what}: {rows}. Keep one of each (correct the rest by hand), then "
                "run the upgrade again; nothing was changed."
            )


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _name(table: str) -> str:
    quote = op.get_context().dialect.identifier_preparer.quote
    schema = frozen.schema()
    return f"{quote(schema)}.{quote(table)}" if schema else quote(table)
