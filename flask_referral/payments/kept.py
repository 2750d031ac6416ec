"""What is kept of a delivery that waits to be handled once more.

Ids, amounts and metadata; never an e-mail, a name, an address or a card. Of the provider's
payload there stay, at the places where they were:

- ids, which are texts without blanks and ``@``, or whole numbers, under ``id``, a key that ends
  in ``_id``, or one of the bare names that Whop and Stripe use (``customer``, ``membership`` …);
- what the payload is (``type``, ``action``, ``object``, ``status``);
- ``metadata`` without what a key or a value shows to be personal.

Whop's payload is that of its API (github.com/whopio/whopsdk-python, ``src/whop_sdk/types``),
Stripe's an event (github.com/stripe/openapi); both name people beside the ids, as in
``data.user.email`` and ``data.object.customer_details``.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
import uuid

from ..clock import as_utc
from ..conversions.payment import checked_metadata
from ..conversions.payment import is_id
from ..errors import ReferralError
from ..texts import cleaned_text
from .events import WebhookEvent

JSON = dict[str, t.Any]

_DEEPEST = 16
_LONGEST_NUMBER = 10**18
_BARE = re.compile(
    "id|account|charge|company|customer|invoice|member|membership|order|payment|payment_intent"
    "|plan|price|product|session|subscription|user|type|action|object|status"
)
#: Ids that a state gave to a person.
_NO_IDS = frozenset(("tax_id", "national_id", "passport_id", "vat_id"))
# Printable ASCII without "@".
_ID = re.compile(r"[!-?A-~]{1,255}")
_EMAIL = re.compile(r"[^\s@]@[^\s@]+\.[^\s@]")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PERSONAL = re.compile(
    r"mail|phone|mobile|address|firstname|lastname|fullname|username|nickname|birth|iban|last4"
    r"|(?:^|_)(?:card|cvc|pan|ip|dob|street|city|zip|postcode|postal_code)(?:_|$)"
    r"|(?:^|_)(?:first|last|full|given|family|middle|user|buyer|customer|billing|shipping|holder"
    r"|display|contact|legal)_name$"
    r"|^name$"
)
#: Fields of an event that are columns of its row in ``referral_events``, or kept by another name.
_COLUMNS = (
    *("id", "kind", "payment_id", "membership_id", "reference", "user"),
    *("amount_cents", "total_cents", "occurred_at"),
)
#: All others, which are kept where they are told.
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(WebhookEvent)
    if field.name not in _COLUMNS
}


def details(event: WebhookEvent, user: t.Any) -> JSON:
    """Return what is kept of an event beside the columns of its row.

    :param user: the buyer's id, as far as it is known.
    """
    fields = {
        name: value
        for name, default in _DEFAULTS.items()
        if (value := getattr(event, name)) != default
    }
    fields["metadata"] = cleaned_metadata(event.metadata or {})
    if event.payload is not None:
        fields["payload"] = cleaned_payload(event.payload)
    if isinstance(user, str | int | uuid.UUID):
        named = str(user)
        if is_id(named) and not _EMAIL.search(named):
            fields["user"] = named
    return fields


def event(row: t.Any) -> WebhookEvent:
    """Return the event of a delivery that waits.

    :param row: its row in ``referral_events``.
    """
    return WebhookEvent(
        id=row.event_id,
        kind=row.type,
        payment_id=row.payment_id,
        membership_id=row.membership_id,
        reference=row.reference,
        amount_cents=row.amount_cents,
        total_cents=row.base_cents,
        # An event that does not say when it occurred did so when it came, not now.
        occurred_at=as_utc(row.occurred_at or row.received_at),
        **row.details,
    )


def cleaned_payload(payload: JSON) -> JSON:
    """Return what of a provider's payload may be kept."""
    return _cleaned_payload(payload, _DEEPEST) or {}


def cleaned_metadata(metadata: JSON) -> JSON:
    """Return metadata, as JSON, without what is personal."""
    return t.cast(JSON, _without_personal(checked_metadata(metadata)))


def _cleaned_payload(value: t.Any, depth: int) -> t.Any:
    if depth == 0:
        return None
    if isinstance(value, list):
        items = (_cleaned_payload(item, depth - 1) for item in value)
        return [item for item in items if item]
    if not isinstance(value, dict):
        return None
    kept = {}
    for key, item in value.items():
        if not isinstance(key, str):
            continue
        if isinstance(item, dict) and key == "metadata":
            found = _metadata_of_payload(item)
        elif isinstance(item, dict | list):
            found = _cleaned_payload(item, depth - 1)
        else:
            found = item if _is_id(key, item) else None
        if found:
            kept[cleaned_text(key)] = found
    return kept


def _metadata_of_payload(metadata: JSON) -> t.Any:
    try:
        return cleaned_metadata(metadata)
    except ReferralError:
        # What cannot be stored is not what the buyer is found by.
        return None


def _is_id(key: str, value: t.Any) -> bool:
    if not _BARE.fullmatch(key) and (not key.endswith("_id") or key in _NO_IDS):
        return False
    if isinstance(value, str):
        return _ID.fullmatch(value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LONGEST_NUMBER


def _without_personal(value: t.Any) -> t.Any:
    if isinstance(value, list):
        return [_without_personal(item) for item in value if not _is_email(item)]
    if isinstance(value, dict):
        return {
            key: _without_personal(item)
            for key, item in value.items()
            if not (_PERSONAL.search(_words(key)) or _is_email(item))
        }
    return value


def _is_email(value: t.Any) -> bool:
    return isinstance(value, str) and _EMAIL.search(value) is not None


def _words(key: str) -> str:
    """Return a key as lower-case words: ``firstName`` and ``First-Name`` are ``first_name``."""
    return re.sub(r"[^a-z0-9]+", "_", _CAMEL.sub("_", key).lower())
