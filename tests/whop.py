"""What Whop delivers, signed, for the tests."""

from __future__ import annotations

import itertools
import json
import typing as t

from flask_referral.testing import signature

from .hosts import Host

SECRET = "ws_0123456789abcdef0123456789abcdef"
URL = "/api/referral/webhooks/whop"
CONFIG = {"REFERRAL_WHOP_WEBHOOK_SECRET": SECRET, "REFERRAL_WHOP_COMPANY_ID": "biz_1"}

_numbers = itertools.count()


def signed(body: bytes, secret: str = SECRET, id: str | None = None) -> dict[str, str]:
    """Return the headers of a delivery; without ``id`` it is one of its own."""
    return signature("whop", body, secret=secret, id=id)


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


def payment(buyer: t.Any, bought: str = "mem_1", **fields: t.Any) -> dict[str, t.Any]:
    """Return a payment of 30.00 USD for a membership; fields replace those of the payment."""
    data: dict[str, t.Any] = {
        "id": f"pay_{bought}",
        "status": "paid",
        "total": 30.0,
        "currency": "usd",
        "membership": {"id": bought, "status": "active"},
        "user": {"id": "user_1", "email": None},
        "metadata": {"user_id": str(buyer)},
    }
    return _envelope("payment.succeeded", data | fields)


def refund(id: str, amount: float, membership: str = "mem_1", **fields: t.Any) -> dict[str, t.Any]:
    """Return a refund of a part of that payment."""
    data: dict[str, t.Any] = {
        "id": id,
        "amount": amount,
        "status": "succeeded",
        "currency": "usd",
        "payment": {
            "id": f"pay_{membership}",
            "total": 30.0,
            "currency": "usd",
            "membership": {"id": membership},
        },
    }
    return _envelope("refund.updated", data | fields)


def dispute(
    id: str, status: str, membership: str = "mem_1", *, hour: int | None = None
) -> dict[str, t.Any]:
    """Return a dispute of that payment.

    :param hour: when it got this status; None: the event does not say.
    """
    data = {
        "id": id,
        "status": status,
        "amount": 30.0,
        "currency": "usd",
        "payment": {"id": f"pay_{membership}", "membership": {"id": membership}},
    }
    event = _envelope("dispute.updated", data)
    return event if hour is None else event | {"timestamp": f"2026-06-02T{hour:02}:00:00.000Z"}


def _envelope(type: str, data: dict[str, t.Any]) -> dict[str, t.Any]:
    return {"type": type, "company_id": "biz_1", "data": data}


def money(amount: str, currency: str = "usd") -> dict[str, t.Any]:
    """Return an amount as dated versions write it."""
    return {"amount": amount, "currency": currency, "decimals": 2, "display_decimals": 2}


def dated_payment(buyer: t.Any, id: str = "pay_1", **fields: t.Any) -> dict[str, t.Any]:
    """Return a payment of 30.00 USD, bought once, as a webhook pinned to a version sends it."""
    data: dict[str, t.Any] = {
        "id": id,
        "account_id": "biz_1",
        "status": "paid",
        "substatus": "succeeded",
        "billing_reason": "one_time",
        "currency": "usd",
        "subtotal": money("33.00"),
        "total": money("30.00"),
        "usd_total": money("30.00"),
        "refunded_amount": None,
        "membership_id": None,
        "member_id": None,
        "user": {"id": "user_1", "name": None, "username": "buyer"},
        "metadata": {"user_id": str(buyer)},
    }
    return _dated("payment.succeeded", data | fields)


def dated_refund(
    id: str, refunded: str, payment: str = "pay_1", **fields: t.Any
) -> dict[str, t.Any]:
    """Return a refund, which names its payment and does not say how much that was."""
    data = {
        "id": id,
        "account_id": "biz_1",
        "payment_id": payment,
        "amount": money(refunded),
        "original_amount": money(refunded),
        "status": "succeeded",
        "reason": "requested_by_customer",
        "visa_rdr": False,
    }
    return _dated("refund.updated", data | fields)


def dated_dispute(
    id: str, status: str, payment: str = "pay_1", *, hour: int = 0, **fields: t.Any
) -> dict[str, t.Any]:
    """Return a dispute; ``inquiry`` instead of a status tells that no money moves."""
    data = {
        "id": id,
        "account_id": "biz_1",
        "amount": 30.0,
        "currency": "usd",
        "inquiry": False,
        "status": status,
        "payment": {"id": payment, "amount": 30.0, "currency": "usd"},
        "buyer": {"id": "user_1"},
    }
    return _dated("dispute.updated", data | fields, hour)


def _dated(type: str, data: dict[str, t.Any], hour: int = 0) -> dict[str, t.Any]:
    return {
        "id": f"msg_{next(_numbers)}",
        "type": type,
        "api_version": "v1",
        "api_version_date": "2026-11-17",
        "timestamp": f"2026-06-02T{hour:02}:00:00.000Z",
        "account_id": "biz_1",
        "data": data,
    }
