"""Codes, clicks and conversions.

Revision: 0001
Follows: nothing of ours; the host's user table must exist.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from flask_referral.schema import frozen

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("referral_codes", "referral_clicks", "referral_conversions")
SQLITE_UUID = (
    "(lower(hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2) || "
    "substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || "
    "hex(randomblob(6))))"
)


def check() -> None:
    inspector = sa.inspect(op.get_bind())
    users = frozen.user_key().table
    if not inspector.has_table(users.name, schema=users.schema):
        raise frozen.MigrationRefused(
            f"The user table {users.fullname!r} does not exist; make the host's own tables first "
            "(flask db upgrade), then run flask referral db upgrade."
        )
    present = [name for name in TABLES if inspector.has_table(name, schema=frozen.schema())]
    if present:
        raise frozen.MigrationRefused(
            f"The database has {', '.join(present)} already, but no record of our revisions; if "
            "the application's own migrations or create_all() made them, run flask referral db "
            "stamp 0001, then flask referral db upgrade."
        )


def upgrade() -> None:
    user_key, schema = frozen.user_key(), frozen.schema()
    # A foreign key locks the table that it refers to.
    frozen.patiently(op.get_context(), lambda: _create(user_key, schema), user_key.table)


def check_downgrade() -> None:
    later = ("referral_rewards", "referral_events", "referral_daily")
    frozen.refuse_references(op.get_bind(), (*TABLES, *later))


def downgrade() -> None:
    def drop() -> None:
        for table in reversed(TABLES):
            op.drop_table(table, schema=frozen.schema())

    frozen.patiently(op.get_context(), drop, frozen.user_key().table)


def _create(user_key: sa.Column, schema: str | None) -> None:
    op.create_table(
        "referral_codes",
        _id(),
        sa.Column("user_id", user_key.type, nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("referral_codes_pkey")),
        _foreign_key("referral_codes", "user_id", user_key, "CASCADE"),
        schema=schema,
    )
    _index("idx_referral_codes_user_id", "referral_codes", ["user_id"], schema, unique=True)
    _index("idx_referral_codes_code", "referral_codes", ["code"], schema, unique=True)

    code = sa.Table("referral_codes", sa.MetaData(), sa.Column("code"), schema=schema).c.code
    op.create_table(
        "referral_clicks",
        _id(),
        sa.Column("referral_code", sa.Text(), nullable=False),
        sa.Column("referrer_user_id", user_key.type, nullable=False),
        sa.Column("referred_user_id", user_key.type),
        _moment("clicked_at"),
        sa.Column("referrer_url", sa.Text()),
        sa.Column("user_agent", sa.Text()),
        sa.Column("ip_hash", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("referral_clicks_pkey")),
        _foreign_key("referral_clicks", "referral_code", code, "CASCADE"),
        _foreign_key("referral_clicks", "referrer_user_id", user_key, "CASCADE"),
        _foreign_key("referral_clicks", "referred_user_id", user_key, "SET NULL"),
        sa.UniqueConstraint(
            "referred_user_id",
            "referral_code",
            name=op.f("referral_clicks_referred_user_id_referral_code_key"),
        ),
        schema=schema,
    )
    _index("idx_referral_clicks_referral_code", "referral_clicks", ["referral_code"], schema)
    _index(
        "idx_referral_clicks_referrer_user_id",
        "referral_clicks",
        ["referrer_user_id", "clicked_at"],
        schema,
        postgresql_include=["referred_user_id"],
    )
    _index("idx_referral_clicks_clicked_at", "referral_clicks", ["clicked_at"], schema)

    op.create_table(
        "referral_conversions",
        _id(),
        sa.Column("referrer_user_id", user_key.type, nullable=False),
        sa.Column("referred_user_id", user_key.type, nullable=False),
        sa.Column("referral_code", sa.Text(), nullable=False),
        sa.Column("whop_membership_id", sa.Text(), nullable=False),
        sa.Column("bonus_cents", sa.Integer(), nullable=False),
        _moment("converted_at"),
        sa.Column("metadata", sa.JSON().with_variant(JSONB(), "postgresql")),
        sa.PrimaryKeyConstraint("id", name=op.f("referral_conversions_pkey")),
        _foreign_key("referral_conversions", "referrer_user_id", user_key, "CASCADE"),
        _foreign_key("referral_conversions", "referred_user_id", user_key, "CASCADE"),
        _foreign_key("referral_conversions", "referral_code", code, "CASCADE"),
        sa.CheckConstraint(
            "referrer_user_id <> referred_user_id",
            name=op.f("referral_conversions_referrer_not_referred_check"),
        ),
        schema=schema,
    )
    conversions = "referral_conversions"
    _index(
        "idx_referral_conversions_referrer_user_id",
        conversions,
        ["referrer_user_id", "converted_at"],
        schema,
    )
    _index("idx_referral_conversions_referred_user_id", conversions, ["referred_user_id"], schema)
    _index(
        "idx_referral_conversions_referred_user_unique",
        conversions,
        ["referred_user_id"],
        schema,
        unique=True,
    )


def _id() -> sa.Column:
    sqlite = op.get_context().dialect.name == "sqlite"
    default = sa.text(SQLITE_UUID if sqlite else "pg_catalog.gen_random_uuid()")
    return sa.Column("id", sa.Uuid(), server_default=default, nullable=False)


def _moment(name: str) -> sa.Column:
    sqlite = op.get_context().dialect.name == "sqlite"
    default = sa.text("CURRENT_TIMESTAMP" if sqlite else "pg_catalog.now()")
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default)


def _foreign_key(
    table: str, column: str, target: sa.Column, ondelete: str
) -> sa.ForeignKeyConstraint:
    name = op.f(f"{table}_{column}_fkey")
    return sa.ForeignKeyConstraint([column], [target], name=name, ondelete=ondelete)


def _index(
    name: str, table: str, columns: list[str], schema: str | None, **options: object
) -> None:
    op.create_index(op.f(name), table, columns, schema=schema, **options)
