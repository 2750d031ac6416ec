"""The demo plays Whop: it signs what Whop would send, and delivers it to the product's webhook.

A real product has nothing like this. It sets ``REFERRAL_WHOP_WEBHOOK_SECRET`` and puts the
buyer's id into the checkout's metadata.
"""

from __future__ import annotations

import typing as t

from flask import current_app

from flask_referral.testing import signed_delivery

from .models import Payment

COMPANY = "biz_demo"


def paid(payment: Payment) -> str:
    """Deliver the event of a payment, the same however often; return its outcome."""
    purchase = payment.purchase
    metadata = {"user_id": str(purchase.user_id), "plan": purchase.plan}
    data = _payment(payment) | {"metadata": metadata}
    return _deliver(f"msg_{payment.payment_id}", "payment.succeeded", data)


def refunded(payment: Payment, cents: int) -> str:
    """Deliver the event of a refund of ``cents``, the last of those that the payment counts."""
    # What is refunded in all is another sum after each refund.
    name = f"{payment.payment_id}_{payment.refunded_cents}"
    data = {
        "id": f"ref_{name}",
        "status": "succeeded",
        "amount": cents / 100,
        "currency": "usd",
        "payment": _payment(payment),
    }
    return _deliver(f"msg_refund_{name}", "refund.created", data)


def disputed(payment: Payment) -> str:
    """Deliver the event of the payment's dispute, in the state that it is in."""
    is_open = payment.dispute == "open"
    data = {
        "id": f"dsp_{payment.payment_id}",
        "status": "needs_response" if is_open else "won",
        "amount": payment.amount_cents / 100,
        "currency": "usd",
        "payment": _payment(payment),
    }
    return _deliver(
        f"msg_dispute_{payment.payment_id}_{payment.dispute}",
        "dispute.created" if is_open else "dispute.updated",
        data,
    )


def _payment(payment: Payment) -> dict[str, t.Any]:
    return {
        "id": payment.payment_id,
        "status": "paid",
        "total": payment.amount_cents / 100,
        "currency": "usd",
        "membership": {"id": payment.purchase.membership_id},
    }


def _deliver(event_id: str, type: str, data: dict[str, t.Any]) -> str:
    event = {"type": type, "company_id": COMPANY, "data": data}
    delivery = signed_delivery("whop", event, id=event_id)
    answer = current_app.test_client().post(**delivery)
    outcome: str = answer.get_json()["outcome"]
    return outcome
