"""What a code looks like, and how it is found in what people type, paste and click."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

#: 32 symbols that cannot be mistaken for one another: no 0 and O, no 1 and I.
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
LENGTH = 8

#: What somebody chose.
_ANY = re.compile("[A-Z0-9]{3,32}")
_GENERATED = re.compile(f"[{ALPHABET}]{{{LENGTH}}}")
#: Longer texts, a link with a long tail included, hold no code.
_LONGEST_INPUT = 2048

# Once a text is folded: what may stand between the symbols of a code, and what around it.
_SEPARATORS = re.compile(r"[\s\x00-\x1f\x7f-]+")
_STRAY = re.compile(r"[^\w\s\x00-\x1f\x7f-]|_")
_LINK_MARKS = re.compile(r"[/?&=#;]")
# A second link may follow the first without a blank.
_WORDS = re.compile(r"\s+|(?=https?:/)", re.IGNORECASE)
_SITE = re.compile(r"https?:/{1,2}[^/?&#;]*", re.IGNORECASE)
# "&amp;ref=" comes from a page's source, "?a=b?ref=" from somebody who appends.
_PARTS = re.compile("[?&#;]")
# A keycap such as 1 in a square is a digit and two marks.
_KEYCAP = re.compile("[0-9#*]\ufe0f?\u20e3")
# Stands for every letter, mark and digit that no code has.
_FOREIGN = "\N{LATIN SMALL LETTER SHARP S}"
_MINUS = "\N{MINUS SIGN}"
_INFORMATION = "\N{INFORMATION SOURCE}"
# Nothing is seen of these, though they are marks, letters or symbols for Unicode: the combining
# grapheme joiner, fillers of Hangul, vowels of Khmer, Mongolian and other variation selectors, an
# empty cell of Braille.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)


def normalize_code(
    text: str | None, query_param: str = "ref", *, is_vanity: bool = False
) -> str | None:
    """Return the code that somebody typed, pasted or clicked, as it is stored.

    Spaces, dashes and what cannot be seen are dropped between its symbols, punctuation and emoji
    around it. Letters become upper case and full-width forms plain ones (Unicode's NFKC). A link
    counts for its parameter ``query_param``, else for the end of its path.

    :param text: anything from outside; of more than 2048 characters nothing is read.
    :param is_vanity: whether it may be a code that somebody chose: then it is the whole text, or
        where a link leads.
    :return: eight symbols of :data:`ALPHABET`, with ``is_vanity`` also 3 to 32 letters from A to Z
        and digits; None where the text can be no code, or could be read as two.
    """
    if not isinstance(text, str) or len(text) > _LONGEST_INPUT:
        return None
    if _GENERATED.fullmatch(text):
        # Nearly all are written as they were given out.
        return text
    folded = _fold(text)
    if len(_pieces(folded)) == 1 or _LINK_MARKS.search(folded) is None:
        found = _codes(folded)
    else:
        found = _read_words(folded, query_param.lower())
    if len(found) != 1 and is_vanity:
        return _chosen(folded, query_param.lower())
    return found.pop() if len(found) == 1 else None


def _chosen(text: str, query_param: str) -> str | None:
    """Return the code of any form that a folded text is, or that a single link in it leads to.

    Each word of a sentence or of a path could be one, so only the whole text counts, or the end
    of the path and the parameter.
    """
    if _LINK_MARKS.search(text) is not None:
        links = [word for word in _WORDS.split(text) if _LINK_MARKS.search(word)]
        site = _SITE.search(links[0])
        path, *rest = _PARTS.split(links[0][site.end() :] if site else links[0])
        parts = (part.partition("=") for part in (path, *rest))
        named = [value for name, _, value in parts if _last(name).lower() == query_param]
        found = named or [_last(path.rstrip("/"))]
        if len(links) != 1 or len(found) != 1:
            return None
        (text,) = found
    pieces = _pieces(text)
    if len(pieces) != 1 or not pieces[0].isascii():
        return None
    code = pieces[0].upper()
    return code if _ANY.fullmatch(code) else None


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _as_code(text: str) -> str | None:
    # Some letters outside ASCII are raised to letters of the alphabet.
    code = text.upper() if text.isascii() else text
    return code if _GENERATED.fullmatch(code) else None


def _pieces(text: str) -> list[str]:
    """Return what stands between the punctuation of a folded text, without separators."""
    pieces = (_SEPARATORS.sub("", piece) for piece in _STRAY.split(text))
    return [piece for piece in pieces if piece]


def _codes(text: str) -> set[str]:
    return {code for code in map(_as_code, _pieces(text)) if code is not None}


def _read_words(text: str, query_param: str) -> set[str]:
    """Return the codes of a folded text that has links, or parts of some, in it."""
    found: set[str] = set()
    plain: list[str] = []
    for word in _WORDS.split(text):
        if _LINK_MARKS.search(word) is None:
            plain.append(word)
            continue
        found |= _codes(" ".join(plain)) | _read_link(word, query_param)
        plain = []
    return found | _codes(" ".join(plain))


def _read_link(word: str, query_param: str) -> set[str]:
    """Return the codes that a link can mean: several where it is not clear which."""
    site = _SITE.search(word)
    path, *rest = _PARTS.split(word[site.end() :] if site else word)
    named: set[str] = set()
    for part in (path, *rest):
        name, _, value = part.partition("=")
        if name.rpartition("/")[2].lower() == query_param:
            named |= _codes(value)
    segments = path.partition("=")[0].split("/")
    has_site = site is not None
    if not has_site and len(segments) > 1 and len(_pieces(segments[0])) > 1:
        has_site = True  # a host without its scheme
        del segments[0]
    is_bare = not has_site and bool(_codes(segments[0]))
    segments = [each for each in segments if _pieces(each)]
    if not segments:
        return named
    *before, last = segments
    ends, others = _codes(last), {code for each in before for code in _codes(each)}
    if not is_bare:
        # A path has words of the site's own, and "/referral/…" looks like a code, too.
        others = {code for code in others if not code.isalpha()}
        if named and "r" not in (each.lower() for each in before[-1:]):
            # So does "/features?ref=…".
            ends = {code for code in ends if not code.isalpha()}
    return named | ends | others


def _fold(text: str) -> str:
    """Return a text with plain letters and digits where it has forms of them."""
    if "%" in text:
        text = unquote(text)
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", UNSEEN.sub("", _KEYCAP.sub("*", text)))
    return "".join(map(_fold_character, text))


def _fold_character(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category in ("Pd", "Zs", "Zl", "Zp", "Cc") or character == _MINUS:
        return " "
    # The forms of a symbol may be letters: a trade mark is "TM".
    if category in ("So", "Sk", "No", "Nl", "Cs", "Co", "Cn") or character == _INFORMATION:
        return "*"
    plain = unicodedata.normalize("NFKC", character)
    is_letter = category[0] in "LMN" and not plain.isascii()
    return _FOREIGN if is_letter else plain if plain.isascii() else "*"
