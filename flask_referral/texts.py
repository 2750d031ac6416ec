"""Texts from outside, as databases take them."""

from __future__ import annotations

import re
import typing as t

from .errors import ReferralError

LONGEST_REASON = 500
# NUL and lone surrogates, which JSON allows and databases refuse.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def cleaned_text(text: str) -> str:
    """Return a text without what databases refuse: NUL and lone surrogates."""
    return _UNSTORABLE.sub("", text)


def checked_reason(reason: t.Any) -> str:
    """Return why an operator does something, for the record.

    :raises ReferralError: where it is no text of 1 to :data:`LONGEST_REASON` characters.
    """
    cleaned = cleaned_text(reason).strip() if isinstance(reason, str) else ""
    if not 0 < len(cleaned) <= LONGEST_REASON:
        raise ReferralError(f"Say why, for the record, in 1 to {LONGEST_REASON} characters.")
    return cleaned
