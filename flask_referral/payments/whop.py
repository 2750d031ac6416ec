"""Whop's webhooks, in our terms."""

from __future__ import annotations

import typing as t

from .. import clock
from . import signatures
from .handling import Headers
from .handling import Kind
from .handling import WebhookEvent
from .whop_events import Event
from .whop_events import parse_event

if t.TYPE_CHECKING:
    from ..host.state import State
#: Where a checkout's metadata may hold the id of the host's user.
USER_KEYS = ("user_id", "referral_user_id")


def read(state: State, body: bytes, headers: Headers) -> WebhookEvent:
    """Verify and read a delivery.

    :raises InvalidSignature: where none of ``REFERRAL_WHOP_WEBHOOK_SECRET`` signed it.
    :raises InvalidEvent: where it is not what Whop sends.
    """
    settings = state.settings
    event_id = signatures.verify(
        body, headers, settings.whop_webhook_secret, now=clock.now().timestamp()
    )
    event = parse_event(body)
    if settings.whop_company_id and event.company_id not in settings.whop_company_id:
        # An app's webhooks tell of every company that installed the app.
        return WebhookEvent(id=event_id, kind=Kind.IGNORED, reason="other_company")
    return WebhookEvent(
        id=event_id,
        kind=event.kind,
        payment_id=event.payment_id,
        membership_id=event.membership_id,
        user=_user(state, event) if event.kind is Kind.PURCHASE else None,
        reference=event.refund_id or event.dispute_id,
        amount_cents=event.amount_cents,
        total_cents=event.total_cents,
        metadata={
            "payment_id": event.payment_id,
            "paid_cents": event.amount_cents,
            "currency": event.currency,
        },
        reason=event.reason,
    )


def _user(state: State, event: Event) -> t.Any:
    if state.loaders.whop_user is not None:
        return state.loaders.whop_user(event.payload)
    found = (event.metadata.get(key) for key in USER_KEYS)
    return next((user for user in found if user is not None), None)
