"""Read Whop's webhook bodies.

The fields are those of Whop's API v1 in all its forms. Webhooks that are pinned to a dated version
(docs.whop.com, "Webhooks": ``api_version_date``; ``account_id`` from 2026-08-14 on) have
``account_id``, ``membership_id``, ``payment_id``, and amounts as objects with the currency
(github.com/whopio/whopsdk-typescript, ``src/api/types``: ``Payment.ts``, ``Refund.ts``,
``Dispute.ts``, ``Money.ts``). Those that are not have ``company_id``, objects, and plain numbers
(github.com/whopio/whopsdk-python, ``src/whop_sdk/types``: ``shared/payment.py``,
``refund_created_webhook_event.py``, ``dispute.py``). The API before it is read too: the event's
name in ``action``, ids as ``membership_id`` or a bare ``membership``, the money in
``final_amount``.

What Whop may send and we have no use for is an event of kind ``ignored`` that says why; what
Whop does not send is :class:`InvalidEvent`.
"""

from __future__ import annotations

import datetime as dt
import re
import typing as t
from decimal import Decimal

from ..currency import to_minor
from ..errors import InvalidEvent
from . import fields
from .events import EventKind
from .events import moment_of
from .events import Outcome
from .events import WebhookEvent
from .strict_json import JSON

#: Where a checkout's metadata may hold the id of the host's user.
USER_KEYS = ("user_id", "referral_user_id")

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
#: Stopped before it became a chargeback.
_PREVENTED = "prevented"
#: Visa's Rapid Dispute Resolution, which refunds the customer; its name in either form.
_RDR = ("visa_rdr", "rapid_dispute_resolution")


def read(id: str, payload: JSON) -> WebhookEvent:
    """Read the body of a verified delivery; the buyer is whom the checkout's metadata names.

    Amounts are rounded half to even where they have more decimals than their currency.

    :param id: the delivery's.
    :param payload: strict JSON, as :func:`~.strict_json.load_object` returns it.
    :raises InvalidEvent: for a field that is not what Whop's API says.
    """
    name = fields.text(payload, "action") if payload.get("type") is None else None
    name = name or fields.needed(payload, "type")
    told: JSON
    if name in _MEMBERSHIP_TYPES:
        told = _ignored(Outcome.not_a_payment)
    elif name not in _READERS:
        told = _ignored(Outcome.unknown_type)
    elif (data := fields.object_of(payload, "data")) is None:
        told = _ignored(Outcome.no_data)
    else:
        told = _READERS[name](data)
        is_about = told["payment_id"] or told["membership_id"]
        if not is_about and told["kind"] is not EventKind.ignored:
            told |= _ignored(Outcome.no_payment)
    return WebhookEvent(id=id, occurred_at=_moment(payload), **told)


def company_of(payload: JSON) -> t.Any:
    """Return which company an event is of, as the event has it, or None."""
    data = fields.inside(payload, "data")
    for part in (payload, data, fields.inside(data, "payment")):
        for name in ("account", "company"):
            told = fields.inside(part, name).get("id") or part.get(name) or part.get(f"{name}_id")
            if told:
                return told
    return None


def _purchase(data: JSON) -> JSON:
    units, currency = _money(data, *_TOTALS)
    # Where Whop does not tell the currency, it may still have converted the amount.
    paid = _minor(units, currency) if currency or not units else None
    usd = _minor(_money(data, "usd_total")[0], "usd") or None
    metadata = fields.object_of(data, "metadata") or {}
    payment_id = fields.needed(data, "id")
    told = {
        "kind": EventKind.purchase,
        "payment_id": payment_id,
        # None for what is bought once.
        "membership_id": _id(data, "membership"),
        "user": next((metadata[key] for key in USER_KEYS if metadata.get(key) is not None), None),
        "amount_cents": paid,
        "currency": currency,
        "converted_cents": usd,
        "converted_currency": usd and "usd",
        "metadata": {
            **metadata,
            "payment_id": payment_id,
            "paid_cents": paid,
            "currency": currency,
        },
    }
    if fields.text(data, "status") not in (None, "paid"):
        told |= _ignored(Outcome.not_paid)
    elif units is None and usd is None:
        told |= _ignored(Outcome.no_money)
    return told


def _refund(data: JSON) -> JSON:
    # What was refunded in the payment's currency is not known for some old payments.
    name = "amount" if data.get("amount") is not None else "original_amount"
    amount, currency = _money(data, name)
    payment, total = fields.inside(data, "payment"), None
    code, code_of_payment = _code(data, name), fields.code(payment)
    if code == code_of_payment:
        total = _money(payment, *_TOTALS)[0]
    elif code == "usd":
        total = _money(payment, "usd_total")[0]
    is_part = code_of_payment in (None, code) and name == "amount"
    told = _of_payment(EventKind.refund, data) | {
        # A share of another currency's total would be a wrong share: it counts as everything.
        "amount_cents": _minor(amount, currency) if total or is_part else None,
        "total_cents": _minor(total, currency) or None,
        "currency": currency,
    }
    if fields.needed(data, "status") != "succeeded":
        told |= _ignored(Outcome.not_refunded)
    elif amount is None:
        raise InvalidEvent("The event's 'amount' is missing.")
    return told


def _dispute(data: JSON) -> JSON:
    status = fields.needed(data, "status")
    kind = _DISPUTES.get(status)
    if status == _PREVENTED:
        # It takes nothing by itself, and a refund that prevented it is an event of its own; that
        # of Visa's resolution is part of the dispute.
        is_refunded = any(data.get(name) is True for name in _RDR)
        kind = EventKind.dispute_opened if is_refunded else EventKind.dispute_won
    told = _of_payment(kind or EventKind.ignored, data)
    if status in _INQUIRIES or data.get("inquiry") is True:
        told |= _ignored(Outcome.inquiry)
    elif kind is None:
        told |= _ignored(Outcome.unknown_status)
    return told


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
    membership = _id(fields.inside(data, "payment"), "membership") or _id(data, "membership")
    return {
        "kind": kind,
        "payment_id": _id(data, "payment"),
        "membership_id": membership,
        "reference": fields.needed(data, "id"),
    }


def _ignored(reason: Outcome) -> JSON:
    return {"kind": EventKind.ignored, "reason": reason}


def _id(parent: JSON, name: str) -> str | None:
    """Return ``membership.id``, a bare ``membership`` or ``membership_id``, whichever is there."""
    return fields.id_of(parent, name if parent.get(name) is not None else f"{name}_id")


def _moment(payload: JSON) -> dt.datetime | None:
    """Return when the event was sent, which tells a dispute's states apart, if it says so."""
    sent = payload.get("timestamp")
    try:
        return moment_of(dt.datetime.fromisoformat(sent)) if isinstance(sent, str) else None
    except ValueError:
        return None


def _code(data: JSON, name: str) -> str | None:
    """Return the currency of an amount, which tells its own, or its parent's does."""
    return fields.code(fields.inside(data, name)) or fields.code(data)


def _money(data: JSON, *names: str) -> tuple[Decimal | None, str | None]:
    """Return the first of these amounts that is there, in units of its currency, and that.

    An amount is a number, or ``{"amount": "10.00", "currency": "usd", …}``.
    """
    name = next((name for name in names if data.get(name) is not None), None)
    if name is None:
        return None, fields.currency(data)
    value = data[name]
    money = fields.inside(data, name)
    if money:
        value = money.get("amount")
    if isinstance(value, str) and _AMOUNT_TEXT.fullmatch(value):
        # The old API writes some amounts as text, too.
        value = Decimal(value)
    if (
        not isinstance(value, int | Decimal)
        or isinstance(value, bool)
        or not 0 <= value <= _LARGEST_AMOUNT
    ):
        raise InvalidEvent(f"The event's {name!r} is not an amount from 0 to {_LARGEST_AMOUNT}.")
    return Decimal(value), fields.currency(money) or fields.currency(data)


def _minor(units: Decimal | None, currency: str | None) -> int | None:
    # Without a currency a refund is in hundredths: only its part of the total counts then.
    return None if units is None else to_minor(units, currency or "")
