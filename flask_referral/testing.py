"""For the tests of applications: visits, signed deliveries, and the extension's clock.

Plain functions; with ``pytest_plugins = ["flask_referral.testing"]`` in a ``conftest.py`` they are
fixtures of the same names too, and ``travel`` ends with its test.

PYTEST_DONT_REWRITE: it may be imported before pytest takes it for a plugin.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import itertools
import json
import sys
import typing as t

from flask import current_app
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from . import clock
from .errors import ReferralError
from .host.state import current_state
from .settings import decode_secret

#: What a visitor's browser calls itself.
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"

_numbers = itertools.count(1)


def referral_visit(
    client: FlaskClient, code: str, *, path: str | None = None, **options: t.Any
) -> TestResponse:
    """Follow a share link as a person's browser does; the client then has the visit's cookie.

    :param client: a test client of the application: one for each visitor.
    :param path: a page of the application that is visited with ``?ref=CODE`` instead.
    :param options: of ``client.get``, such as ``headers`` or ``environ_base``.
    :return: the response: the redirect to the landing page, or the page.
    """
    app = client.application
    with app.app_context():
        settings = current_state().settings
    if path is None:
        path = _path(app, "referral_links.follow", code=code)
    else:
        options["query_string"] = {**options.get("query_string", {}), settings.query_param: code}
    headers = {"User-Agent": BROWSER, "Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}
    headers |= dict(options.pop("headers", {}))
    return client.get(path, headers=headers, **options)


def signed_delivery(
    provider: t.Literal["whop", "stripe"],
    event: t.Mapping[str, t.Any] | bytes,
    *,
    secret: str | None = None,
    id: str | None = None,
    at: dt.datetime | None = None,
) -> dict[str, t.Any]:
    """Return what ``client.post(**...)`` takes to deliver an event as its provider signs it.

    It is called in the application's context, ``with app.app_context():``.

    :param event: what the provider sends, or the raw body.
    :param secret: the webhook's; default: the application's, of several the first.
    :param id: the delivery's; default: a new one. Stripe has no other than the event's own.
    :param at: when it is sent; default: now.
    :raises ReferralError: for another provider, or without a secret.
    """
    key = f"REFERRAL_{provider.upper()}_WEBHOOK_SECRET"
    configured = current_app.config.get(key) or ()
    known = [configured] if isinstance(configured, str) else configured
    secret = secret or next(iter(known), None)
    if not secret:
        raise ReferralError(f"{provider}'s webhook has no secret: set {key}, or pass secret=.")
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return {
        "path": _path(current_app, "referral.webhook", provider=provider),
        "data": body,
        "content_type": "application/json",
        "headers": signature(provider, body, secret=secret, id=id, at=at),
    }


def signature(
    provider: t.Literal["whop", "stripe"],
    body: bytes,
    *,
    secret: str,
    id: str | None = None,
    at: dt.datetime | None = None,
) -> dict[str, str]:
    """Return the headers by which a provider signs a body; see :func:`signed_delivery`.

    :raises ReferralError: for another provider.
    """
    moment = str(int((at or clock.now()).timestamp()))
    secret = secret.strip()
    if provider == "whop":
        # github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
        id = id or f"msg_{next(_numbers)}"
        signed = f"{id}.{moment}.".encode() + body
        digest = hmac.digest(decode_secret(secret), signed, hashlib.sha256)
        text = f"v1,{base64.b64encode(digest).decode()}"
        return {"webhook-id": id, "webhook-timestamp": moment, "webhook-signature": text}
    if provider == "stripe":
        # https://docs.stripe.com/webhooks#verify-manually. The key is the secret as it is, its
        # "whsec_" included: stripe-python, WebhookSignature.
        signed = f"{moment}.".encode() + body
        hexadecimal = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        return {"Stripe-Signature": f"t={moment},v1={hexadecimal}"}
    raise ReferralError(f"{provider!r} is no provider whose signature is known: whop, stripe.")


def _path(app: Flask, endpoint: str, **values: str) -> str:
    # The host may have mounted the blueprints where it likes.
    return app.url_map.bind("").build(endpoint, values)


class Travel:
    """A journey of the extension's clock, which goes on ticking; :meth:`end` brings it home.

    Windows, holds, maturity and signatures live by it. Your database does not: a default such as
    ``now()`` dates a new account by the real time, so give accounts of the future their
    ``created_at``.
    """

    def __init__(self) -> None:
        self._home = clock.now
        self._way = dt.timedelta()
        clock.now = self._now

    def _now(self) -> dt.datetime:
        return self._home() + self._way

    def __call__(self, **amount: float) -> dt.datetime:
        """Move on by the arguments of :class:`datetime.timedelta`; return the new time (UTC)."""
        self._way += dt.timedelta(**amount)
        return clock.now()

    def end(self) -> None:
        """Return to the time that it was."""
        clock.now = self._home


@contextlib.contextmanager
def travel(**amount: float) -> t.Iterator[Travel]:
    """Move the extension's clock for the length of a block, as in ``with travel(days=14):``.

    :param amount: the arguments of :class:`datetime.timedelta`.
    :return: the :class:`Travel`, which can be called to move further.
    """
    journey = Travel()
    try:
        journey(**amount)
        yield journey
    finally:
        journey.end()


# pytest imports its plugins; whoever has another runner gets the functions alone.
if "pytest" in sys.modules:
    import pytest

    @pytest.fixture(name="referral_visit")
    def _referral_visit() -> t.Callable[..., TestResponse]:
        """Return :func:`referral_visit`."""
        return referral_visit

    @pytest.fixture(name="signed_delivery")
    def _signed_delivery() -> t.Callable[..., dict[str, t.Any]]:
        """Return :func:`signed_delivery`."""
        return signed_delivery

    @pytest.fixture(name="travel")
    def _travel() -> t.Iterator[Travel]:
        """Return a :class:`Travel` that ends with the test."""
        with travel() as journey:
            yield journey
