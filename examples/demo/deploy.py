"""What a deployment of the product runs, and the data that makes it a demo."""

from __future__ import annotations

import flask_migrate

from flask_referral import schema

from .models import add_user
from .models import db
from .models import WalletTransaction

PASSWORD = "referral-demo"
USERS = (("ada@example.com", "Ada"), ("bob@example.com", "Bob"))


def upgrade() -> None:
    """Run the product's migrations, then flask-referral's; they refer to its users."""
    flask_migrate.upgrade()
    schema.upgrade()


def seed() -> None:
    """Store two users, the first with money in the wallet, where they are missing."""
    for email, name in USERS:
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
    db.session.commit()
