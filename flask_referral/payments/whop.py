"""Whop's webhooks: verified, and of the right company."""

from __future__ import annotations

import dataclasses

from .. import clock
from ..errors import InvalidEvent
from ..errors import UnknownProvider
from ..host.state import current_state
from ..settings import Settings
from . import signatures
from . import whop_events
from .events import EventKind
from .events import Headers
from .events import Outcome
from .events import WebhookEvent
from .strict_json import JSON
from .strict_json import load_object

#: The provider's name in URLs and rows.
NAME = "whop"


def read(body: bytes, headers: Headers) -> WebhookEvent:
    """Verify and read a delivery; a :data:`~.events.WebhookReader`.

    :raises UnknownProvider: without ``REFERRAL_WHOP_WEBHOOK_SECRET``.
    :raises InvalidSignature: where none of its secrets signed the delivery.
    :raises InvalidEvent: where it is not what Whop sends.
    """
    settings = current_state().settings
    if not settings.whop_webhook_secret:
        raise UnknownProvider()
    event_id = signatures.verify(
        body, headers, settings.whop_webhook_secret, now=clock.now().timestamp()
    )
    payload = load_object(body)
    try:
        event = whop_events.read(event_id, payload)
    except InvalidEvent:
        if not is_foreign(settings, payload):
            raise
        # Which of theirs cannot be read is none of our business.
        return WebhookEvent(id=event_id, kind=EventKind.ignored, reason=Outcome.other_company)
    return dataclasses.replace(event, payload=payload)


def is_foreign(settings: Settings, payload: JSON) -> bool:
    """Whether an event is of another company: an app hears of all that installed it."""
    companies = settings.whop_company_id
    return bool(companies) and whop_events.company_of(payload) not in companies
