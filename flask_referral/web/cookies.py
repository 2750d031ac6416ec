"""What a visitor's browser remembers of a click, signed: the cookie, and the OAuth state."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import re
import typing as t
import uuid

from flask import current_app
from flask import request
from flask import Response
from itsdangerous import BadSignature
from itsdangerous import Signer

from .. import clock
from .. import eligibility
from ..clicks import Touch
from ..errors import ConfigurationError

if t.TYPE_CHECKING:
    from ..settings import Settings
COOKIE = b"flask-referral visit cookie"
CARRIED = b"flask-referral carried visit"

# Version, code, the click's id, seconds since 1970 (UTC); then itsdangerous' signature.
_TOUCH = re.compile(r"1\.([A-Z0-9]{3,32})\.([0-9a-f]{32})\.([0-9]{1,12})", re.ASCII)
_SIGNED = re.compile(f"{_TOUCH.pattern}[.]", re.ASCII)
_LONGEST = 256


def secret() -> bytes:
    """Return the application's secret key.

    :raises ConfigurationError: where there is none.
    """
    return _secrets()[-1]


def read(settings: Settings) -> Touch | None:
    """Return the visit in this request's cookies; None where they hold none of ours.

    A browser sends several of one name where a parent domain has set one too. Of those that count
    it is the newest, or with touch ``first`` the oldest; where none does, the newest of all.
    """
    values = request.cookies.getlist(settings.cookie_name)
    touches = [touch for value in values if (touch := verify(value, COOKIE)) is not None]
    if len(touches) < 2:
        return touches[0] if touches else None
    counting = [touch for touch in touches if _counts(touch, settings)]
    choose = min if counting and settings.touch == "first" else max
    return choose(counting or touches, key=lambda touch: touch.at)


def write(response: Response, touch: Touch, settings: Settings, now: dt.datetime) -> None:
    """Set the cookie. It goes when the attribution window ends; the server looks by itself too."""
    age = max(0, int((now - touch.at).total_seconds()))
    response.set_cookie(
        settings.cookie_name,
        sign(touch, COOKIE),
        max_age=settings.cookie_max_age - age,
        domain=settings.cookie_domain,
        secure=bool(settings.cookie_secure),
        httponly=True,
        samesite=settings.cookie_samesite,
    )


def current_touch(settings: Settings) -> Touch | None:
    """Return the visit in this request's cookies while it counts."""
    touch = read(settings)
    return touch if touch is not None and _counts(touch, settings) else None


def sign(touch: Touch, salt: bytes) -> str:
    """Return a visit as text that only this application can have made."""
    value = f"1.{touch.code}.{touch.click_id.hex}.{int(touch.at.timestamp())}"
    return _signer(salt).sign(value).decode()


def is_signed(text: str) -> bool:
    """Whether a text looks like what :func:`sign` makes; that says nothing of its signature."""
    return len(text) <= _LONGEST and _SIGNED.match(text) is not None


def verify(text: str, salt: bytes) -> Touch | None:
    """Return the visit that :func:`sign` made this text of; None for any other text."""
    if not is_signed(text) or not text.isascii():
        return None
    try:
        value = _signer(salt).unsign(text).decode()
    except BadSignature:
        return None
    match = _TOUCH.fullmatch(value)
    if match is None:
        return None
    code, click_id, seconds = match.groups()
    try:
        at = dt.datetime.fromtimestamp(int(seconds), dt.UTC)
    except (OverflowError, ValueError):
        return None
    return Touch(uuid.UUID(click_id), code, at)


def _counts(touch: Touch, settings: Settings) -> bool:
    window = dt.timedelta(seconds=settings.cookie_max_age)
    return eligibility.is_in_window(touch.at, clock.now(), window)


def _signer(salt: bytes) -> Signer:
    return _signer_with(_secrets(), salt)


@functools.lru_cache(maxsize=16)
def _signer_with(secrets: tuple[bytes, ...], salt: bytes) -> Signer:
    return Signer(list(secrets), salt, key_derivation="hmac", digest_method=hashlib.sha256)


def _secrets() -> tuple[bytes, ...]:
    """Return the keys that may have signed, the one that signs last."""
    key = current_app.secret_key
    if not key:
        raise ConfigurationError(
            "flask-referral signs its cookie with the application's key: set SECRET_KEY."
        )
    # Flask 3.1 knows keys that are being replaced.
    keys = [*(current_app.config.get("SECRET_KEY_FALLBACKS") or ()), key]
    return tuple(item.encode() if isinstance(item, str) else item for item in keys)
