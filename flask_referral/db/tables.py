"""The tables as SQLAlchemy Core objects: columns, keys, checks and indexes.

Every name is wrapped in :class:`~sqlalchemy.sql.elements.conv`, so that no naming convention of
the host's metadata changes it. The shipped migrations make the same schema.
"""

from __future__ import annotations

import typing as t
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import conv
from sqlalchemy.sql.functions import FunctionElement

#: Alembic's record of which of our revisions a database has; apart from the host's own.
VERSION_TABLE = "referral_alembic_version"
CODES = "referral_codes"
CLICKS = "referral_clicks"
CONVERSIONS = "referral_conversions"
EVENTS = "referral_events"
DAILY = "referral_daily"
#: What keeps a conversion's bonus from being paid twice; an index on the host's wallet table.
WALLET_INDEX = "idx_wallet_transactions_referral_bonus_unique"


class new_uuid(FunctionElement[uuid.UUID]):
    """A random UUID that the database makes."""

    name = "gen_random_uuid"
    type = sa.Uuid()
    inherit_cache = True


@compiles(new_uuid)
def _compile_new_uuid(element: new_uuid, compiler: t.Any, **kwargs: t.Any) -> str:
    return "gen_random_uuid()"


@compiles(new_uuid, "sqlite")
def _compile_new_uuid_sqlite(element: new_uuid, compiler: t.Any, **kwargs: t.Any) -> str:
    # RFC 9562, section 5.4: the version digit is 4, the variant digit one of 8, 9, a, b.
    return (
        "(lower(hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2) || "
        "substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || "
        "hex(randomblob(6))))"
    )


class _JSONB(JSONB):
    """JSONB whose repr is an expression that autogenerate can put into a host's script.

    JSONB's own names a ``Text`` that such a script does not import, which Alembic mends on
    PostgreSQL only.
    """

    def __repr__(self) -> str:
        return "JSONB(none_as_null=True)"


# Autogenerate writes the module's name before the repr.
_JSONB.__module__ = JSONB.__module__


def codes(metadata: sa.MetaData, user_key: sa.Column[t.Any]) -> sa.Table:
    """Build ``referral_codes``: one code for each user."""
    return sa.Table(
        CODES,
        metadata,
        _id(),
        sa.Column("user_id", user_key.type, nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("id", name=conv("referral_codes_pkey")),
        _foreign_key(CODES, "user_id", user_key, "CASCADE"),
        sa.Index(conv("idx_referral_codes_user_id"), "user_id", unique=True),
        sa.Index(conv("idx_referral_codes_code"), "code", unique=True),
    )


def clicks(metadata: sa.MetaData, user_key: sa.Column[t.Any], codes: sa.Table) -> sa.Table:
    """Build ``referral_clicks``: visits, each bound to at most one user who signed up."""
    return sa.Table(
        CLICKS,
        metadata,
        _id(),
        sa.Column("referral_code", sa.Text(), nullable=False),
        sa.Column("referrer_user_id", user_key.type, nullable=False),
        sa.Column("referred_user_id", user_key.type),
        _moment("clicked_at"),
        sa.Column("referrer_url", sa.Text()),
        sa.Column("user_agent", sa.Text()),
        sa.Column("ip_hash", sa.Text()),
        _moment("bound_at", default=False),
        sa.PrimaryKeyConstraint("id", name=conv("referral_clicks_pkey")),
        _foreign_key(CLICKS, "referral_code", codes.c.code, "CASCADE"),
        _foreign_key(CLICKS, "referrer_user_id", user_key, "CASCADE"),
        _foreign_key(CLICKS, "referred_user_id", user_key, "SET NULL"),
        sa.UniqueConstraint(
            "referred_user_id",
            "referral_code",
            name=conv("referral_clicks_referred_user_id_referral_code_key"),
        ),
        sa.CheckConstraint(
            "referrer_user_id <> referred_user_id",
            name=conv("referral_clicks_referrer_not_referred_check"),
        ),
        sa.Index(conv("idx_referral_clicks_referral_code"), "referral_code"),
        sa.Index(
            conv("idx_referral_clicks_referrer_user_id"),
            "referrer_user_id",
            "clicked_at",
            postgresql_include=["referred_user_id"],
        ),
        sa.Index(conv("idx_referral_clicks_clicked_at"), "clicked_at"),
        # One referrer for each user. Stops at the bound rows, which are few.
        sa.Index(
            conv("idx_referral_clicks_bound_unique"),
            "referred_user_id",
            unique=True,
            postgresql_where=sa.text("referred_user_id IS NOT NULL"),
            sqlite_where=sa.text("referred_user_id IS NOT NULL"),
        ),
        sa.Index(
            conv("idx_referral_clicks_signups"),
            "referrer_user_id",
            "clicked_at",
            postgresql_where=sa.text("referred_user_id IS NOT NULL"),
            sqlite_where=sa.text("referred_user_id IS NOT NULL"),
        ),
    )


def conversions(metadata: sa.MetaData, user_key: sa.Column[t.Any], codes: sa.Table) -> sa.Table:
    """Build ``referral_conversions``: at most one for each user who was referred."""
    return sa.Table(
        CONVERSIONS,
        metadata,
        _id(),
        sa.Column("referrer_user_id", user_key.type, nullable=False),
        sa.Column("referred_user_id", user_key.type, nullable=False),
        sa.Column("referral_code", sa.Text(), nullable=False),
        sa.Column("whop_membership_id", sa.Text(), nullable=False),
        sa.Column("bonus_cents", sa.Integer(), nullable=False),
        _moment("converted_at"),
        # "metadata" is taken on declarative classes, hence the key.
        sa.Column(
            "metadata",
            sa.JSON(none_as_null=True).with_variant(_JSONB(none_as_null=True), "postgresql"),
            key="metadata_",
        ),
        sa.Column("status", sa.Text(), server_default="credited", nullable=False),
        _moment("available_at", default=False),
        _moment("credited_at", default=False),
        sa.Column("reversed_cents", sa.Integer(), server_default="0", nullable=False),
        sa.Column("shortfall_cents", sa.Integer(), server_default="0", nullable=False),
        sa.Column("referred_bonus_cents", sa.Integer(), server_default="0", nullable=False),
        sa.Column("referred_reversed_cents", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=conv("referral_conversions_pkey")),
        _foreign_key(CONVERSIONS, "referrer_user_id", user_key, "CASCADE"),
        _foreign_key(CONVERSIONS, "referred_user_id", user_key, "CASCADE"),
        _foreign_key(CONVERSIONS, "referral_code", codes.c.code, "CASCADE"),
        sa.CheckConstraint(
            "referrer_user_id <> referred_user_id",
            name=conv("referral_conversions_referrer_not_referred_check"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'held', 'credited', 'reversed', 'void')",
            name=conv("referral_conversions_status_check"),
        ),
        sa.CheckConstraint(
            "reversed_cents >= 0 AND reversed_cents <= bonus_cents",
            name=conv("referral_conversions_reversed_cents_check"),
        ),
        sa.CheckConstraint(
            "referred_reversed_cents >= 0 AND referred_reversed_cents <= referred_bonus_cents",
            name=conv("referral_conversions_referred_reversed_cents_check"),
        ),
        sa.Index(
            conv("idx_referral_conversions_referrer_user_id"), "referrer_user_id", "converted_at"
        ),
        sa.Index(conv("idx_referral_conversions_referred_user_id"), "referred_user_id"),
        sa.Index(
            conv("idx_referral_conversions_referred_user_unique"), "referred_user_id", unique=True
        ),
        sa.Index(
            conv("idx_referral_conversions_membership_unique"), "whop_membership_id", unique=True
        ),
        # What "mature" looks for: the few that wait.
        sa.Index(
            conv("idx_referral_conversions_available_at"),
            "available_at",
            postgresql_where=sa.text("status = 'pending'"),
            sqlite_where=sa.text("status = 'pending'"),
        ),
    )


def events(metadata: sa.MetaData) -> sa.Table:
    """Build ``referral_events``: deliveries, refunds, disputes, and memberships once credited."""
    return sa.Table(
        EVENTS,
        metadata,
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("membership_id", sa.Text()),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger()),
        sa.Column("base_cents", sa.BigInteger()),
        _moment("received_at"),
        sa.PrimaryKeyConstraint("provider", "event_id", name=conv("referral_events_pkey")),
        sa.Index(conv("idx_referral_events_membership_id"), "membership_id"),
    )


def daily(metadata: sa.MetaData, user_key: sa.Column[t.Any]) -> sa.Table:
    """Build ``referral_daily``: the clicks of closed days (UTC), so that totals stay cheap."""
    return sa.Table(
        DAILY,
        metadata,
        sa.Column("referrer_user_id", user_key.type, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("clicks", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("referrer_user_id", "day", name=conv("referral_daily_pkey")),
        _foreign_key(DAILY, "referrer_user_id", user_key, "CASCADE"),
        sa.Index(conv("idx_referral_daily_day"), "day"),
    )


def wallet_index(wallet: sa.Table) -> None:
    """Declare our index on the host's wallet table, so that autogenerate does not drop it."""
    columns = {column.name: column for column in wallet.columns}
    if any(index.name == WALLET_INDEX for index in wallet.indexes):
        return
    where = sa.text("type = 'referral_bonus' AND reference_type = 'referral_conversion'")
    sa.Index(
        conv(WALLET_INDEX),
        columns["reference_id"],
        unique=True,
        postgresql_where=where,
        sqlite_where=where,
    )


def version(metadata: sa.MetaData) -> sa.Table:
    """Declare Alembic's version table, so that the host's autogenerate does not drop it."""
    return sa.Table(
        VERSION_TABLE,
        metadata,
        sa.Column("version_num", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_num", name=conv(f"{VERSION_TABLE}_pkc")),
    )


def _id() -> sa.Column[uuid.UUID]:
    return sa.Column("id", sa.Uuid(), server_default=new_uuid(), nullable=False)


def _moment(name: str, *, default: bool = True) -> sa.Column[t.Any]:
    server_default = sa.func.now() if default else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=server_default)


def _foreign_key(
    table: str, column: str, target: sa.Column[t.Any], ondelete: str
) -> sa.ForeignKeyConstraint:
    # The column itself, not its name: the user table may live in another MetaData.
    return sa.ForeignKeyConstraint(
        [column], [target], name=conv(f"{table}_{column}_fkey"), ondelete=ondelete
    )
