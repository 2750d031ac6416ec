"""What the JSON API answers and takes, where no result of :mod:`~..results` says it already."""

from __future__ import annotations

import typing as t

from ..results import ReferralEntry


class OwnCode(t.TypedDict):
    """The current user's code.

    :param code: the code.
    """

    code: str


class ChosenCode(t.TypedDict):
    """The word that is to be the current user's code.

    :param code: 3 to 32 letters from A to Z and digits, in any case and with dashes.
    """

    code: str


class CheckedCode(t.TypedDict):
    """Whether a code may be used.

    :param code: as it is written; a text that is none, shortened, as it came.
    :param valid: whether somebody has it.
    """

    code: str
    valid: bool


class ReferralPage(t.TypedDict):
    """Some of those whom the current user brought, newest first.

    :param referrals: the entries.
    :param next: what `before` takes to go on, or null where this is all.
    """

    referrals: list[ReferralEntry]
    next: str | None


class Delivered(t.TypedDict):
    """What came of a delivery.

    :param outcome: in a word.
    """

    outcome: str


class Refusal(t.TypedDict):
    """An answer that is an error.

    :param error: a sentence, in the reader's language.
    :param code: what it is, in a word that never changes.
    """

    error: str
    code: str
