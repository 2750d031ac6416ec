"""Codes: how they are drawn, and how they are read."""

from __future__ import annotations

import collections
import os
import random
import unicodedata

import nanoid.algorithm
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import flask_referral
from flask_referral.codes import ALPHABET
from flask_referral.codes import generate_referral_code
from flask_referral.codes import normalize_code

DRAWN = 100_000
#: The chi-square distribution with 8 * 31 degrees of freedom exceeds this once in a million.
CRITICAL = 369.0


def test_alphabet() -> None:
    assert ALPHABET == "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    assert len(set(ALPHABET)) == 32
    assert not set("01IO") & set(ALPHABET)


def test_uniform_in_each_position() -> None:
    drawn = [generate_referral_code() for _ in range(DRAWN)]
    assert {len(code) for code in drawn} == {8}
    counts = collections.Counter(
        (position, symbol) for code in drawn for position, symbol in enumerate(code)
    )
    assert {symbol for _, symbol in counts} <= set(ALPHABET)
    expected = DRAWN / 32
    chi_square = sum(
        (counts[position, symbol] - expected) ** 2 / expected
        for position in range(8)
        for symbol in ALPHABET
    )
    assert chi_square < CRITICAL
    # A fair source repeats one code in 220 runs of this test, and three in 60 million.
    assert len(set(drawn)) >= DRAWN - 2


def test_no_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nanoid.algorithm, "urandom", random.Random(8).randbytes)
    assert len({generate_referral_code() for _ in range(DRAWN)}) == DRAWN


def test_drawn_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nanoid.algorithm.urandom is os.urandom
    random.seed(1)
    first = generate_referral_code()
    random.seed(1)
    assert generate_referral_code() != first
    # The code is made of these bytes and nothing else.
    monkeypatch.setattr(nanoid.algorithm, "urandom", bytes)
    assert generate_referral_code() == "22222222"


CODE = "K7M2PQ9X"
OTHER = "EFGH6789"


@pytest.mark.parametrize(
    "text",
    [
        "K7M2PQ9X",
        "K7m2 pQ9x",
        "  K7M2PQ9X\r\n",
        "K-7-M-2-P-Q-9-X",
        "K7M2\N{EN DASH}PQ9X",
        "K7M2\N{NON-BREAKING HYPHEN}PQ9X",
        "K7M2\N{MINUS SIGN}PQ9X",
        "K7M2\N{SOFT HYPHEN}PQ9X",
        "\N{NO-BREAK SPACE}K7M2\N{IDEOGRAPHIC SPACE}PQ9X\t",
        "\N{ZERO WIDTH NO-BREAK SPACE}K7M2PQ9X",
        "\N{RIGHT-TO-LEFT OVERRIDE}K7M2PQ9X\N{POP DIRECTIONAL FORMATTING}",
        "K7M2\N{ZERO WIDTH SPACE}PQ9X\0",
        "\uff2b\uff17\uff2d\uff12\uff30\uff31\uff19\uff38",
        "\U0001d40a7M2PQ9X",  # a mathematician's bold K
        "\N{WRAPPED PRESENT} K7M2PQ9X \N{HEAVY BLACK HEART}\ufe0f",
        "\N{INFORMATION SOURCE}\ufe0f K7M2PQ9X",
        "1\ufe0f\u20e3 K7M2PQ9X",
        "K7M2PQ9X\N{TRADE MARK SIGN}",
        "K7M2PQ9X\N{ACUTE ACCENT}",
        "K7M2PQ9X\udc80",
        "\u201cK7M2PQ9X\u201d\u2026",
        "K7M2PQ9X\u3002",
        "K7M2PQ9X\uff09",
        "_K7M2PQ9X_",
        "K7M2PQ9X'--",
        "K7M2PQ9X=",
        "Mein Code: K7M2 PQ9X!",
        "K7M2PQ9X/",
        "K7M2PQ9X?utm_source=x",
        "/r/K7M2PQ9X&utm_source=x",
        "?utm_source=x&ref=K7M2PQ9X",
        "?utm_source=x&amp;ref=K7M2PQ9X",
        "?utm_source=x?ref=K7M2PQ9X",
        "producthunt&REF=K7M2PQ9X",
        "https://virtuna.example/r/k7m2pq9x",
        "https://virtuna.example/r/K7M2PQ9X/?utm_campaign=SHEPHERD#top",
        "shepherd.example/r/K7M2PQ9X).",
        "<https://virtuna.example/r/K7M2%2DPQ9X%E3%80%82>",
        "https:/virtuna.example/r/K7M2PQ9X",  # as servers write a path
        "https://virtuna.example?ref=K7M2PQ9X",
        # These paths look like codes.
        "https://virtuna.example/features?ref=K7M2PQ9X",
        "https://virtuna.example/referral/K7M2PQ9X",
        "Join me at https://virtuna.example/r/K7M2PQ9X\uff0cquick!",
        "https://virtuna.example/r/K7M2PQ9Xhttps://virtuna.example/r/K7M2PQ9X",
        "K7M2PQ9X https://virtuna.example/r/K7M2PQ9X",
        "https://away.example/l?u=https%3A%2F%2Fvirtuna.example%2Fr%2FK7M2PQ9X&h=1",
    ],
)
def test_ways_to_write_a_code(text: str) -> None:
    assert normalize_code(text) == CODE


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "--------",
        "K7M2PQ9",
        "K7M2PQ9XX",
        "K7M2PQ90",
        "K7M2PQ9O",
        "K7M2PQ91",
        "K7M2PQ9I",
        "K7M2PQ9l\N{COMBINING ACUTE ACCENT}",
        "K7M2PQ9X\N{COMBINING LONG STROKE OVERLAY}",
        "K7M2/PQ9X",
        "K7M2.PQ9X",
        "K7M2_PQ9X",
        "K7M2\N{WRAPPED PRESENT}PQ9X",
        # Letters that become "SS" where they are raised without care, and digits of others.
        "7M2PQ9\N{LATIN SMALL LETTER SHARP S}",
        "\N{ARABIC-INDIC DIGIT THREE}7M2PQ9X",
        "\N{CYRILLIC CAPITAL LETTER KA}7M2PQ9X",
        "K7M2PQ9\udc80",
        "K7M2PQ9X" + " " * 20_000,
        " " * 20_000,
        "-" * 100_000,
        "producthunt",
        "?ref=producthunt",
        "https://virtuna.example/r/",
        "https://shepherd.example/prices",
        "https://virtuna.example/prices?utm_campaign=SHEPHERD",
        12345678,
        b"K7M2PQ9X",
        ["K7M2PQ9X"],
    ],
)
def test_no_code(text: str | None) -> None:
    assert normalize_code(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "{} {}",
        "{}, {}",
        "{}/{}",
        "{}\n{}",
        "?ref={}&ref={}",
        "{}?ref={}",
        "/r/{}?ref={}",
        "https://virtuna.example/r/{}?ref={}",
        "https://virtuna.example/r/{} https://virtuna.example/r/{}",
        "https://virtuna.example/r/{}https://virtuna.example/r/{}",
        "{} https://virtuna.example/r/{}",
    ],
)
@pytest.mark.parametrize("codes", [(CODE, OTHER), ("ABCDEFGH", "JKLMNPQR")])
def test_two_codes_are_none(text: str, codes: tuple[str, str]) -> None:
    assert normalize_code(text.format(*codes)) is None
    assert normalize_code(text.format(*codes[::-1])) is None


def test_link_with_another_parameter() -> None:
    link = "https://virtuna.example/features?via=K7M2PQ9X&ref=EFGH6789"
    assert normalize_code(link, "via") == "K7M2PQ9X"
    assert normalize_code(link) == "EFGH6789"


def test_no_more_than_a_long_link_is_read() -> None:
    assert normalize_code(CODE + " " * 2040) == CODE
    assert normalize_code(CODE + " " * 2041) is None


@pytest.mark.parametrize("text", ["/?", "a/", "https:/", "%F0", "=", "\ufdfa", "&amp;"])
def test_hostile_texts(text: str) -> None:
    assert normalize_code(text * (2048 // len(text))) is None


# Pictures, punctuation and what cannot be seen; blanks and dashes of many kinds.
unseen = st.characters(categories=["Cf", "Zs", "Pd"]) | st.sampled_from(
    "\t\n\0\x85\u2212\ufe0f\u034f\u3164\u2800"
)
stray = st.lists(
    unseen | st.characters(categories=["Po", "Ps", "Pe", "Pi", "Pf", "Pc", "So", "Sc", "Sm", "Sk"]),
    max_size=6,
).map("".join)
codes = st.text(ALPHABET, min_size=8, max_size=8)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, str]:
    """Return a code and a way to write it."""
    code = draw(codes)
    separator = st.text(unseen, max_size=2)
    shift = draw(st.sampled_from([0, 0xFEE0]))  # full width
    symbols = [chr(ord(each) + shift) for each in draw(st.sampled_from([code, code.lower()]))]
    between = "".join(draw(separator) + symbol for symbol in symbols)
    return code, between


@settings(deadline=None, max_examples=500)
@given(written(), stray, stray)
@example((CODE, CODE), "%", "%")
@example((CODE, CODE), "\N{INFORMATION SOURCE}\ufe0f", "=;")
def test_a_code_is_found_whatever_stray_is_put_around_it(
    pair: tuple[str, str], before: str, after: str
) -> None:
    code, text = pair
    assert normalize_code(f"{before}{text}{after}") == code


#: Ends of sentences and of other links; not a letter, nor what begins another code.
ENDS = ("", "/", ".", ")", "/.", "?utm_source=x", "&utm_source=x", "#top", "\u3002", "\uff09", "*")


@settings(deadline=None, max_examples=300)
@given(
    codes,
    st.sampled_from(["", "https://virtuna.example", "http://localhost:5000/shop", "a.example"]),
    st.sampled_from(["/r/{}", "/join/{}", "/?ref={}", "/features?x=1&ref={}", "?a=b&amp;ref={}"]),
    st.sampled_from(ENDS),
    st.sampled_from(["", "\ufeff", "Join: ", "(", "\u200f"]),
)
def test_a_pasted_link_is_its_code(code: str, site: str, form: str, end: str, before: str) -> None:
    assert normalize_code(f"{before}{site}{form.format(code)}{end}") == code


@settings(deadline=None)
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=()), max_size=70),
        st.text(
            ALPHABET
            + ALPHABET.lower()
            + " -/?&=\N{EM DASH}\N{KELVIN SIGN}\N{LATIN SMALL LETTER LONG S}0OI",
            min_size=6,
            max_size=30,
        ),
    )
)
def test_result_is_none_or_a_code_of_the_text(text: str) -> None:
    code = normalize_code(text)
    if code is not None:
        assert len(code) == 8
        assert set(code) <= set(ALPHABET)
        assert normalize_code(code) == code
        # Its symbols stand in the text, in this order.
        rest = iter(unicodedata.normalize("NFKC", text).upper())
        assert all(symbol in rest for symbol in code)


@settings(deadline=None)
@given(codes, st.sampled_from([*"01IOio\u00df\u0416\u0663"]), st.integers(0, 8))
def test_what_has_another_letter_is_no_code(code: str, letter: str, at: int) -> None:
    for text in (code[:at] + letter + code[at:], code[:at] + letter + code[at + 1 :]):
        assert normalize_code(text) is None or (at == 8 and text == code)


def test_public_names() -> None:
    assert flask_referral.generate_referral_code is generate_referral_code
    assert flask_referral.normalize_code is normalize_code
