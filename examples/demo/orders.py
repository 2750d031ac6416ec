"""Orders, and what the payment provider does with them afterwards.

Each function stores what happened and commits, and then lets the provider tell of it, as it would
from outside; each returns the outcome of that delivery.
"""

from __future__ import annotations

from . import whop
from .models import db
from .models import Payment
from .models import Purchase
from .models import User
from .plans import PLANS


def buy(user: User, plan: str) -> tuple[Payment, str]:
    """Subscribe a user and charge the first period."""
    purchase = Purchase(user_id=user.id, plan=plan, amount_cents=PLANS[plan].cents)
    db.session.add(purchase)
    return renew(purchase)


def renew(purchase: Purchase) -> tuple[Payment, str]:
    """Charge one more period of a subscription."""
    payment = Payment(amount_cents=purchase.amount_cents)
    purchase.payments.append(payment)
    db.session.commit()
    return payment, whop.paid(payment)


def refund(payment: Payment, cents: int) -> str:
    """Give ``cents`` of a payment back."""
    payment.refunded_cents += cents
    db.session.commit()
    return whop.refunded(payment, cents)


def dispute(payment: Payment) -> str:
    """Let the buyer's bank ask a payment back."""
    payment.dispute = "open"
    db.session.commit()
    return whop.disputed(payment)


def win(payment: Payment) -> str:
    """Let the bank decide a dispute for Larkmail."""
    payment.dispute = "won"
    db.session.commit()
    return whop.disputed(payment)
