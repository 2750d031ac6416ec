"""The code in a request's query string, however the link was mangled on its way."""

from __future__ import annotations

import re
import typing as t
from urllib.parse import unquote_plus

from flask import request

from .. import codes
from ..settings import Settings

# "&amp;ref=" comes from a page's source, "?a=b?ref=" from somebody who appends to a link.
_PARTS = re.compile("[?&;]")


def given(settings: Settings) -> list[str]:
    """Return what this request's query has under ``REFERRAL_QUERY_PARAM``, decoded."""
    query: str = request.environ.get("QUERY_STRING", "")
    if settings.query_param not in query:
        return []
    found = []
    for part in _PARTS.split(query.encode("latin-1", "replace").decode(errors="replace")):
        name, is_given, value = part.partition("=")
        if is_given and name == settings.query_param:
            found.append(unquote_plus(value))
    return found


def first_code(values: t.Iterable[str], settings: Settings) -> str | None:
    """Return the first value that is a code, normalised; it may be nobody's."""
    found = (codes.normalize_code(value, settings.query_param) for value in values)
    return next((code for code in found if code is not None), None)
