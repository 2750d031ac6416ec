"""Read JSON that comes from outside, without what Python adds to it or lets through."""

from __future__ import annotations

import decimal
import json
import typing as t

from ..errors import InvalidEvent

JSON = dict[str, t.Any]


def load_object(body: bytes) -> JSON:
    """Return the JSON object in a webhook's body; numbers with a point are ``Decimal``.

    RFC 8259 asks for UTF-8, leaves open what a repeated key means, and has no NaN.

    :raises InvalidEvent: for anything but an object in UTF-8 with unique keys, finite numbers and
        a depth that Python's parser takes.
    """
    try:
        # Decoded here: json.loads guesses among UTF-8, -16 and -32.
        value = json.loads(
            body.decode(),
            parse_float=decimal.Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    # The last is no ValueError; an exponent of twenty digits raises it.
    except (ValueError, RecursionError, decimal.InvalidOperation):
        raise InvalidEvent(
            "The body is not JSON in UTF-8 with unique keys and finite numbers."
        ) from None
    if not isinstance(value, dict):
        raise InvalidEvent("The body is not a JSON object.")
    return value


def _refuse_constant(name: str) -> t.NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, t.Any]]) -> JSON:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a key appears twice")
    return unique
