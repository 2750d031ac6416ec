"""Wallet constraints: the host's wallet takes bonuses and their reversals.

Revision: 0003
Follows: 0002

On PostgreSQL this commits what ran before it, once nothing speaks against it any more: a live
table may be locked for moments only. The printed script, which cannot look at the table, writes
the documented lists.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from flask import current_app

from flask_referral.schema import wallet_checks

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    wallet: sa.Table | None = current_app.extensions["referral"].wallet_table
    context = op.get_context()
    if wallet is None:
        return
    if not context.as_sql:
        wallet_checks.extend(context, wallet.name, wallet.schema)
    elif context.dialect.name == "postgresql":
        with context.autocommit_block():
            for statement in wallet_checks.offline_upgrade(wallet.name, wallet.schema):
                op.execute(statement)


def downgrade() -> None:
    wallet: sa.Table | None = current_app.extensions["referral"].wallet_table
    context = op.get_context()
    if wallet is None:
        return
    if not context.as_sql:
        wallet_checks.restore(context, wallet.name, wallet.schema)
    elif context.dialect.name == "postgresql":
        with context.autocommit_block():
            for statement in wallet_checks.offline_downgrade(wallet.name, wallet.schema):
                op.execute(statement)
