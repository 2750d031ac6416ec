"""Read Stripe's webhook bodies.

The fields are those of Stripe's API (github.com/stripe/stripe-python, ``stripe``:
``checkout/_session.py``, ``_invoice.py``, ``_invoice_payment.py``, ``_charge.py``, ``_refund.py``,
``_dispute.py``), before version 2025-03-31.basil and since: that one moved an invoice's
``subscription`` to ``parent``, its ``payment_intent`` to ``payments``, which webhooks leave out,
and dropped ``invoice`` from intents and charges (docs.stripe.com/changelog/basil). So a payment
has several ids: the invoice's, the intent's and the charge's, and each event tells some of them.
What links an intent to its invoice since then is ``invoice_payment.paid``, or the intent's
``payment_details.order_reference``.

Amounts are in the minor unit of their currency, as ISO 4217 has it, but for those that Stripe keeps
otherwise (docs.stripe.com/currencies, "Zero-decimal currencies" and "Special cases").
"""

from __future__ import annotations

import datetime as dt
import typing as t
from decimal import Decimal

from ..currency import to_minor
from ..errors import InvalidEvent
from . import fields
from .events import EventKind
from .events import Outcome
from .events import WebhookEvent
from .strict_json import JSON

#: Where metadata may hold the id of the host's user.
USER_KEYS = ("user_id", "referral_user_id")
#: Decimals of Stripe's amounts where they are not those of ISO 4217: written as if they had two,
#: or, of the ariary, as if it had none.
_DECIMALS = {"isk": 2, "ugx": 2, "mga": 0}
_LARGEST_AMOUNT = 10**14
_LATEST = 253_402_300_799

_DISPUTES = {
    "needs_response": EventKind.dispute_opened,
    "under_review": EventKind.dispute_opened,
    "lost": EventKind.dispute_opened,
    "won": EventKind.dispute_won,
}
_INQUIRIES = {"warning_needs_response", "warning_under_review", "warning_closed"}
_FAILED = ("failed", "canceled")


def read(payload: JSON) -> WebhookEvent:
    """Read the body of a verified delivery; the buyer is whom the metadata or the checkout names.

    :param payload: strict JSON, as :func:`~.strict_json.load_object` returns it.
    :raises InvalidEvent: for a field that is not what Stripe's API says.
    """
    event_id = fields.needed(payload, "id")
    name = fields.needed(payload, "type")
    data = fields.object_of(fields.inside(payload, "data"), "object")
    told: JSON
    if name not in _READERS:
        told = _ignored(Outcome.unknown_type)
    elif data is None:
        told = _ignored(Outcome.no_data)
    else:
        told = _READERS[name](data)
        if not told.get("payment_id") and told["kind"] is not EventKind.ignored:
            told |= _ignored(Outcome.no_payment)
    return WebhookEvent(id=event_id, occurred_at=_moment(payload), **told)


def is_intent(payload: JSON) -> bool:
    """Whether an event is about an intent, which a checkout or an invoice may be the owner of."""
    return payload.get("type") == "payment_intent.succeeded"


def _session(data: JSON) -> JSON:
    status = fields.needed(data, "payment_status")
    if status == "no_payment_required":
        # A trial, or a card that is only put on file.
        return _ignored(Outcome.no_money)
    currency = fields.currency(data)
    told = _purchase(
        data,
        ids=(_id(data, "invoice"), _id(data, "payment_intent"), fields.needed(data, "id")),
        amount=_amount(data, "amount_total", currency),
        user=_user(data) or data.get("client_reference_id"),
        membership_id=_id(data, "subscription"),
    )
    # Until 2025-03-31 a session that was localised told what it is in the seller's currency.
    conversion = fields.inside(data, "currency_conversion")
    source = fields.text(conversion, "source_currency")
    if source is not None:
        told["converted_cents"] = _amount(conversion, "amount_total", source)
        told["converted_currency"] = source
    if status != "paid":
        # checkout.session.async_payment_succeeded follows.
        told |= _ignored(Outcome.not_paid)
    return told


def _invoice(data: JSON) -> JSON:
    parent = fields.inside(fields.inside(data, "parent"), "subscription_details")
    before = fields.inside(data, "subscription_details")
    payments = [fields.inside(each, "payment") for each in _list(data, "payments")]
    lines = _list(data, "lines")
    return _purchase(
        data,
        ids=(
            fields.needed(data, "id"),
            _id(data, "payment_intent"),
            *(_id(payment, "payment_intent") for payment in payments),
            _id(data, "charge"),
            *(_id(payment, "charge") for payment in payments),
        ),
        amount=_amount(data, "amount_paid", fields.currency(data)),
        user=_user(data, parent, before, *lines),
        membership_id=_id(data, "subscription") or _id(parent, "subscription"),
    )


def _intent(data: JSON) -> JSON:
    invoice = _invoice_of(data)
    ids = (invoice, fields.needed(data, "id"), _id(data, "latest_charge"))
    user = _user(data)
    if invoice is not None or user is None:
        # The invoice or the checkout is the purchase.
        return _ids(*ids) | _ignored(Outcome.linked)
    amount = _amount(data, "amount_received", fields.currency(data))
    return _purchase(data, ids=ids, amount=amount, user=user, membership_id=None)


def _invoice_payment(data: JSON) -> JSON:
    payment = fields.inside(data, "payment")
    ids = (_id(data, "invoice"), _id(payment, "payment_intent"), _id(payment, "charge"))
    return _ids(*ids) | _ignored(Outcome.linked)


def _charge(data: JSON) -> JSON:
    currency = fields.currency(data)
    told = _of_payment(EventKind.refund, data, charge=fields.needed(data, "id"))
    return told | {
        "amount_cents": _amount(data, "amount_refunded", currency),
        "total_cents": _amount(data, "amount", currency) or None,
        "currency": currency,
        "is_sum": True,
    }


def _refund(data: JSON) -> JSON:
    status = fields.text(data, "status")
    kind = EventKind.refund_failed if status in _FAILED else EventKind.refund
    currency = fields.currency(data)
    told = _of_payment(kind, data, charge=_id(data, "charge")) | {
        "amount_cents": _amount(data, "amount", currency),
        "currency": currency,
    }
    return told | _ignored(Outcome.not_refunded) if status not in (*_FAILED, "succeeded") else told


def _dispute(data: JSON) -> JSON:
    status = fields.needed(data, "status")
    kind = _DISPUTES.get(status)
    if status == "prevented":
        kind = EventKind.dispute_opened if _has_taken(data) else EventKind.dispute_won
    told = _of_payment(kind or EventKind.ignored, data, charge=_id(data, "charge"))
    if status in _INQUIRIES:
        told |= _ignored(Outcome.inquiry)
    elif kind is None:
        told |= _ignored(Outcome.unknown_status)
    return told


def _has_taken(data: JSON) -> bool:
    """Whether a dispute that was prevented gave the money back.

    It was blocked, or resolved by a refund, which the dispute's balance transactions show
    (docs.stripe.com/changelog/basil/2025-08-27/add-preventions-to-dispute).
    """
    card = fields.inside(fields.inside(data, "payment_method_details"), "card")
    return bool(data.get("balance_transactions")) or card.get("case_type") == "resolution"


_READERS: dict[str, t.Callable[[JSON], JSON]] = {
    "checkout.session.completed": _session,
    "checkout.session.async_payment_succeeded": _session,
    "invoice.paid": _invoice,
    "invoice.payment_succeeded": _invoice,
    "invoice_payment.paid": _invoice_payment,
    "payment_intent.succeeded": _intent,
    "charge.refunded": _charge,
    "charge.refund.updated": _refund,
    "refund.created": _refund,
    "refund.updated": _refund,
    "refund.failed": _refund,
    "charge.dispute.created": _dispute,
    "charge.dispute.updated": _dispute,
    "charge.dispute.closed": _dispute,
    "charge.dispute.funds_withdrawn": _dispute,
    "charge.dispute.funds_reinstated": _dispute,
}


def _purchase(
    data: JSON,
    *,
    ids: t.Iterable[str | None],
    amount: int | None,
    user: t.Any,
    membership_id: str | None,
) -> JSON:
    told = _ids(*ids)
    currency = fields.currency(data)
    metadata = fields.object_of(data, "metadata") or {}
    return told | {
        "kind": EventKind.purchase,
        "membership_id": membership_id,
        "user": user,
        "amount_cents": amount,
        "currency": currency,
        "metadata": {
            **metadata,
            "payment_id": told.get("payment_id"),
            "paid_cents": amount,
            "currency": currency,
        },
    }


def _of_payment(kind: EventKind, data: JSON, *, charge: str | None) -> JSON:
    """Read what refunds and disputes have in common."""
    ids = _ids(_invoice_of(data), _id(data, "payment_intent"), charge)
    return ids | {"kind": kind, "reference": fields.needed(data, "id")}


def _ids(*ids: str | None) -> JSON:
    """Return the ids of one payment; the first that there is, and the others."""
    told = list(dict.fromkeys(id for id in ids if id is not None))
    return {"payment_id": told[0], "aliases": tuple(told[1:])} if told else {}


def _ignored(reason: Outcome) -> JSON:
    return {"kind": EventKind.ignored, "reason": reason}


def _id(parent: JSON, name: str) -> str | None:
    return fields.id_of(parent, name)


def _invoice_of(data: JSON) -> str | None:
    """Return the invoice of an intent or a charge; since basil an intent has it as its order."""
    order = fields.inside(data, "payment_details").get("order_reference")
    is_invoice = isinstance(order, str) and order.startswith("in_")
    return _id(data, "invoice") or (t.cast(str, order) if is_invoice else None)


def _user(*parts: JSON) -> t.Any:
    return fields.first((fields.inside(part, "metadata") for part in parts), USER_KEYS)


def _list(parent: JSON, name: str) -> list[JSON]:
    data = fields.inside(parent, name).get("data")
    return [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []


def _moment(payload: JSON) -> dt.datetime | None:
    created = payload.get("created")
    if not isinstance(created, int) or isinstance(created, bool) or not 0 <= created <= _LATEST:
        return None
    return dt.datetime.fromtimestamp(created, dt.UTC)


def _amount(data: JSON, name: str, currency: str | None) -> int | None:
    """Return an amount in the minor unit of ISO 4217."""
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_AMOUNT:
        raise InvalidEvent(f"The event's {name!r} is not an amount from 0 to {_LARGEST_AMOUNT}.")
    if currency not in _DECIMALS:
        return value
    return to_minor(Decimal(value).scaleb(-_DECIMALS[currency]), currency)
