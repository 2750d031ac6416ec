"""Users, purchases, and the wallet with its balance trigger.

Revision: 0001
Follows: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Everybody who writes to a wallet waits for the lock on its user, so the last row read after
# that is the last row. The time is drawn under the lock too: a default would be evaluated
# before it, and "last" would follow another order than the balances.
BALANCE_FUNCTION = """
CREATE FUNCTION calculate_balance_after() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_row record;
BEGIN
    PERFORM 1 FROM users WHERE id = NEW.user_id FOR NO KEY UPDATE;
    SELECT balance_after_cents, created_at INTO last_row
    FROM wallet_transactions WHERE user_id = NEW.user_id
    ORDER BY created_at DESC, id DESC LIMIT 1;
    NEW.balance_after_cents := coalesce(last_row.balance_after_cents, 0) + NEW.amount_cents;
    NEW.created_at := greatest(
        clock_timestamp(), last_row.created_at + interval '1 microsecond'
    );
    RETURN NEW;
END $$
"""
BALANCE_TRIGGER = """
CREATE TRIGGER calculate_balance_after BEFORE INSERT ON wallet_transactions
FOR EACH ROW EXECUTE FUNCTION calculate_balance_after()
"""


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("email", sa.Text(), nullable=False, unique=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        _created_at(),
    )
    op.create_table(
        "purchases",
        sa.Column("id", sa.Integer(), primary_key=True),
        _user_id(),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("amount_cents", sa.Integer(), nullable=False),
        sa.Column("membership_id", sa.Text(), nullable=False, unique=True),
        _created_at(),
    )
    op.create_index("ix_purchases_user_id", "purchases", ["user_id"])
    op.create_table(
        "wallet_transactions",
        sa.Column("id", sa.BigInteger(), primary_key=True),
        _user_id(),
        sa.Column("amount_cents", sa.Integer(), nullable=False),
        sa.Column("balance_after_cents", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("reference_type", sa.Text()),
        sa.Column("reference_id", sa.Text()),
        sa.Column("status", sa.Text(), server_default="completed", nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("metadata", JSONB()),
        _created_at(),
        sa.CheckConstraint(
            "type IN ('deal_payment', 'affiliate_commission', 'withdrawal', 'adjustment')",
            name="wallet_transactions_type_check",
        ),
        sa.CheckConstraint(
            "reference_type IN ('deal_enrollment', 'affiliate_conversion', 'manual')",
            name="wallet_transactions_reference_type_check",
        ),
    )
    op.create_index(
        "ix_wallet_transactions_user_id_created_at_id",
        "wallet_transactions",
        ["user_id", "created_at", "id"],
    )
    op.execute(BALANCE_FUNCTION)
    op.execute(BALANCE_TRIGGER)


def downgrade() -> None:
    op.drop_table("wallet_transactions")
    op.execute("DROP FUNCTION calculate_balance_after()")
    op.drop_table("purchases")
    op.drop_table("users")


def _user_id() -> sa.Column[int]:
    users = sa.ForeignKey("users.id", ondelete="CASCADE")
    return sa.Column("user_id", sa.Integer(), users, nullable=False)


def _created_at() -> sa.Column[object]:
    return sa.Column(
        "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
    )
