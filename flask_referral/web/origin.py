"""Refusing requests that another site made a browser send."""

from __future__ import annotations

import typing as t
from urllib.parse import urlsplit

from flask import abort
from flask import request

from .errors import error_response
from .errors import ErrorCode

if t.TYPE_CHECKING:
    from ..settings import Settings

# A browser adds these by itself, to requests that another site causes too.
_SENT_BY_BROWSERS = frozenset({"basic", "digest", "hoba", "mutual", "negotiate", "ntlm"})


def refuse_cross_site(settings: Settings) -> None:
    """Abort with 403, in JSON, where :func:`is_cross_site`."""
    if is_cross_site(settings):
        message = (
            "Requests from other sites are refused; send this one from the site itself, or name "
            "the page's origin in REFERRAL_TRUSTED_ORIGINS."
        )
        abort(error_response(message, 403, ErrorCode.cross_site))


def is_cross_site(settings: Settings) -> bool:
    """Whether a browser says that another site's page sends this request.

    The pages of ``REFERRAL_TRUSTED_ORIGINS`` are none; a browser tells the origin with every POST.

    ``Sec-Fetch-Site`` is defined in W3C Fetch Metadata, ``Origin`` in the Fetch standard. A
    request with neither comes from no browser of this decade, and one with a token in
    ``Authorization`` does not rely on a cookie: another site cannot add that header.
    """
    scheme = request.headers.get("Authorization", "").strip().partition(" ")[0].lower()
    if scheme and scheme not in _SENT_BY_BROWSERS:
        return False
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if origin in settings.trusted_origins:
        return False
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        allowed = origin is None or _is_own(origin)
    return not allowed


def _is_own(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    # Behind a proxy that ends TLS a request may look like plain HTTP. The other way round, a
    # page that came over plain HTTP may be anybody's.
    return parts.netloc == request.host and parts.scheme in (request.scheme, "https")
