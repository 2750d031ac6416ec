"""Rewards, events, closed days, and one bonus in the wallet for each reward.

Revision: 0004
Follows: 0003

Nothing that 0001 made changes; a downgrade keeps its rows. What is there already is left alone: a
host whose own history or ``create_all()`` made the tables has all of it. Conversions that were
there before get a credited reward each.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from flask_referral.schema import frozen

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CODES, CLICKS = "referral_codes", "referral_clicks"
CONVERSIONS, REWARDS = "referral_conversions", "referral_rewards"
EVENTS, DAILY = "referral_events", "referral_daily"
#: table, column that holds the identity
OWNED = ((REWARDS, "user_id"), (DAILY, "referrer_user_id"))
WALLET_INDEX = "idx_wallet_transactions_referral_bonus_unique"
OUR_BONUS = "type = 'referral_bonus' AND reference_type = 'referral_conversion'"
BOUND = "referred_user_id IS NOT NULL"
#: Also once that account is gone.
SIGNED_UP = "bound_at IS NOT NULL"
UNDATED = f"{BOUND} AND bound_at IS NULL"
#: What dates a sign-up that somebody else stores.
DATE_SIGN_UP = "referral_clicks_date_sign_up"
#: What SQLite does with the rows of a deleted user where foreign keys are switched off.
SQLITE_TRIGGER = "referral_users_deleted"

#: index, table, columns, unique, WHERE
INDEXES = (
    ("idx_referral_clicks_bound_unique", CLICKS, ["referred_user_id"], True, BOUND),
    ("idx_referral_clicks_signups", CLICKS, ["referrer_user_id", "clicked_at"], False, SIGNED_UP),
    (
        "idx_referral_clicks_referrals",
        CLICKS,
        ["referrer_user_id", "bound_at", "id"],
        False,
        SIGNED_UP,
    ),
    (
        "idx_referral_rewards_payment_unique",
        REWARDS,
        ["provider", "payment_id", "role"],
        True,
        None,
    ),
    ("idx_referral_rewards_user_id", REWARDS, ["user_id", "created_at"], False, None),
    ("idx_referral_rewards_referred_user_id", REWARDS, ["referred_user_id"], False, None),
    ("idx_referral_rewards_click_id", REWARDS, ["click_id"], False, None),
    ("idx_referral_rewards_conversion_id", REWARDS, ["conversion_id"], False, None),
    ("idx_referral_rewards_membership_id", REWARDS, ["membership_id"], False, None),
    (
        "idx_referral_rewards_available_at",
        REWARDS,
        ["available_at"],
        False,
        "status = 'pending'",
    ),
    ("idx_referral_rewards_shortfall", REWARDS, ["user_id"], False, "shortfall_cents > 0"),
    ("idx_referral_events_payment_id", EVENTS, ["payment_id"], False, None),
    ("idx_referral_events_membership_id", EVENTS, ["membership_id"], False, None),
    (
        "idx_referral_events_waiting",
        EVENTS,
        ["received_at", "provider", "event_id"],
        False,
        "details IS NOT NULL",
    ),
    ("idx_referral_events_user_id", EVENTS, ["user_id"], False, "user_id IS NOT NULL"),
    ("idx_referral_daily_day", DAILY, ["day"], False, None),
)


def check() -> None:
    wallet = frozen.wallet_table()
    if wallet is not None:
        frozen.check_wallet_index(op.get_bind(), wallet.name, wallet.schema)
    _refuse_duplicates()


def upgrade() -> None:
    _create_wallet_index()
    frozen.patiently(op.get_context(), _upgrade_tables, *_locked())


def check_downgrade() -> None:
    frozen.refuse_references(op.get_bind(), (DAILY, EVENTS, REWARDS))


def downgrade() -> None:
    wallet = [table for table in (frozen.wallet_table(),) if table is not None]
    frozen.patiently(op.get_context(), _downgrade_tables, *_locked(), *wallet)


def _locked() -> list[sa.Table]:
    # The users too: the new tables refer to them.
    ours = [sa.Table(name, sa.MetaData(), schema=frozen.schema()) for name in (CLICKS, CONVERSIONS)]
    return [*ours, frozen.user_key().table]


def _downgrade_tables() -> None:
    schema = frozen.schema()
    if _is_postgresql():
        for table, _ in OWNED:
            op.execute(f"DROP POLICY {table}_select_own ON {_name(table)}")
        constraint = f"{CLICKS}_referrer_not_referred_check"
        op.execute(f"ALTER TABLE {_name(CLICKS)} DROP CONSTRAINT {constraint}")
    else:
        # A host that rebuilt its users lost it.
        op.execute(f"DROP TRIGGER IF EXISTS {_trigger()}")
    _forget_sign_ups()
    for name, table, *_ in reversed(INDEXES):
        op.drop_index(op.f(name), table, schema=schema)
    for table in (DAILY, EVENTS, REWARDS):
        op.drop_table(table, schema=schema)
    # SQLite drops the CHECK with the column that it was declared with.
    op.execute(f"ALTER TABLE {_name(CLICKS)} DROP COLUMN bound_at")
    wallet = frozen.wallet_table()
    if wallet is not None:
        op.drop_index(op.f(WALLET_INDEX), wallet.name, schema=wallet.schema)


def _upgrade_tables() -> None:
    schema = frozen.schema()
    tables, columns, indexes = _there(schema)
    if "bound_at" not in columns:
        _add_bound_at()
    _date_sign_ups()
    if REWARDS not in tables:
        _create_rewards(schema)
    if EVENTS not in tables:
        _create_events(schema)
    if DAILY not in tables:
        _create_daily(schema)
    for name, table, on, unique, where in INDEXES:
        if name not in indexes:
            op.create_index(
                op.f(name),
                table,
                on,
                unique=unique,
                schema=schema,
                postgresql_where=sa.text(where) if where else None,
                sqlite_where=sa.text(where) if where else None,
            )
    _reward_conversions()
    if _is_postgresql():
        _row_security()
    else:
        _follow_deleted_users()


def _there(schema: str | None) -> tuple[set[str], set[str], set[str]]:
    """Return the tables, the columns of the clicks, and the indexes that exist."""
    if op.get_context().as_sql:
        return set(), set(), set()
    inspector = sa.inspect(op.get_bind())
    tables = set(inspector.get_table_names(schema=schema))
    ours = tables & {CLICKS, REWARDS, EVENTS, DAILY}
    return (
        tables,
        {column["name"] for column in inspector.get_columns(CLICKS, schema)},
        {str(index["name"]) for table in ours for index in inspector.get_indexes(table, schema)},
    )


def _add_bound_at() -> None:
    name = f"{CLICKS}_referrer_not_referred_check"
    check = f"CONSTRAINT {name} CHECK (referrer_user_id <> referred_user_id)"
    moment = "TIMESTAMP WITH TIME ZONE" if _is_postgresql() else "DATETIME"
    # SQLite can add a CHECK with a column only, and lets it name any other.
    separate = ", ADD" if _is_postgresql() else ""
    op.execute(f"ALTER TABLE {_name(CLICKS)} ADD COLUMN bound_at {moment}{separate} {check}")


def _date_sign_ups() -> None:
    """Date the sign-ups of before, and those that others store from now on.

    A click says by ``bound_at`` that somebody signed up, for ever: the account may go, and whoever
    may read the click need not read whose it was. SQLite compares dates as texts, so they are
    written as SQLAlchemy writes them, with a fraction of the second.
    """
    clicks = _name(CLICKS)
    if _is_postgresql():
        op.execute(f"UPDATE {clicks} SET bound_at = clicked_at WHERE {UNDATED}")
        undated = " AND ".join(f"NEW.{part}" for part in UNDATED.split(" AND "))
        function = _name(DATE_SIGN_UP)
        op.execute(
            sa.text(
                f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql\n"
                "SET search_path = '' AS $referral$ BEGIN\n"
                "    NEW.bound_at := coalesce(NEW.clicked_at, pg_catalog.now());\n"
                "    RETURN NEW;\n"
                "END $referral$".replace(":", r"\:")
            )
        )
        op.execute(
            f"CREATE TRIGGER {DATE_SIGN_UP} BEFORE INSERT OR UPDATE OF referred_user_id "
            f"ON {clicks} FOR EACH ROW WHEN ({undated}) EXECUTE FUNCTION {function}()"
        )
        return
    date = (
        "SET bound_at = substr(coalesce(bound_at, clicked_at, CURRENT_TIMESTAMP) || '.000000', 1, "
        f"{len('2026-01-01 12:00:00.000000')})"
    )
    seconds = len("2026-01-01 12:00:00")
    undated = f"{{0}}{BOUND} AND ({{0}}bound_at IS NULL OR length({{0}}bound_at) = {seconds})"
    op.execute(f"UPDATE {clicks} {date} WHERE {undated.format('')}")
    for name, event in _sqlite_events():
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON {_bare(CLICKS)} "
            f"WHEN {undated.format('NEW.')} BEGIN "
            f"UPDATE {_bare(CLICKS)} {date} WHERE id = NEW.id; END"
        )


def _forget_sign_ups() -> None:
    if _is_postgresql():
        op.execute(f"DROP TRIGGER {DATE_SIGN_UP} ON {_name(CLICKS)}")
        op.execute(f"DROP FUNCTION {_name(DATE_SIGN_UP)}()")
        return
    for name, _ in _sqlite_events():
        op.execute(f"DROP TRIGGER IF EXISTS {name}")


def _sqlite_events() -> tuple[tuple[str, str], ...]:
    return (
        (_name(DATE_SIGN_UP), "INSERT"),
        (_name(f"{DATE_SIGN_UP}_later"), "UPDATE OF referred_user_id"),
    )


def _create_rewards(schema: str | None) -> None:
    user_key = frozen.user_key()
    conversion = sa.Table(CONVERSIONS, sa.MetaData(), sa.Column("id"), schema=schema).c.id
    default = "pg_catalog.gen_random_uuid()"
    if not _is_postgresql():
        # RFC 9562, section 5.4: the version digit is 4, the variant digit one of 8, 9, a, b.
        default = (
            "(lower(hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2) || "
            "substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || "
            "hex(randomblob(6))))"
        )
    op.create_table(
        REWARDS,
        sa.Column("id", sa.Uuid(), server_default=sa.text(default), nullable=False),
        sa.Column("conversion_id", sa.Uuid()),
        sa.Column("user_id", user_key.type, nullable=False),
        sa.Column("referred_user_id", user_key.type),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("membership_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("cents", sa.Integer(), nullable=False),
        sa.Column("reversed_cents", sa.Integer(), server_default="0", nullable=False),
        sa.Column("shortfall_cents", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        _moment("available_at"),
        _moment("credited_at"),
        _moment("created_at", now=True),
        sa.Column("campaign", sa.Text()),
        sa.Column("click_id", sa.Uuid()),
        sa.PrimaryKeyConstraint("id", name=op.f(f"{REWARDS}_pkey")),
        _foreign_key(REWARDS, "user_id", user_key, "CASCADE"),
        _foreign_key(REWARDS, "referred_user_id", user_key, "SET NULL"),
        _foreign_key(REWARDS, "conversion_id", conversion, "SET NULL"),
        sa.CheckConstraint("role IN ('referrer', 'referred')", name=op.f(f"{REWARDS}_role_check")),
        sa.CheckConstraint(
            "status IN ('pending', 'held', 'credited', 'reversed', 'void')",
            name=op.f(f"{REWARDS}_status_check"),
        ),
        sa.CheckConstraint(
            "reversed_cents >= 0 AND reversed_cents <= cents",
            name=op.f(f"{REWARDS}_reversed_cents_check"),
        ),
        sa.CheckConstraint("shortfall_cents >= 0", name=op.f(f"{REWARDS}_shortfall_cents_check")),
        schema=schema,
    )


def _create_events(schema: str | None) -> None:
    user_key = frozen.user_key()
    op.create_table(
        EVENTS,
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text()),
        sa.Column("payment_id", sa.Text()),
        sa.Column("membership_id", sa.Text()),
        sa.Column("reference", sa.Text()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger()),
        sa.Column("base_cents", sa.BigInteger()),
        _moment("occurred_at"),
        _moment("received_at", now=True),
        sa.Column("user_id", user_key.type),
        sa.Column("details", sa.JSON().with_variant(JSONB(), "postgresql")),
        sa.PrimaryKeyConstraint("provider", "kind", "event_id", name=op.f(f"{EVENTS}_pkey")),
        _foreign_key(EVENTS, "user_id", user_key, "CASCADE"),
        schema=schema,
    )


def _create_daily(schema: str | None) -> None:
    user_key = frozen.user_key()
    op.create_table(
        DAILY,
        sa.Column("referrer_user_id", user_key.type, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("clicks", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("referrer_user_id", "day", name=op.f(f"{DAILY}_pkey")),
        _foreign_key(DAILY, "referrer_user_id", user_key, "CASCADE"),
        schema=schema,
    )


def _reward_conversions() -> None:
    """Give the conversions of before their rewards, and say that their payments are known."""
    conversions, rewards, events = map(_name, (CONVERSIONS, REWARDS, EVENTS))
    op.execute(
        f"INSERT INTO {rewards} (id, conversion_id, user_id, referred_user_id, role, provider, "
        "payment_id, membership_id, number, cents, status, credited_at, created_at, click_id) "
        "SELECT id, id, referrer_user_id, referred_user_id, 'referrer', 'host', "
        "whop_membership_id, whop_membership_id, 1, bonus_cents, 'credited', converted_at, "
        f"converted_at, (SELECT click.id FROM {_name(CLICKS)} AS click "
        "WHERE click.referred_user_id = conversion.referred_user_id) "
        f"FROM {conversions} AS conversion "
        f"WHERE NOT EXISTS (SELECT 1 FROM {rewards} AS reward "
        "WHERE reward.conversion_id = conversion.id)"
    )
    # Elsewhere than in SQLite a UUID is no text.
    reward_id = "CAST(id AS TEXT)"
    for kind, outcome in (("payment", f"'rewarded:' || {reward_id}"), ("membership", "'known'")):
        op.execute(
            sa.text(
                f"INSERT INTO {events} "
                "(provider, kind, event_id, payment_id, membership_id, outcome) "
                f"SELECT provider, '{kind}', {kind}_id, payment_id, membership_id, {outcome} "
                f"FROM {rewards} WHERE true ON CONFLICT DO NOTHING".replace(":", r"\:")
            )
        )


def _row_security() -> None:
    rewards, events, daily = map(_name, (REWARDS, EVENTS, DAILY))
    for table in (rewards, events, daily):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    # The identity is the one that revision 0002 chose for this database; that a row's referrer
    # sees it is asked of a policy that is there already.
    policies = "".join(
        f"EXECUTE 'CREATE POLICY {table}_select_own ON {_name(table)} FOR SELECT USING ' "
        f"|| pg_catalog.replace(identity, 'referrer_user_id', '{column}');\n"
        for table, column in OWNED
    )
    op.execute(
        sa.text(
            "DO $referral$ DECLARE identity text; BEGIN\n"
            "SELECT '(' || pg_catalog.pg_get_expr(polqual, polrelid) || ')' INTO STRICT identity\n"
            f"FROM pg_policy WHERE polrelid = '{_name(CONVERSIONS)}'::regclass::oid\n"
            f"AND polname = '{CONVERSIONS}_select_own';\n"
            f"{policies}"
            "IF pg_catalog.to_regprocedure('auth.uid()') IS NOT NULL\n"
            "   AND (SELECT count(*) FROM pg_roles\n"
            "        WHERE rolname IN ('anon', 'authenticated', 'service_role')) = 3 THEN\n"
            f"    REVOKE ALL ON {rewards}, {events}, {daily} FROM anon, authenticated;\n"
            f"    GRANT SELECT ON {rewards}, {daily} TO authenticated;\n"
            "    GRANT SELECT, INSERT, UPDATE, DELETE\n"
            f"    ON {rewards}, {events}, {daily} TO service_role;\n"
            "END IF;\n"
            "END $referral$".replace(":", r"\:")
        )
    )


def _follow_deleted_users() -> None:
    """Do what the foreign keys say, also where the host has not switched them on.

    SQLite gives the key of a deleted user to the next one, who would inherit code and referrer.
    """
    steps = [
        f"UPDATE {_bare(REWARDS)} SET referred_user_id = NULL WHERE referred_user_id = OLD.{{key}}",
        f"UPDATE {_bare(REWARDS)} SET conversion_id = NULL WHERE conversion_id IN "
        f"(SELECT id FROM {_bare(CONVERSIONS)} "
        "WHERE referrer_user_id = OLD.{key} OR referred_user_id = OLD.{key})",
        f"DELETE FROM {_bare(REWARDS)} WHERE user_id = OLD.{{key}}",
        f"DELETE FROM {_bare(CONVERSIONS)} "
        "WHERE referrer_user_id = OLD.{key} OR referred_user_id = OLD.{key}",
        f"UPDATE {_bare(CLICKS)} SET referred_user_id = NULL WHERE referred_user_id = OLD.{{key}}",
        f"DELETE FROM {_bare(CLICKS)} WHERE referrer_user_id = OLD.{{key}}",
        f"DELETE FROM {_bare(EVENTS)} WHERE user_id = OLD.{{key}}",
        f"DELETE FROM {_bare(DAILY)} WHERE referrer_user_id = OLD.{{key}}",
        f"DELETE FROM {_bare(CODES)} WHERE user_id = OLD.{{key}}",
    ]
    user_key = frozen.user_key()
    quote = op.get_context().dialect.identifier_preparer.quote
    body = "; ".join(steps).format(key=quote(user_key.name))
    op.execute(
        f"CREATE TRIGGER IF NOT EXISTS {_trigger()} AFTER DELETE ON {quote(user_key.table.name)} "
        f"BEGIN {body}; END"
    )


def _trigger() -> str:
    # A trigger lives in the schema of its table, and names tables without one.
    quote = op.get_context().dialect.identifier_preparer.quote
    schema = frozen.user_key().table.schema
    return f"{quote(schema)}.{SQLITE_TRIGGER}" if schema else SQLITE_TRIGGER


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
    query = sa.text(
        "SELECT NOT indisvalid FROM pg_index "
        "WHERE indexrelid = CAST(pg_catalog.to_regclass(:name) AS oid)"
    )
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


def _moment(name: str, *, now: bool = False) -> sa.Column:
    default = sa.text("pg_catalog.now()" if _is_postgresql() else "CURRENT_TIMESTAMP")
    default = default if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default)


def _foreign_key(
    table: str, column: str, target: sa.Column, ondelete: str
) -> sa.ForeignKeyConstraint:
    name = op.f(f"{table}_{column}_fkey")
    return sa.ForeignKeyConstraint([column], [target], name=name, ondelete=ondelete)


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _bare(table: str) -> str:
    return op.get_context().dialect.identifier_preparer.quote(table)


def _name(table: str) -> str:
    schema = frozen.schema()
    return f"{_bare(schema)}.{_bare(table)}" if schema else _bare(table)
