"""Stripe's webhooks: verified, with the host's user as the buyer."""

from __future__ import annotations

import dataclasses

from .. import clock
from ..errors import UnknownProvider
from ..host.state import current_state
from . import signatures
from . import stripe_events
from .events import EventKind
from .events import Headers
from .events import WebhookEvent
from .strict_json import load_object


def read(body: bytes, headers: Headers) -> WebhookEvent:
    """Verify and read a delivery; a :data:`~.events.WebhookReader`.

    Test mode and live mode have secrets of their own, so the secrets decide which of them counts.

    :raises UnknownProvider: without ``REFERRAL_STRIPE_WEBHOOK_SECRET``.
    :raises InvalidSignature: where none of its secrets signed the delivery.
    :raises InvalidEvent: where it is not what Stripe sends.
    """
    state = current_state()
    secrets = state.settings.stripe_webhook_secret
    if not secrets:
        raise UnknownProvider()
    signatures.verify_stripe(body, headers, secrets, now=clock.now().timestamp())
    payload = load_object(body)
    event = stripe_events.read(payload)
    loader = state.loaders.stripe_user
    # An intent that does not say whose it is belongs to a checkout or an invoice.
    if loader is None or event.kind is not EventKind.purchase or stripe_events.is_intent(payload):
        return event
    return dataclasses.replace(event, user=loader(payload))
