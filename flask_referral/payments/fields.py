"""Read the fields of a provider's JSON; what is not what its documentation says is refused."""

from __future__ import annotations

import re
import typing as t

from ..errors import InvalidEvent
from .strict_json import JSON

# Printable ASCII: every id of the providers read here is.
_IDENTIFIER = re.compile(r"[!-~]{1,255}")
_CURRENCY = re.compile("[a-z]{3}")


def inside(parent: JSON, name: str) -> JSON:
    """Return an object, or an empty one where there is none."""
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def object_of(parent: JSON, name: str) -> JSON | None:
    """Return an object, or None where there is nothing.

    :raises InvalidEvent: for anything else.
    """
    value = parent.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidEvent(f"The event's {name!r} is not an object.")
    return value


def text(parent: JSON, name: str) -> str | None:
    """Return an id or a word of the provider's, or None where there is nothing.

    :raises InvalidEvent: for anything else.
    """
    value = parent.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise InvalidEvent(f"The event's {name!r} is not text of 1 to 255 ASCII characters.")
    return value


def needed(parent: JSON, name: str) -> str:
    """Return an id or a word of the provider's.

    :raises InvalidEvent: where there is none.
    """
    value = text(parent, name)
    if value is None:
        raise InvalidEvent(f"The event's {name!r} is missing.")
    return value


def id_of(parent: JSON, name: str) -> str | None:
    """Return the id of an object that is named by its id or told whole, or None."""
    if isinstance(value := parent.get(name), dict):
        return needed(value, "id")
    return text(parent, name)


def code(data: JSON) -> str | None:
    """Return how the provider writes the currency, in lower case, or None."""
    currency = text(data, "currency")
    return currency and currency.lower()


def currency(data: JSON) -> str | None:
    """Return a currency whose decimals are known; some providers have what no standard lists."""
    written = code(data)
    return written if written and _CURRENCY.fullmatch(written) else None


def first(objects: t.Iterable[JSON], names: t.Iterable[str]) -> t.Any:
    """Return the first of these fields that is there, or None."""
    keys = list(names)
    values = (each.get(key) for each in objects for key in keys)
    return next((value for value in values if value not in (None, "")), None)
