"""Stripe's webhooks: verified, and read."""

from __future__ import annotations

import dataclasses

from .. import clock
from ..errors import UnknownProvider
from ..host.state import current_state
from . import signatures
from . import stripe_events
from .events import Headers
from .events import WebhookEvent
from .strict_json import load_object

#: The provider's name in URLs and rows.
NAME = "stripe"


def read(body: bytes, headers: Headers) -> WebhookEvent:
    """Verify and read a delivery; a :data:`~.events.WebhookReader`.

    Test mode and live mode have secrets of their own, so the secrets decide which of them counts.

    :raises UnknownProvider: without ``REFERRAL_STRIPE_WEBHOOK_SECRET``.
    :raises InvalidSignature: where none of its secrets signed the delivery.
    :raises InvalidEvent: where it is not what Stripe sends.
    """
    secrets = current_state().settings.stripe_webhook_secret
    if not secrets:
        raise UnknownProvider()
    signatures.verify_stripe(body, headers, secrets, now=clock.now().timestamp())
    payload = load_object(body)
    event = stripe_events.read(payload)
    if stripe_events.is_intent(payload):
        # The host's function knows checkouts and invoices; of an intent the metadata decides.
        return event
    return dataclasses.replace(event, payload=payload)
