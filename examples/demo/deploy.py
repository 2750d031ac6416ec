"""What a deployment of the product runs, and the accounts that make it a demo."""

from __future__ import annotations

import flask_migrate
import sqlalchemy as sa
from flask import current_app

from flask_referral import ReferralError
from flask_referral import schema

from .models import add_user
from .models import db
from .models import User
from .models import WalletTransaction

PASSWORD = "referral-demo"
USERS = (("ada@example.com", "Ada"), ("bob@example.com", "Bob"))
OPERATOR = ("operator@example.com", "Operator")


def upgrade() -> None:
    """Run the product's migrations, then flask-referral's; they refer to its users."""
    flask_migrate.upgrade()
    schema.upgrade()


def seed() -> None:
    """Store two users, the first with money in the wallet, and an operator, where missing."""
    for email, name in (*USERS, OPERATOR):
        user = add_user(email, name, PASSWORD)
        if user is not None and email == USERS[0][0]:
            db.session.add_all(
                [
                    WalletTransaction(
                        user_id=user.id,
                        amount_cents=2500,
                        type="deal_payment",
                        reference_type="deal_enrollment",
                        reference_id="deal-1",
                        description="A text for a landing page",
                    ),
                    WalletTransaction(
                        user_id=user.id,
                        amount_cents=-1000,
                        type="withdrawal",
                        reference_type="manual",
                        description="To your bank",
                    ),
                ]
            )
    is_operator = User.email == OPERATOR[0]
    db.session.execute(sa.update(User).where(is_operator).values(is_operator=True))
    db.session.commit()


def chores() -> None:
    """Run what cron runs in production: credit what is due, and sum up the days that are over."""
    run("mature")
    run("rollup")


def run(*arguments: str) -> None:
    """Run a command of ``flask referral``.

    :raises ReferralError: with what the command said, where it failed.
    """
    result = current_app.test_cli_runner().invoke(args=["referral", *arguments])
    if result.exit_code:
        raise ReferralError(f"flask referral {' '.join(arguments)} failed: {result.output}")
