"""Whop's webhooks: verified, of the right company, with the host's user as the buyer."""

from __future__ import annotations

import dataclasses

from .. import clock
from ..errors import UnknownProvider
from ..host.state import current_state
from . import signatures
from . import whop_events
from .events import EventKind
from .events import Headers
from .events import Outcome
from .events import WebhookEvent
from .strict_json import load_object


def read(body: bytes, headers: Headers) -> WebhookEvent:
    """Verify and read a delivery; a :data:`~.events.WebhookReader`.

    :raises UnknownProvider: without ``REFERRAL_WHOP_WEBHOOK_SECRET``.
    :raises InvalidSignature: where none of its secrets signed the delivery.
    :raises InvalidEvent: where it is not what Whop sends.
    """
    state = current_state()
    settings = state.settings
    if not settings.whop_webhook_secret:
        raise UnknownProvider()
    event_id = signatures.verify(
        body, headers, settings.whop_webhook_secret, now=clock.now().timestamp()
    )
    payload = load_object(body)
    companies = settings.whop_company_id
    if companies and whop_events.company_of(payload) not in companies:
        # An app's webhooks tell of every company that installed the app.
        return WebhookEvent(id=event_id, kind=EventKind.ignored, reason=Outcome.other_company)
    event = whop_events.read(event_id, payload)
    if event.kind is EventKind.purchase and state.loaders.whop_user is not None:
        return dataclasses.replace(event, user=state.loaders.whop_user(payload))
    return event
