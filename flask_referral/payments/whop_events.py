"""Read Whop's webhook bodies.

The fields are those of Whop's API v1 (github.com/whopio/whopsdk-python, ``src/whop_sdk/types``:
``shared/payment.py``, ``refund_created_webhook_event.py``, ``dispute.py``). The API before it is
read too: the event's name in ``action``, ids as ``membership_id`` or a bare ``membership``, the
money in ``final_amount``.

What Whop may send and we have no use for is an event of kind ``ignored`` that says why; what
Whop does not send is :class:`InvalidEvent`.
"""

from __future__ import annotations

import datetime as dt
import re
import typing as t
from decimal import Decimal

from ..conversions.currency import to_minor
from ..errors import InvalidEvent
from .events import EventKind
from .events import moment_of
from .events import Outcome
from .events import WebhookEvent
from .strict_json import JSON

#: Where a checkout's metadata may hold the id of the host's user.
USER_KEYS = ("user_id", "referral_user_id")

# Printable ASCII: every id of Whop's is.
_IDENTIFIER = re.compile(r"[!-~]{1,255}")
_CURRENCY = re.compile("[a-z]{3}")
_AMOUNT_TEXT = re.compile(r"[0-9]{1,10}(\.[0-9]{1,20})?")
_LARGEST_AMOUNT = 10**9
# Without the buyer's fees, so that a refund may be of more.
_TOTALS = ("total", "final_amount", "subtotal")

_MEMBERSHIP_TYPES = {
    "membership.activated",
    "membership_activated",
    "membership.went_valid",
    "membership_went_valid",
    "app_membership.went_valid",
    "app_membership_went_valid",
}
_DISPUTES = {
    "needs_response": EventKind.dispute_opened,
    "under_review": EventKind.dispute_opened,
    "lost": EventKind.dispute_opened,
    "closed": EventKind.dispute_opened,
    "won": EventKind.dispute_won,
}
_INQUIRIES = {"warning_needs_response", "warning_under_review", "warning_closed"}


def read(id: str, payload: JSON) -> WebhookEvent:
    """Read the body of a verified delivery; the buyer is whom the checkout's metadata names.

    Amounts are rounded half to even where they have more decimals than their currency.

    :param id: the delivery's.
    :param payload: strict JSON, as :func:`~.strict_json.load_object` returns it.
    :raises InvalidEvent: for a field that is not what Whop's API says.
    """
    name = _text(payload, "type") or _text(payload, "action")
    if name is None:
        raise InvalidEvent("The event's 'type' is missing.")
    fields: JSON
    if name in _MEMBERSHIP_TYPES:
        fields = _ignored(Outcome.not_a_payment)
    elif name not in _READERS:
        fields = _ignored(Outcome.unknown_type)
    elif (data := _object(payload, "data")) is None:
        fields = _ignored(Outcome.no_data)
    else:
        fields = _READERS[name](data)
        is_about = fields["payment_id"] or fields["membership_id"]
        if not is_about and fields["kind"] is not EventKind.ignored:
            fields |= _ignored(Outcome.no_payment)
    return WebhookEvent(id=id, occurred_at=_moment(payload), **fields)


def company_of(payload: JSON) -> t.Any:
    """Return which company an event is of, as the event has it, or None."""
    data = _dict(payload, "data")
    for part in (payload, data, _dict(data, "payment")):
        company = _dict(part, "company").get("id") or part.get("company") or part.get("company_id")
        if company:
            return company
    return None


def _purchase(data: JSON) -> JSON:
    currency = _currency(data)
    units = _units(data, *_TOTALS)
    # Where Whop does not tell the currency, it may still have converted the amount.
    paid = _minor(units, currency) if currency or not units else None
    usd = _minor(_units(data, "usd_total"), "usd") or None
    metadata = _object(data, "metadata") or {}
    fields = {
        "kind": EventKind.purchase,
        "payment_id": _own_id(data),
        "membership_id": _id(data, "membership"),
        "user": next((metadata[key] for key in USER_KEYS if metadata.get(key) is not None), None),
        "amount_cents": paid,
        "currency": currency,
        "converted_cents": usd,
        "converted_currency": usd and "usd",
        "metadata": {
            **metadata,
            "payment_id": _own_id(data),
            "paid_cents": paid,
            "currency": currency,
        },
    }
    if _text(data, "status") not in (None, "paid"):
        fields |= _ignored(Outcome.not_paid)
    elif units is None and usd is None:
        fields |= _ignored(Outcome.no_money)
    return fields


def _refund(data: JSON) -> JSON:
    amount, total = _units(data, "amount"), None
    payment = _dict(data, "payment")
    code = _code(data)
    if code == _code(payment):
        total = _units(payment, *_TOTALS)
    elif code == "usd":
        total = _units(payment, "usd_total")
    currency = _currency(data)
    fields = _of_payment(EventKind.refund, data) | {
        "amount_cents": _minor(amount, currency),
        "total_cents": _minor(total, currency) or None,
        "currency": currency,
    }
    if _status(data) != "succeeded":
        fields |= _ignored(Outcome.not_refunded)
    elif amount is None:
        raise InvalidEvent("The event's 'amount' is missing.")
    return fields


def _dispute(data: JSON) -> JSON:
    status = _status(data)
    fields = _of_payment(_DISPUTES.get(status, EventKind.ignored), data)
    if status in _INQUIRIES:
        fields |= _ignored(Outcome.inquiry)
    elif status not in _DISPUTES:
        fields |= _ignored(Outcome.unknown_status)
    return fields


_READERS: dict[str, t.Callable[[JSON], JSON]] = {
    "payment.succeeded": _purchase,
    "payment_succeeded": _purchase,
    "app_payment.succeeded": _purchase,
    "app_payment_succeeded": _purchase,
    "refund.created": _refund,
    "refund_created": _refund,
    "refund.updated": _refund,
    "refund_updated": _refund,
    "dispute.created": _dispute,
    "dispute_created": _dispute,
    "dispute.updated": _dispute,
    "dispute_updated": _dispute,
}


def _of_payment(kind: EventKind, data: JSON) -> JSON:
    """Read what refunds and disputes have in common; their payment may be null."""
    membership = _id(_dict(data, "payment"), "membership") or _id(data, "membership")
    return {
        "kind": kind,
        "payment_id": _id(data, "payment"),
        "membership_id": membership,
        "reference": _own_id(data),
    }


def _ignored(reason: Outcome) -> JSON:
    return {"kind": EventKind.ignored, "reason": reason}


def _dict(parent: JSON, name: str) -> JSON:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _object(parent: JSON, name: str) -> JSON | None:
    value = parent.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidEvent(f"The event's {name!r} is not an object.")
    return value


def _text(parent: JSON, name: str) -> str | None:
    value = parent.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise InvalidEvent(f"The event's {name!r} is not text of 1 to 255 ASCII characters.")
    return value


def _own_id(data: JSON) -> str:
    own = _text(data, "id")
    if own is None:
        raise InvalidEvent("The event's 'id' is missing in 'data'.")
    return own


def _id(parent: JSON, name: str) -> str | None:
    """Return ``membership.id``, a bare ``membership`` or ``membership_id``, whichever is there."""
    if isinstance(value := parent.get(name), dict):
        return _own_id(value)
    return _text(parent, name if value is not None else f"{name}_id")


def _status(data: JSON) -> str:
    status = _text(data, "status")
    if status is None:
        raise InvalidEvent("The event's 'status' is missing.")
    return status


def _moment(payload: JSON) -> dt.datetime | None:
    """Return when the event was sent, which tells a dispute's states apart, if it says so."""
    sent = payload.get("timestamp")
    try:
        return moment_of(dt.datetime.fromisoformat(sent)) if isinstance(sent, str) else None
    except ValueError:
        return None


def _code(data: JSON) -> str | None:
    code = _text(data, "currency")
    return code and code.lower()


def _currency(data: JSON) -> str | None:
    """Return a currency whose decimals are known; Whop has some that no standard lists."""
    code = _code(data)
    return code if code and _CURRENCY.fullmatch(code) else None


def _units(data: JSON, *names: str) -> Decimal | None:
    """Return the first of these amounts that is there, in units of its currency."""
    name = next((name for name in names if data.get(name) is not None), None)
    if name is None:
        return None
    value = data[name]
    if isinstance(value, str) and _AMOUNT_TEXT.fullmatch(value):
        # The old API writes some amounts as text.
        value = Decimal(value)
    if (
        not isinstance(value, int | Decimal)
        or isinstance(value, bool)
        or not 0 <= value <= _LARGEST_AMOUNT
    ):
        raise InvalidEvent(f"The event's {name!r} is not an amount from 0 to {_LARGEST_AMOUNT}.")
    return Decimal(value)


def _minor(units: Decimal | None, currency: str | None) -> int | None:
    # Without a currency a refund is in hundredths: only its part of the total counts then.
    return None if units is None else to_minor(units, currency or "")
