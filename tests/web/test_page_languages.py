"""The referrer's page in each language, with what is in it."""

from __future__ import annotations

import re

import flask_babel
import pytest
from flask import request

from flask_referral.words import LANGUAGES
from flask_referral.words import TEMPLATE

from .. import messages
from ..conftest import MakeHost
from ..hosts import Host
from ..money import pay
from ..money import refer

TITLES = {
    "ar": "ادعُ أصدقاءك",
    "de": "Freunde einladen",
    "en": "Invite friends",
    "es": "Invita a tus amistades",
    "fr": "Invitez vos proches",
    "ja": "お友だちを招待",
    "pt_BR": "Convide seus amigos",
}
BONUS = {
    "ar": "مكافأة الإحالة",
    "de": "Empfehlungsbonus",
    "en": "Referral bonus",
    "es": "Bono por recomendación",
    "fr": "Prime de parrainage",
    "ja": "紹介ボーナス",
    "pt_BR": "Bônus por indicação",
}


@pytest.fixture
def host(make_sqlite: MakeHost) -> Host:
    """Build a host with Flask-Babel whose current user earned a bonus."""
    host = make_sqlite(REFERRAL_BASE_URL="https://example.com", REFERRAL_CURRENCY="jpy")
    flask_babel.Babel(
        host.app,
        default_locale="de",
        locale_selector=lambda: request.headers.get("Accept-Language"),
    )
    host.current_user = host.add_user()
    pay(host, refer(host, host.current_user))
    refer(host, host.current_user)
    return host


def page(host: Host, language: str) -> str:
    answer = host.client().get("/referral/", headers={"Accept-Language": language})
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_in_the_language_of_the_reader(host: Host, language: str) -> None:
    text = page(host, language)
    assert f"<title>{TITLES[language]}</title>" in text
    direction = "rtl" if language == "ar" else "ltr"
    assert f'<html lang="{language.replace("_", "-")}" dir="{direction}">' in text
    # The wallet's row was written in German, which is the application's language.
    assert f"<bdi>{BONUS[language]}</bdi>" in text
    # The yen has no decimals in any language.
    assert "000" in text
    assert not re.search(r"10[.,]00\D|000[.,]00", text)


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {"en"}))
def test_nothing_english_is_left(host: Host, language: str) -> None:
    said = set(re.findall(r">([^<>]+)<", page(host, language)))
    told = {" ".join(text.split()) for text in said}
    english = {ids[0] for ids in messages.sentences(messages.stored(TEMPLATE))}
    catalogue = messages.sentences(messages.stored(messages.po_file(language)))
    # Some words are the same, as "Bonus".
    same = {ids[0] for ids, strings in catalogue.items() if ids[0] in strings}
    assert told & (english - same) == set()
    assert len(told) > 20


def test_without_flask_babel_the_page_is_english(make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_BASE_URL="https://example.com")
    host.current_user = host.add_user()
    pay(host, refer(host, host.current_user))
    text = page(host, "de")
    assert '<html lang="en" dir="ltr">' in text
    assert "<title>Invite friends</title>" in text
    assert "$10.00" in text
