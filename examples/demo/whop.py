"""The demo plays Whop: it signs what Whop would send, and delivers it to the product's webhook.

A real product has nothing like this. It sets ``REFERRAL_WHOP_WEBHOOK_SECRET`` and puts the
buyer's id into the checkout's metadata.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import typing as t

from flask import current_app
from flask import url_for

from .models import Purchase

COMPANY = "biz_demo"


def pay(purchase: Purchase) -> str:
    """Deliver the event of a payment, the same however often; return its outcome."""
    payment = _payment(purchase) | {"metadata": {"user_id": str(purchase.user_id)}}
    return _deliver(f"msg_{purchase.membership_id}", "payment.succeeded", payment)


def refund(purchase: Purchase) -> str:
    """Deliver the event of a full refund, the same however often; return its outcome."""
    data = {
        "id": f"ref_{purchase.membership_id}",
        "status": "succeeded",
        "amount": purchase.amount_cents / 100,
        "currency": "usd",
        "payment": _payment(purchase),
    }
    return _deliver(f"msg_refund_{purchase.membership_id}", "refund.created", data)


def _payment(purchase: Purchase) -> dict[str, t.Any]:
    return {
        "id": f"pay_{purchase.membership_id}",
        "status": "paid",
        "total": purchase.amount_cents / 100,
        "currency": "usd",
        "membership": {"id": purchase.membership_id},
    }


def _deliver(event_id: str, type: str, data: dict[str, t.Any]) -> str:
    body = json.dumps({"type": type, "company_id": COMPANY, "data": data}).encode()
    # Standard Webhooks: the id, the seconds since 1970 and the body are signed.
    moment = str(int(time.time()))
    secret = current_app.config["REFERRAL_WHOP_WEBHOOK_SECRET"].encode()
    signed = f"{event_id}.{moment}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    answer = current_app.test_client().post(
        url_for("referral.webhook", provider="whop"),
        data=body,
        headers={
            "webhook-id": event_id,
            "webhook-timestamp": moment,
            "webhook-signature": f"v1,{signature}",
        },
    )
    outcome: str = answer.get_json()["outcome"]
    return outcome
