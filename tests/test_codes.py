"""Codes: how they are drawn, and how they are read."""

from __future__ import annotations

import collections
import os
import random

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


@pytest.mark.parametrize(
    "text",
    [
        "K7M2PQ9X",
        "k7m2pq9x",
        "K7m2 pQ9x",
        "  K7M2PQ9X\r\n",
        "K7M2-PQ9X",
        "K-7-M-2-P-Q-9-X",
        "K7M2\N{EN DASH}PQ9X",
        "K7M2\N{NON-BREAKING HYPHEN}PQ9X",
        "\N{NO-BREAK SPACE}K7M2\N{IDEOGRAPHIC SPACE}PQ9X\t",
        "-K7M2PQ9X-",
    ],
)
def test_ways_to_write_a_code(text: str) -> None:
    assert normalize_code(text) == "K7M2PQ9X"


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
        "K7M2/PQ9X",
        "K7M2.PQ9X",
        "K7M2_PQ9X",
        "K7M2PQ9X\0",
        "K7M2PQ9X'--",
        "\N{RIGHT-TO-LEFT OVERRIDE}K7M2PQ9X",
        "K7M2PQ9X\N{ZERO WIDTH SPACE}",
        "\N{FULLWIDTH LATIN CAPITAL LETTER K}7M2PQ9X",
        # These become "K" and "SS" where letters are raised without care.
        "\N{KELVIN SIGN}7M2PQ9X",
        "7M2PQ9\N{LATIN SMALL LETTER SHARP S}",
        "7M2PQ9X\N{LATIN SMALL LETTER LONG S}",
        "\N{ARABIC-INDIC DIGIT THREE}7M2PQ9X",
        "K7M2PQ9\udc80",
        "K7M2PQ9X" + " " * 100_000,
        "-" * 100_000,
        12345678,
        b"K7M2PQ9X",
        ["K7M2PQ9X"],
    ],
)
def test_no_code(text: str | None) -> None:
    assert normalize_code(text) is None


@settings(deadline=None)
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=()), max_size=70),
        st.text(
            ALPHABET
            + ALPHABET.lower()
            + " -\N{EM DASH}\N{KELVIN SIGN}\N{LATIN SMALL LETTER LONG S}0OI",
            min_size=6,
            max_size=12,
        ),
    )
)
@example("\N{KELVIN SIGN}7M2PQ9X")
def test_result_is_none_or_a_code(text: str) -> None:
    code = normalize_code(text)
    if code is not None:
        assert len(code) == 8
        assert set(code) <= set(ALPHABET)
        assert normalize_code(code) == code
        # Nothing but letters, digits, spaces and dashes was in the text.
        assert sum(symbol.isascii() and symbol.isalnum() for symbol in text) == 8
        dashes = "-" + "".join(map(chr, range(0x2010, 0x2016)))
        assert all(symbol.isalnum() or symbol.isspace() or symbol in dashes for symbol in text)


@settings(deadline=None)
@given(st.text(ALPHABET, min_size=8, max_size=8), st.data())
def test_each_code_is_read_however_it_is_spaced(code: str, data: st.DataObject) -> None:
    separator = st.sampled_from(["", " ", "-", "\N{EN DASH}", "\t"])
    written = "".join(data.draw(separator) + symbol for symbol in code)
    assert normalize_code(data.draw(st.sampled_from([written, written.lower()]))) == code


def test_public_names() -> None:
    assert flask_referral.generate_referral_code is generate_referral_code
    assert flask_referral.normalize_code is normalize_code
