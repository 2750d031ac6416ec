"""Texts from outside on a terminal, which obeys what it shows."""

from __future__ import annotations

import unicodedata

#: Control characters, what is not seen or turns the order of letters around (such as bidi marks),
#: lone surrogates, what is not assigned, and separators that begin a line.
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"))


def printable(text: str, *, keep: str = "\n") -> str:
    """Return a text in which a terminal finds nothing to obey: ``\\x1b`` instead of the byte.

    :param keep: what is shown all the same; for a single value from outside, nothing.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in _UNSAFE
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def value(given: object) -> str:
    """Return one value from outside, on one line."""
    return printable(str(given), keep="")


def width(text: str) -> int:
    """Return how many places a printable text takes: wide letters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )
