"""Where a visit came from: what its link was tagged with, else the site that led here."""

from __future__ import annotations

import re
import typing as t

from .spelling import UNSEEN

#: Of each of a link's tags.
LENGTH = 64
#: A host name (RFC 1035, section 2.3.4) is no longer.
SITE_LENGTH = 255
#: The source of a code that was typed, where there was no visit.
CODE = "code"
#: In statistics: all that is not listed by itself.
OTHER = "other"
#: What no visit can be from, so that each of these means one thing.
RESERVED = frozenset((CODE, OTHER))
#: More than this of a text is not looked at.
_LONGEST_INPUT = 2048
_SITE = re.compile(r"[^/]*//(?:www\.)?(\[[^\]/]*\]|[^/:]*)")


class Tags(t.NamedTuple):
    """What a link says of itself, cleaned; the names are those that web analytics agreed on."""

    #: ``utm_source``, as ``newsletter``; case folded
    source: str | None = None
    #: ``utm_medium``, as ``email``; case folded
    medium: str | None = None
    #: ``utm_campaign``, as ``Summer 2026``
    campaign: str | None = None


NO_TAGS = Tags()


def tags(source: str | None, medium: str | None, campaign: str | None) -> Tags:
    """Return the tags of a link, cleaned."""
    return Tags(clean(source, is_folded=True), clean(medium, is_folded=True), clean(campaign))


def clean(text: str | None, length: int = LENGTH, *, is_folded: bool = False) -> str | None:
    """Return what can be seen of a text from outside, at most ``length`` characters of it.

    :param is_folded: whether upper and lower case are one.
    :return: None where nothing is left.
    """
    kept = UNSEEN.sub("", (text or "")[:_LONGEST_INPUT])
    kept = "".join(character for character in kept if character.isprintable())
    if is_folded:
        kept = kept.casefold()
    return kept.strip()[:length].rstrip() or None


def of_visit(tagged: Tags, referrer_url: str | None) -> str | None:
    """Return the source of a visit; None where it came directly, or nobody knows.

    :param referrer_url: what :func:`flask_referral.clicks.clean_referrer` returned.
    """
    if tagged.source is not None and tagged.source not in RESERVED:
        return tagged.source
    site = None if referrer_url is None else _SITE.match(referrer_url)
    found = clean(site[1], SITE_LENGTH, is_folded=True) if site is not None else None
    return None if found in RESERVED else found
