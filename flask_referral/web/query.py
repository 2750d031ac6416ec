"""The code in a request's query string, however the link was mangled on its way."""

from __future__ import annotations

import re
import typing as t
from urllib.parse import unquote_plus

from flask import request

from .. import codes
from .. import sources
from ..settings import Settings
from ..sources import Tags

# "&amp;ref=" comes from a page's source, "?a=b?ref=" from somebody who appends to a link.
_PARTS = re.compile("[?&;]")
#: What the parameters are called that links are tagged with, up to their last word.
_TAG = "utm_"


def given(settings: Settings) -> list[str]:
    """Return what this request's query has under ``REFERRAL_QUERY_PARAM``, decoded."""
    query: str = request.environ.get("QUERY_STRING", "")
    if settings.query_param not in query:
        return []
    return [value for name, value in _pairs(query) if name == settings.query_param]


def tags() -> Tags:
    """Return what this request's link was tagged with; of a repeated tag the first that says any.

    The parameters are those of
    https://support.google.com/analytics/answer/10917952.
    """
    query: str = request.environ.get("QUERY_STRING", "")
    if _TAG not in query:
        return sources.NO_TAGS
    found: dict[str, str] = {}
    for name, value in _pairs(query):
        if name.startswith(_TAG) and value.strip():
            found.setdefault(name, value)
    return sources.tags(*(found.get(f"{_TAG}{field}") for field in Tags._fields))


def _pairs(query: str) -> t.Iterator[tuple[str, str]]:
    for part in _PARTS.split(query.encode("latin-1", "replace").decode(errors="replace")):
        name, is_given, value = part.partition("=")
        if is_given:
            yield name, unquote_plus(value)


def first_code(values: t.Iterable[str], settings: Settings) -> str | None:
    """Return the first value that is a code, normalised; it may be nobody's."""
    found = (codes.normalized(value, settings) for value in values)
    return next((code for code in found if code is not None), None)
