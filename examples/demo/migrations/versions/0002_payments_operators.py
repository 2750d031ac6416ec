"""Payments of a subscription, and who runs the product.

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Until now a subscription was paid once.
FIRST_PAYMENTS = """
INSERT INTO payments (purchase_id, payment_id, amount_cents, created_at)
SELECT id, 'pay_' || membership_id, amount_cents, created_at FROM purchases ORDER BY id
"""


def upgrade() -> None:
    op.add_column(
        "users",
        sa.Column("is_operator", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.create_table(
        "payments",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "purchase_id",
            sa.Integer(),
            sa.ForeignKey("purchases.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("payment_id", sa.Text(), nullable=False, unique=True),
        sa.Column("amount_cents", sa.Integer(), nullable=False),
        sa.Column("refunded_cents", sa.Integer(), server_default="0", nullable=False),
        sa.Column("dispute", sa.Text()),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
        ),
        sa.CheckConstraint(
            "refunded_cents BETWEEN 0 AND amount_cents", name="payments_refunded_cents_check"
        ),
        sa.CheckConstraint("dispute IN ('open', 'won')", name="payments_dispute_check"),
    )
    op.create_index("ix_payments_purchase_id", "payments", ["purchase_id"])
    op.execute(FIRST_PAYMENTS)


def downgrade() -> None:
    op.drop_table("payments")
    op.drop_column("users", "is_operator")
