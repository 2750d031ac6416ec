"""Who reads the deliveries of which provider."""

from __future__ import annotations

import typing as t

from ..errors import ConfigurationError
from ..errors import UnknownProvider
from . import stripe
from . import whop
from .events import EventKind
from .events import Headers
from .events import WebhookEvent
from .events import WebhookReader

if t.TYPE_CHECKING:
    from ..host.state import State

#: Registered for every host as its own readers are; each is silent until its secret is set.
BUILT_IN: t.Final[dict[str, WebhookReader]] = {stripe.NAME: stripe.read, whop.NAME: whop.read}


def set_up(state: State) -> tuple[str, ...]:
    """Return the providers whose deliveries are taken, in the order of their names."""
    secrets = {
        stripe.NAME: state.settings.stripe_webhook_secret,
        whop.NAME: state.settings.whop_webhook_secret,
    }
    return tuple(name for name in sorted(state.loaders.webhooks) if secrets.get(name, True))


def read(state: State, provider: str, body: bytes, headers: Headers) -> WebhookEvent:
    """Let the provider's reader verify and read a delivery.

    :raises UnknownProvider: where there is none, or it is not set up.
    :raises InvalidSignature: where the delivery is not the provider's.
    :raises InvalidEvent: where it cannot be read.
    :raises ConfigurationError: where the reader returns no event.
    """
    reader = state.loaders.webhooks.get(provider)
    if reader is None:
        raise UnknownProvider()
    event = reader(body, headers)
    if not isinstance(event, WebhookEvent):
        raise ConfigurationError(
            f"The function of @referral.webhook({provider!r}) returned a "
            f"{type(event).__name__}: let it return a flask_referral.WebhookEvent for every "
            "delivery, with kind='ignored' where nothing is to be done."
        )
    return event


def is_foreign(state: State, provider: str, event: WebhookEvent) -> bool:
    """Whether an event is of a company that is not the host's."""
    if provider != whop.NAME or event.payload is None:
        return False
    return whop.is_foreign(state.settings, event.payload)


def buyer(state: State, provider: str, event: WebhookEvent) -> t.Any:
    """Return who pays, as the provider's user loader says or, without one, the event itself."""
    loader = state.loaders.users.get(provider)
    if loader is None or event.payload is None or event.kind is not EventKind.purchase:
        return event.user
    return loader(event.payload)
