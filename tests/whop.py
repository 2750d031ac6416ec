"""What Whop delivers, signed, for the tests."""

from __future__ import annotations

import json
import typing as t

from flask_referral.testing import signature

from .hosts import Host

SECRET = "ws_0123456789abcdef0123456789abcdef"
URL = "/api/referral/webhooks/whop"
CONFIG = {"REFERRAL_WHOP_WEBHOOK_SECRET": SECRET, "REFERRAL_WHOP_COMPANY_ID": "biz_1"}


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
