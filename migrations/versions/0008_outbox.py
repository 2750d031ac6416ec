"""The outbox: what is to be told of, in the order in which it happened.

Revision: 0008
Follows: 0007

What is there already is left alone: a host whose own history or ``create_all()`` made the table
has all of it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from flask_referral.schema import frozen

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OUTBOX = "referral_outbox"
#: index, columns
INDEXES = (
    ("idx_referral_outbox_next_attempt_at", ["next_attempt_at", "id"]),
    ("idx_referral_outbox_subject", ["subject", "id"]),
)
WAITS = "set_aside_at IS NULL"
ON_SUPABASE = (
    "pg_catalog.to_regprocedure('auth.uid()') IS NOT NULL AND (SELECT count(*) FROM pg_roles "
    "WHERE rolname IN ('anon', 'authenticated', 'service_role')) = 3"
)


def upgrade() -> None:
    if not _is_there():
        _create()
    if _is_postgresql():
        _row_security()


def check_downgrade() -> None:
    frozen.refuse_references(op.get_bind(), (OUTBOX,))


def downgrade() -> None:
    op.drop_table(OUTBOX, schema=frozen.schema())


def _is_there() -> bool:
    if op.get_context().as_sql:
        return False
    return OUTBOX in sa.inspect(op.get_bind()).get_table_names(schema=frozen.schema())


def _create() -> None:
    schema = frozen.schema()
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    now = sa.text("pg_catalog.now()" if _is_postgresql() else "CURRENT_TIMESTAMP")
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    op.create_table(
        OUTBOX,
        sa.Column("id", number, sa.Identity(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("payload", json, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), server_default=now),
        sa.Column("done", json),
        sa.Column("error", sa.Text()),
        sa.Column("set_aside_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f(f"{OUTBOX}_pkey")),
        schema=schema,
    )
    where = dict.fromkeys(("postgresql_where", "sqlite_where"), sa.text(WAITS))
    for name, columns in INDEXES:
        op.create_index(op.f(name), OUTBOX, columns, schema=schema, **where)


def _row_security() -> None:
    # No policy: users read nothing of it.
    outbox = _name(OUTBOX)
    op.execute(f"ALTER TABLE {outbox} ENABLE ROW LEVEL SECURITY")
    op.execute(
        sa.text(
            f"DO $referral$ BEGIN IF {ON_SUPABASE} THEN\n"
            f"    REVOKE ALL ON {outbox} FROM anon, authenticated;\n"
            f"    GRANT SELECT, INSERT, UPDATE, DELETE ON {outbox} TO service_role;\n"
            "END IF; END $referral$".replace(":", r"\:")
        )
    )


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _name(name: str) -> str:
    schema = frozen.schema()
    quote = op.get_context().dialect.identifier_preparer.quote
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)
