"""Read Whop's webhook bodies.

The fields are those of Whop's API v1 (github.com/whopio/whopsdk-python, ``src/whop_sdk/types``:
``shared/payment.py``, ``refund_created_webhook_event.py``, ``dispute.py``). The API before it is
read too: the event's name in ``action``, ids as ``membership_id`` or a bare ``membership``, the
money in ``final_amount``.

What Whop may send and we have no use for is an event of kind ``ignored`` that says why; what
Whop does not send is :class:`InvalidEvent`.
"""

from __future__ import annotations

import dataclasses
import decimal
import enum
import math
import re
import typing as t
from decimal import Decimal

from ..errors import InvalidEvent
from .handling import Kind
from .strict_json import JSON
from .strict_json import load_object

# Printable ASCII: every id of Whop's is, and every database takes it.
_IDENTIFIER = re.compile(r"[!-~]{1,255}")
_AMOUNT_TEXT = re.compile(r"[0-9]{1,10}(\.[0-9]{1,20})?")
_LARGEST_AMOUNT = 10**9
# NUL and lone surrogates, which JSON allows and databases refuse.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Independent of what the host does to its own context.
_ROUNDING = decimal.Context(prec=28, rounding=decimal.ROUND_HALF_EVEN)
_CENT = Decimal("0.01")


class IgnoredReason(enum.StrEnum):
    """Why an event has no effect."""

    UNKNOWN_TYPE = "unknown_type"
    #: A membership began; trials and free plans begin too. Payments are events of their own.
    NOT_A_PAYMENT = "not_a_payment"
    #: Test deliveries may have no data.
    NO_DATA = "no_data"
    NOT_PAID = "not_paid"
    #: A payment or refund of 0, or of an amount that Whop does not tell.
    NO_MONEY = "no_money"
    #: No membership is named, so no conversion can be found.
    NO_MEMBERSHIP = "no_membership"
    #: The refund is on its way, failed or was cancelled.
    NOT_REFUNDED = "not_refunded"
    #: ``warning_*``: the bank asks, no money has moved. A real dispute is another status.
    INQUIRY = "inquiry"
    UNKNOWN_STATUS = "unknown_status"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A Whop event. All but ``ignored`` ones have a membership, and each kind its own id."""

    kind: Kind = Kind.IGNORED
    #: None unless the kind is ``ignored``.
    reason: IgnoredReason | None = None
    #: The name as Whop sent it.
    type: str
    company_id: str | None = None
    membership_id: str | None = None
    payment_id: str | None = None
    refund_id: str | None = None
    dispute_id: str | None = None
    #: The user at Whop, not the host's. Whop's e-mail addresses are not for finding users.
    whop_user_id: str | None = None
    #: What was paid, refunded or disputed, in hundredths of the currency's unit.
    amount_cents: int | None = None
    #: The whole payment in the same currency, never 0. None where Whop does not tell. A refund
    #: may be larger, since the total is without the buyer's fees.
    total_cents: int | None = None
    #: Whop's lower-case code of the amounts' currency.
    currency: str | None = None
    #: The checkout's metadata, as far as it is text, whole numbers, finite numbers, true and
    #: false, without what a database cannot store.
    metadata: JSON = dataclasses.field(default_factory=dict)
    #: The whole body; numbers with a point or exponent are ``Decimal``.
    payload: JSON = dataclasses.field(repr=False, compare=False)


def parse_event(body: bytes) -> Event:
    """Read the body of a verified delivery.

    Some of Whop's currencies have more than two decimals; amounts are rounded half to even.

    :param body: the caller limits its size.
    :raises InvalidEvent: for a body that is not strict JSON (UTF-8, unique keys, no NaN), and
        for a field that is not what Whop's API says.
    """
    payload = load_object(body)
    name = _text(payload, "type") or _text(payload, "action")
    if name is None:
        raise InvalidEvent("The event's 'type' is missing.")
    event = Event(type=name, company_id=_text(payload, "company_id"), payload=payload)
    if name in _MEMBERSHIP_TYPES:
        return _ignored(event, IgnoredReason.NOT_A_PAYMENT)
    if name not in _READERS:
        return _ignored(event, IgnoredReason.UNKNOWN_TYPE)
    data = _object(payload, "data")
    if data is None:
        return _ignored(event, IgnoredReason.NO_DATA)
    return _READERS[name](event, data)


def _purchase(event: Event, data: JSON) -> Event:
    paid = _cents(data, "total", "final_amount", "subtotal")
    event = dataclasses.replace(
        _described(event, data, data),
        payment_id=_own_id(data),
        amount_cents=paid,
        total_cents=paid or None,
    )
    if _text(data, "status") not in (None, "paid"):
        return _ignored(event, IgnoredReason.NOT_PAID)
    if not paid:
        return _ignored(event, IgnoredReason.NO_MONEY)
    return _effective(event, Kind.PURCHASE)


def _refund(event: Event, data: JSON) -> Event:
    event = dataclasses.replace(_of_payment(event, data), refund_id=_own_id(data))
    if _status(data) != "succeeded":
        return _ignored(event, IgnoredReason.NOT_REFUNDED)
    if event.amount_cents is None:
        raise InvalidEvent("The event's 'amount' is missing.")
    if event.amount_cents == 0:
        return _ignored(event, IgnoredReason.NO_MONEY)
    return _effective(event, Kind.REFUND)


def _dispute(event: Event, data: JSON) -> Event:
    event = dataclasses.replace(_of_payment(event, data), dispute_id=_own_id(data))
    status = _status(data)
    if status in _INQUIRIES:
        return _ignored(event, IgnoredReason.INQUIRY)
    if status not in _DISPUTES:
        return _ignored(event, IgnoredReason.UNKNOWN_STATUS)
    return _effective(event, _DISPUTES[status])


def _of_payment(event: Event, data: JSON) -> Event:
    """Read what refunds and disputes have in common: an amount of a payment, which may be null."""
    payment = data.get("payment")
    payment = payment if isinstance(payment, dict) else {}
    event = dataclasses.replace(
        _described(event, data, payment),
        payment_id=_id(data, "payment"),
        amount_cents=_cents(data, "amount"),
    )
    if event.currency == _currency(payment):
        total = _cents(payment, "total", "final_amount", "subtotal")
    else:
        total = _cents(payment, "usd_total") if event.currency == "usd" else None
    return dataclasses.replace(event, total_cents=total or None)


def _described(event: Event, data: JSON, payment: JSON) -> Event:
    return dataclasses.replace(
        event,
        company_id=event.company_id or _id(data, "company") or _id(payment, "company"),
        membership_id=_id(payment, "membership") or _id(data, "membership"),
        whop_user_id=_id(payment, "user") or _id(data, "user"),
        currency=_currency(data),
        metadata=_metadata(payment) or _metadata(data),
    )


def _effective(event: Event, kind: Kind) -> Event:
    if event.membership_id is None:
        return _ignored(event, IgnoredReason.NO_MEMBERSHIP)
    return dataclasses.replace(event, kind=kind)


def _ignored(event: Event, reason: IgnoredReason) -> Event:
    return dataclasses.replace(event, reason=reason)


_READERS: dict[str, t.Callable[[Event, JSON], Event]] = {
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
_MEMBERSHIP_TYPES = {
    "membership.activated",
    "membership_activated",
    "membership.went_valid",
    "membership_went_valid",
    "app_membership.went_valid",
    "app_membership_went_valid",
}
_DISPUTES = {
    "needs_response": Kind.DISPUTE_OPENED,
    "under_review": Kind.DISPUTE_OPENED,
    "lost": Kind.DISPUTE_OPENED,
    "closed": Kind.DISPUTE_OPENED,
    "won": Kind.DISPUTE_WON,
}
_INQUIRIES = {"warning_needs_response", "warning_under_review", "warning_closed"}


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


def _currency(data: JSON) -> str | None:
    currency = _text(data, "currency")
    return currency and currency.lower()


def _cents(data: JSON, *names: str) -> int | None:
    """Return the first of these amounts that is there, in cents."""
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
    units = _ROUNDING.quantize(Decimal(value), _CENT)
    return int(units.scaleb(2, _ROUNDING))


def _metadata(data: JSON) -> JSON:
    metadata = _object(data, "metadata") or {}
    plain = {
        key: float(value) if isinstance(value, Decimal) else value
        for key, value in metadata.items()
    }
    return {key: value for key, value in plain.items() if _storable(key) and _storable(value)}


def _storable(value: t.Any) -> bool:
    if isinstance(value, str):
        return not _UNSTORABLE.search(value)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
