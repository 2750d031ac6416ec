"""What Stripe delivers, signed, for the tests: the form before basil (2025-03-31), and since.

Fields by docs.stripe.com/api; the values are our own.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import time
import typing as t

from .hosts import Host

SECRET = "whsec_0123456789abcdef0123456789abcdef"
URL = "/api/referral/webhooks/stripe"
CONFIG = {"REFERRAL_STRIPE_WEBHOOK_SECRET": SECRET}
#: 2026-06-02T00:00:00Z
CREATED = 1_780_358_400

_numbers = itertools.count()


def signed(body: bytes, secret: str = SECRET, moment: int | None = None) -> dict[str, str]:
    """Return the headers of a delivery."""
    moment = int(time.time()) if moment is None else moment
    digest = hmac.digest(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hex()
    return {"Stripe-Signature": f"t={moment},v1={digest},v0={'0' * 64}"}


def deliver(host: Host, payload: t.Any, **options: t.Any) -> t.Any:
    """Deliver an event, or a raw body; return the response."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return host.client().post(URL, data=body, headers=signed(body, **options))


def outcome(host: Host, payload: t.Any, **options: t.Any) -> str:
    """Deliver an event that is dealt with; return what came of it."""
    answer = deliver(host, payload, **options)
    assert answer.status_code == 200, answer.text
    told: str = answer.get_json()["outcome"]
    return told


def event(
    type: str, data: dict[str, t.Any], *, hour: int = 0, id: str | None = None
) -> dict[str, t.Any]:
    """Return an event; without ``id`` it is one of its own.

    :param hour: when it occurred, on the day that :data:`CREATED` begins.
    """
    return {
        "id": id or f"evt_{next(_numbers)}",
        "object": "event",
        "api_version": "2026-06-24.dahlia",
        "created": CREATED + hour * 3600,
        "livemode": False,
        "type": type,
        "data": {"object": data},
    }


def session(buyer: t.Any, key: str = "1", **fields: t.Any) -> dict[str, t.Any]:
    """Return a checkout of 30.00 USD that was paid at once; fields replace those of the session."""
    data = {
        "id": f"cs_{key}",
        "object": "checkout.session",
        "mode": "payment",
        "status": "complete",
        "payment_status": "paid",
        "amount_total": 3000,
        "currency": "usd",
        "client_reference_id": None if buyer is None else str(buyer),
        "customer": "cus_1",
        "payment_intent": f"pi_{key}",
        "invoice": None,
        "subscription": None,
        "currency_conversion": None,
        "metadata": {},
    }
    return event("checkout.session.completed", data | fields)


def subscribed(
    buyer: t.Any, key: str = "1", *, subscription: str = "sub_1", **fields: t.Any
) -> dict[str, t.Any]:
    """Return a checkout of a subscription, which names its first invoice and no intent."""
    of_subscription = {
        "mode": "subscription",
        "payment_intent": None,
        "invoice": f"in_{key}",
        "subscription": subscription,
    }
    return session(buyer, key, **(of_subscription | fields))


def invoice(
    key: str = "1",
    *,
    basil: bool = True,
    buyer: t.Any = None,
    subscription: str = "sub_1",
    **fields: t.Any,
) -> dict[str, t.Any]:
    """Return an invoice of 30.00 USD of a subscription that was paid.

    :param basil: whether it is of a version from 2025-03-31 on.
    :param buyer: whom the subscription's metadata names.
    """
    metadata = {} if buyer is None else {"user_id": str(buyer)}
    data: dict[str, t.Any] = {
        "id": f"in_{key}",
        "object": "invoice",
        "status": "paid",
        "amount_paid": 3000,
        "amount_due": 3000,
        "currency": "usd",
        "billing_reason": "subscription_create",
        "customer": "cus_1",
        "metadata": {},
    }
    if basil:
        data["parent"] = {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"subscription": subscription, "metadata": metadata},
        }
    else:
        data |= {
            "charge": f"ch_{key}",
            "payment_intent": f"pi_{key}",
            "subscription": subscription,
            "subscription_details": {"metadata": metadata},
        }
    return event("invoice.paid", data | fields)


def invoice_payment(key: str = "1") -> dict[str, t.Any]:
    """Return what tells, since basil, by which intent an invoice was paid."""
    data = {
        "id": f"inpay_{key}",
        "object": "invoice_payment",
        "invoice": f"in_{key}",
        "amount_paid": 3000,
        "currency": "usd",
        "status": "paid",
        "payment": {"type": "payment_intent", "payment_intent": f"pi_{key}"},
    }
    return event("invoice_payment.paid", data)


def intent(key: str = "1", **fields: t.Any) -> dict[str, t.Any]:
    """Return an intent of 30.00 USD that succeeded."""
    data = {
        "id": f"pi_{key}",
        "object": "payment_intent",
        "amount": 3000,
        "amount_received": 3000,
        "currency": "usd",
        "status": "succeeded",
        "latest_charge": f"ch_{key}",
        "metadata": {},
        "payment_details": {"customer_reference": None, "order_reference": None},
    }
    return event("payment_intent.succeeded", data | fields)


def charge(refunded: int, key: str = "1", *, hour: int = 0, **fields: t.Any) -> dict[str, t.Any]:
    """Return a charge of 30.00 USD of which so much was refunded until now."""
    data = {
        "id": f"ch_{key}",
        "object": "charge",
        "amount": 3000,
        "amount_captured": 3000,
        "amount_refunded": refunded,
        "currency": "usd",
        "payment_intent": f"pi_{key}",
        "refunded": refunded >= 3000,
        "status": "succeeded",
    }
    return event("charge.refunded", data | fields, hour=hour)


def refund(
    id: str,
    amount: int,
    key: str = "1",
    *,
    type: str = "refund.created",
    hour: int = 0,
    **fields: t.Any,
) -> dict[str, t.Any]:
    """Return one refund, which does not say what it is a part of."""
    data = {
        "id": id,
        "object": "refund",
        "amount": amount,
        "currency": "usd",
        "charge": f"ch_{key}",
        "payment_intent": f"pi_{key}",
        "status": "succeeded",
    }
    return event(type, data | fields, hour=hour)


def dispute(
    status: str, key: str = "1", *, hour: int = 0, type: str | None = None, **fields: t.Any
) -> dict[str, t.Any]:
    """Return a dispute of a charge of 30.00 USD."""
    data = {
        "id": f"du_{key}",
        "object": "dispute",
        "amount": 3000,
        "currency": "usd",
        "charge": f"ch_{key}",
        "payment_intent": f"pi_{key}",
        "status": status,
        "balance_transactions": [],
        "payment_method_details": {"type": "card", "card": {"case_type": "chargeback"}},
    }
    return event(type or "charge.dispute.updated", data | fields, hour=hour)
