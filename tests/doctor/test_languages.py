"""What ``flask referral doctor`` says about the languages that users read."""

from __future__ import annotations

import typing as t
from pathlib import Path

import flask_babel
import pytest

from flask_referral import words

from .. import messages
from ..conftest import MakeHost
from ..hosts import Host
from .conftest import examine
from .conftest import finding
from .conftest import HEALTHY
from .conftest import ill

SENTENCE = "days must be a whole number from 1 to %(most)s."


@pytest.fixture
def make(make_sqlite: MakeHost) -> t.Callable[..., Host]:
    """Return a function that builds a healthy host with Flask-Babel."""

    def make(**config: t.Any) -> Host:
        host = make_sqlite(**HEALTHY, **config)
        flask_babel.Babel(host.app)
        return host

    return make


def told(host: Host) -> str:
    (found,) = (each for each in examine(host) if each["check"] == "languages")
    assert found["level"] == "ok"
    return str(found["message"])


def test_english_is_said_to_be_the_only_language(sqlite_host: Host) -> None:
    assert told(sqlite_host) == "Users read English, since Flask-Babel is not set up."


@pytest.mark.parametrize("locale", ["en", "de_AT", "pt_BR"])
def test_a_language_of_ours_is_healthy(make: t.Callable[..., Host], locale: str) -> None:
    assert "There are sentences in" in told(make(BABEL_DEFAULT_LOCALE=locale))


def test_a_language_of_nobody_is_a_warning(make: t.Callable[..., Host], tmp_path: Path) -> None:
    host = make(BABEL_DEFAULT_LOCALE="it", BABEL_TRANSLATION_DIRECTORIES=str(tmp_path))
    message = finding(host, "languages", "warning")
    assert "'it'" in message
    assert str(words.TEMPLATE) in message


def test_a_language_of_the_hosts_is_healthy(make: t.Callable[..., Host], tmp_path: Path) -> None:
    messages.write_catalogue(tmp_path, "it", {SENTENCE: "days: da 1 a %(most)s."})
    host = make(BABEL_DEFAULT_LOCALE="it", BABEL_TRANSLATION_DIRECTORIES=str(tmp_path))
    assert ill(host) == {}


def test_another_babel_is_a_warning(sqlite_host: Host) -> None:
    sqlite_host.app.extensions["babel"] = object()
    assert "flask-referral[i18n]" in finding(sqlite_host, "languages", "warning")


@pytest.mark.parametrize("bad", ["days: 1-%(mots)s", "days: 1-%(most)d", "100% %(most)s"])
def test_a_translation_that_would_fail_is_a_fault(
    make: t.Callable[..., Host], tmp_path: Path, bad: str
) -> None:
    messages.write_catalogue(tmp_path, "de", {SENTENCE: bad, "Prices: 20%": "Preise: 20%"})
    message = finding(make(BABEL_TRANSLATION_DIRECTORIES=str(tmp_path)), "languages", "fault")
    assert SENTENCE in message
    assert str(tmp_path) in message


def test_a_translation_of_the_hosts_that_fits_is_healthy(
    make: t.Callable[..., Host], tmp_path: Path
) -> None:
    messages.write_catalogue(tmp_path, "de", {SENTENCE: "days: 1-%(most)s", "20%": "20 %"})
    assert ill(make(BABEL_TRANSLATION_DIRECTORIES=str(tmp_path))) == {}
