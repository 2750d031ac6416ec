"""Sign and verify webhook deliveries.

:func:`sign` and :func:`verify` know Standard Webhooks 1.0
(github.com/standard-webhooks/standard-webhooks, ``spec/standard-webhooks.md``), symmetric
signatures ``v1`` only; :func:`verify_stripe` the scheme
``v1`` of Stripe (docs.stripe.com/webhooks/signature; github.com/stripe/stripe-python,
``stripe/_webhook.py``).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import typing as t

from ..errors import InvalidSignature

if t.TYPE_CHECKING:
    from .events import Headers
#: Seconds that a delivery's clock may be behind or ahead of ours.
TOLERANCE = 300

# What is signed is "id.timestamp.body". Without a full stop in the id there is one way only to
# read it; the id is stored too, so nothing that a database would refuse gets in.
_ID = re.compile(r"[!-\-/-~]{1,255}")
# Not \d, which takes the digits of every script.
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
# Twenty signatures, far more than any rotation sends.
_LONGEST_SIGNATURES = 1024


def sign(body: bytes, event_id: str, timestamp: str, keys: t.Sequence[bytes]) -> str:
    """Return the ``webhook-signature`` of a delivery: one for each key, with blanks between.

    :param timestamp: whole seconds since 1970 (UTC).
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    return b" ".join(_sign(signed, key) for key in keys).decode()


def verify(body: bytes, headers: Headers, keys: t.Sequence[bytes], *, now: float) -> str:
    """Return the event's id, which is the same in every retry, if one of the keys signed it.

    :param body: the request's body as it arrived.
    :param headers: anything with ``get``; plain mappings need lower-case names.
    :param keys: each may have signed the delivery; several while one is rotated.
    :param now: this moment in seconds since 1970 (UTC).
    :raises InvalidSignature: for whatever is wrong with a delivery.
    """
    event_id = _header(headers, "webhook-id", _ID)
    timestamp = _header(headers, "webhook-timestamp", _TIMESTAMP)
    _check_clock(timestamp, now)
    signatures = headers.get("webhook-signature")
    if not isinstance(signatures, str) or len(signatures) > _LONGEST_SIGNATURES:
        raise InvalidSignature("The webhook-signature header is missing or malformed.")
    signed = f"{event_id}.{timestamp}.".encode() + body
    _check_any(signatures.split(" "), [_sign(signed, key) for key in keys])
    return event_id


def verify_stripe(body: bytes, headers: Headers, keys: t.Sequence[bytes], *, now: float) -> None:
    """Check that one of the keys signed a delivery of Stripe's.

    :param keys: the endpoint's secrets, ``whsec_`` included; several while one is rolled.
    :param now: this moment in seconds since 1970 (UTC).
    :raises InvalidSignature: for whatever is wrong with a delivery.
    """
    header = headers.get("stripe-signature")
    if not isinstance(header, str) or len(header) > _LONGEST_SIGNATURES:
        raise InvalidSignature("The stripe-signature header is missing or malformed.")
    told = [part.partition("=") for part in header.split(",")]
    timestamps = [value for name, _, value in told if name == "t"]
    if len(timestamps) != 1 or not _TIMESTAMP.fullmatch(timestamps[0]):
        raise InvalidSignature("The stripe-signature header has no timestamp.")
    _check_clock(timestamps[0], now)
    signed = f"{timestamps[0]}.".encode() + body
    expected = [hmac.digest(key, signed, hashlib.sha256).hex().encode() for key in keys]
    _check_any([value for name, _, value in told if name == "v1"], expected)


def _check_clock(timestamp: str, now: float) -> None:
    # Written so that a clock that is no number refuses.
    if not abs(now - int(timestamp)) <= TOLERANCE:
        raise InvalidSignature(
            f"The webhook's timestamp is more than {TOLERANCE} seconds from this server's clock."
        )


def _check_any(signatures: t.Iterable[str], expected: t.Sequence[bytes]) -> None:
    matches = [
        hmac.compare_digest(signature.encode(errors="replace"), good)
        for signature in signatures
        for good in expected
    ]
    if not any(matches):
        raise InvalidSignature()


def _header(headers: Headers, name: str, pattern: re.Pattern[str]) -> str:
    value = headers.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidSignature(f"The {name} header is missing or malformed.")
    return value


def _sign(signed: bytes, key: bytes) -> bytes:
    # Compared as text: of the four ways to write 32 bytes in base64, one is valid.
    return b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
