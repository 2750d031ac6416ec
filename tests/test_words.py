"""What users read: in their language, with its numbers, and in English where there is no other."""

from __future__ import annotations

import datetime as dt
import typing as t
from pathlib import Path

import flask_babel
import pytest
from babel.messages import Catalog
from babel.numbers import list_currencies
from flask import Flask
from flask import request

from flask_referral import clock
from flask_referral import words
from flask_referral.errors import ReferralError
from flask_referral.words import gettext
from flask_referral.words import LANGUAGES
from flask_referral.words import money
from flask_referral.words import ngettext

from . import messages
from .memory import assert_json_error
from .memory import Host
from .memory import start

STATS = "/api/referral/stats"
LOG_IN = {
    "ar": "سجّل الدخول لعرض إحصاءات إحالاتك.",
    "de": "Melde dich an, um deine Empfehlungsstatistik zu sehen.",
    "en": "Log in to see your referral statistics.",
    "es": "Inicia sesión para ver las estadísticas de tus recomendaciones.",
    "fr": "Connectez-vous pour voir les statistiques de vos parrainages.",
    "ja": "紹介の統計を見るにはログインしてください。",
    "pt_BR": "Entre na sua conta para ver as estatísticas das suas indicações.",
}
SENTENCE = LOG_IN["en"]


def asked() -> str | None:
    """Choose the language that the browser names, as hosts do."""
    return request.headers.get("Accept-Language")


def application(locale: str | None = None, **config: t.Any) -> Flask:
    """Build an application with Flask-Babel, and one language or the browser's."""
    app = Flask("host")
    app.config.update(config)
    flask_babel.Babel(app, locale_selector=(lambda: locale) if locale else asked)
    return app


def host_with_babel(**config: t.Any) -> Host:
    host = start(before=lambda app: flask_babel.Babel(app, locale_selector=asked), **config)
    host.referral.identity_loader(lambda: None)
    return host.finish()


@pytest.mark.parametrize("language", LANGUAGES)
def test_api_answers_in_the_language_of_the_request(language: str) -> None:
    answer = host_with_babel().client().get(STATS, headers={"Accept-Language": language})
    assert assert_json_error(answer, 401) == LOG_IN[language]
    assert answer.get_json()["code"] == "not_logged_in"


def test_sentences_of_errors_are_translated_with_their_values() -> None:
    host = host_with_babel()
    host.referral.identity_loader(lambda: 1)
    german = host.client().get(f"{STATS}?days=0", headers={"Accept-Language": "de"})
    assert assert_json_error(german, 400) == "days muss eine ganze Zahl von 1 bis 366 sein."
    # Programs and logs read English.
    with (
        host.app.test_request_context(headers={"Accept-Language": "de"}),
        pytest.raises(ReferralError, match=r"^days must be a whole number from 1 to 366\.$"),
    ):
        host.referral.stats(1, days=0)


def test_without_flask_babel_all_is_english() -> None:
    host = start()
    host.referral.identity_loader(lambda: None)
    answer = host.finish().client().get(STATS, headers={"Accept-Language": "de"})
    assert assert_json_error(answer, 401) == SENTENCE
    with host.app.test_request_context(headers={"Accept-Language": "de"}):
        assert (words.locale(), words.direction()) == ("en", "ltr")
        assert money(123_456, "eur") == "€1,234.56"


def test_another_babel_than_flask_babel_is_left_alone() -> None:
    app = Flask("host")
    app.extensions["babel"] = object()
    with app.test_request_context():
        assert gettext(SENTENCE) == SENTENCE


def test_a_language_of_the_hosts_that_fails_is_still_an_answer_in_json(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> str:
        raise LookupError("no profile")

    host = start(before=lambda app: flask_babel.Babel(app, locale_selector=broken))
    host.referral.identity_loader(lambda: None)
    answer = host.finish().client().get(STATS)
    assert "logged" in assert_json_error(answer, 500)
    assert "no profile" in caplog.text


@pytest.mark.parametrize(
    ("locale", "cents", "currency", "written"),
    [
        ("en", 123_456, "usd", "$1,234.56"),
        ("en", -1000, "usd", "-$10.00"),
        ("de", 123_456, "eur", "1.234,56\xa0€"),
        ("es", 1000, "eur", "10,00\xa0€"),
        ("fr", 123_456, "eur", "1\u202f234,56\xa0€"),
        ("pt_BR", 123_456, "brl", "R$\xa01.234,56"),
        ("ja", 1000, "jpy", "￥1,000"),
        ("ja", 1000, "usd", "$10.00"),
        ("ar", 1000, "usd", "\u200f10.00\xa0US$"),
        # By ISO 4217; of these CLDR would show no decimals.
        ("en", 1234, "lbp", "LBP\xa012.34"),
        ("en", 12_345, "iqd", "IQD\xa012.345"),
        ("de", 12_345, "kwd", "12,345\xa0KWD"),
    ],
)
def test_amounts_are_written_as_the_language_and_the_currency_ask(
    locale: str, cents: int, currency: str, written: str
) -> None:
    with application(locale).test_request_context():
        assert money(cents, currency) == written


def test_the_hosts_own_amounts_and_shares_stay_as_they_are() -> None:
    with application("en").test_request_context():
        assert (money(1000, "jpy"), words.percent(0.034)) == ("¥1,000", "3.4%")
        assert flask_babel.format_currency(1.5, "USD", currency_digits=False) == "$1.50"
        assert flask_babel.format_percent(0.034) == "3%"


@pytest.mark.parametrize("cents", [0, 7, 1000, 123_456_789, -1050])
def test_amounts_in_english_are_the_same_with_and_without_babel(cents: int) -> None:
    # Of these Babel's releases have different signs.
    known = set(list_currencies("en")) - {"XCG", "XOF", "XXX"}
    assert len(known) > 250
    currencies = sorted(map(str.lower, known))
    plain = [money(cents, currency) for currency in currencies]
    with application("en").test_request_context():
        assert [money(cents, currency) for currency in currencies] == plain


def test_plain_amounts() -> None:
    assert money(1000, "usd") == "$10.00"
    assert money(1000, "eur") == "€10.00"
    assert money(1000, "jpy") == "¥1,000"
    assert money(1000, "chf") == "CHF\xa010.00"
    assert money(-5, "usd") == "-$0.05"


@pytest.mark.parametrize(
    ("locale", "number", "percent"),
    [
        (None, "1,234,567", ["0%", "3.4%", "12.5%", "50%", "100%"]),
        ("en", "1,234,567", ["0%", "3.4%", "12.5%", "50%", "100%"]),
        ("de", "1.234.567", ["0\xa0%", "3,4\xa0%", "12,5\xa0%", "50\xa0%", "100\xa0%"]),
        ("fr", "1\xa0234\xa0567", ["0\xa0%", "3,4\xa0%", "12,5\xa0%", "50\xa0%", "100\xa0%"]),
        ("pt_BR", "1.234.567", ["0%", "3,4%", "12,5%", "50%", "100%"]),
        ("ja", "1,234,567", ["0%", "3.4%", "12.5%", "50%", "100%"]),
    ],
)
def test_numbers_and_shares(locale: str | None, number: str, percent: list[str]) -> None:
    app = application(locale) if locale else Flask("host")
    with app.test_request_context():
        # Which blank does not break differs between Babel's releases.
        told = [words.number(1_234_567), *map(words.percent, (0, 0.034, 0.1251, 0.5, 1))]
        assert [text.replace("\u202f", "\xa0") for text in told] == [number, *percent]


@pytest.mark.parametrize(
    ("locale", "this_year", "last_year"),
    [
        (None, "3 Nov", "3 Nov 2025"),
        ("en", "Nov 3", "Nov 3, 2025"),
        ("en_GB", "3 Nov", "3 Nov 2025"),
        ("de", "3. Nov.", "3. Nov. 2025"),
        ("es", "3 nov", "3 nov 2025"),
        ("fr", "3 nov.", "3 nov. 2025"),
        ("pt_BR", "3 de nov.", "3 de nov. de 2025"),
        ("ja", "11月3日", "2025年11月3日"),
        ("ar", "3 نوفمبر", "3 نوفمبر 2025"),
    ],
)
def test_days_have_a_year_where_it_is_not_this_one(
    monkeypatch: pytest.MonkeyPatch, locale: str | None, this_year: str, last_year: str
) -> None:
    monkeypatch.setattr(clock, "now", lambda: dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC))
    app = application(locale) if locale else Flask("host")
    with app.test_request_context():
        assert words.date(dt.date(2026, 11, 3)) == this_year
        assert words.date(dt.datetime(2026, 11, 3, 23, 59, tzinfo=dt.UTC)) == this_year
        # As SQLite returns them.
        assert words.date(dt.datetime(2026, 11, 3, 0, 0)) == this_year
        assert words.date(dt.date(2025, 11, 3)) == last_year


def test_the_day_of_a_time_is_the_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    # In Tokyo the new year has come.
    monkeypatch.setattr(clock, "now", lambda: dt.datetime(2026, 12, 31, 20, tzinfo=dt.UTC))
    evening = dt.datetime(2026, 12, 31, 18, tzinfo=dt.UTC)
    with application("ja", BABEL_DEFAULT_TIMEZONE="Asia/Tokyo").test_request_context():
        assert words.date(evening) == "1月1日"
        # A day of UTC, as charts have them, stays what it is.
        assert words.date(dt.date(2026, 12, 31)) == "2026年12月31日"
    with application("ja").test_request_context():
        assert words.date(evening) == "12月31日"


@pytest.mark.parametrize(
    ("asked", "told", "direction"),
    [
        ("de", "de", "ltr"),
        ("de_AT", "de-AT", "ltr"),
        ("pt_BR", "pt-BR", "ltr"),
        ("ar", "ar", "rtl"),
        ("ar_EG", "ar-EG", "rtl"),
        # Nobody has Hebrew: what is said is English, and reads as English.
        ("he", "en", "ltr"),
    ],
)
def test_the_page_can_say_which_language_it_is_in(asked: str, told: str, direction: str) -> None:
    with application(asked).test_request_context():
        assert (words.locale(), words.direction()) == (told, direction)


@pytest.mark.parametrize(
    ("asked", "language"), [("de_AT", "de"), ("es_MX", "es"), ("pt", "pt_BR"), ("pt_PT", "pt_BR")]
)
def test_a_region_reads_its_language(asked: str, language: str) -> None:
    with application(asked).test_request_context():
        assert gettext(SENTENCE) == LOG_IN[language]


def test_a_language_that_nobody_has_is_english_as_a_whole() -> None:
    with application("it").test_request_context():
        assert gettext(SENTENCE) == SENTENCE
        assert money(123_456, "eur") == "€1,234.56"
        assert words.number(1234) == "1,234"


def test_a_host_adds_a_language_and_changes_a_sentence(tmp_path: Path) -> None:
    folder = messages.write_catalogue(
        tmp_path, "it", {SENTENCE: "Accedi per vedere le statistiche."}
    )
    messages.write_catalogue(tmp_path, "de", {SENTENCE: "Bitte anmelden."})
    client = host_with_babel(BABEL_TRANSLATION_DIRECTORIES=folder).client()

    def said(path: str, language: str) -> str:
        return str(client.get(path, headers={"Accept-Language": language}).get_json()["error"])

    assert said(STATS, "it") == "Accedi per vedere le statistiche."
    assert said(STATS, "de") == "Bitte anmelden."
    generate = client.post("/api/referral/generate", headers={"Accept-Language": "de"})
    assert generate.get_json()["error"] == ("Melde dich an, um deinen Empfehlungscode zu bekommen.")
    assert said(STATS, "fr") == LOG_IN["fr"]


def test_the_hosts_own_translations_are_not_disturbed(tmp_path: Path) -> None:
    folder = messages.write_catalogue(
        tmp_path, "de", {"Prices": "Preise", SENTENCE: "x"}, "messages"
    )
    app = application("de", BABEL_TRANSLATION_DIRECTORIES=folder)
    with app.test_request_context():
        assert gettext(SENTENCE) == LOG_IN["de"]
        assert gettext("Prices") == "Prices"
        assert flask_babel.gettext("Prices") == "Preise"
        assert flask_babel.gettext(SENTENCE) == "x"


def test_each_language_has_its_own_plural_forms(tmp_path: Path) -> None:
    plural = ("%(num)s visit", "%(num)s visits")
    forms = [
        "لا زيارات",
        "زيارة",
        "زيارتان",
        "%(num)s زيارات",
        "%(num)s زيارة",
        "%(num)s من الزيارات",
    ]
    first = messages.write_catalogue(tmp_path / "a", "ar", {plural: forms})
    second = messages.write_catalogue(tmp_path / "b", "ja", {plural: ["訪問%(num)s件"]})
    folders = f"{first};{second}"
    expected = {
        "ar": ["لا زيارات", "زيارة", "زيارتان", "3 زيارات", "11 زيارة", "1,000 من الزيارات"],
        "ja": ["訪問0件", "訪問1件", "訪問2件", "訪問3件", "訪問11件", "訪問1,000件"],
        "en": ["0 visits", "1 visit", "2 visits", "3 visits", "11 visits", "1,000 visits"],
    }
    for locale, visits in expected.items():
        app = application(locale, BABEL_TRANSLATION_DIRECTORIES=folders)
        with app.test_request_context():
            assert [ngettext(*plural, number) for number in (0, 1, 2, 3, 11, 1000)] == visits
    assert [ngettext(*plural, number) for number in (0, 1, 1000)] == [
        "0 visits",
        "1 visit",
        "1,000 visits",
    ]


def test_commands_and_workers_speak_the_applications_language() -> None:
    app = application(BABEL_DEFAULT_LOCALE="fr")
    with app.app_context():
        # The selector reads the request, which is not there.
        assert gettext(SENTENCE) == LOG_IN["fr"]
        assert words.date(dt.date(2020, 1, 2)) == "2 janv. 2020"
        with flask_babel.force_locale("de"):
            assert gettext(SENTENCE) == LOG_IN["de"]
        assert gettext(SENTENCE) == LOG_IN["fr"]
    # Nor an application.
    assert gettext(SENTENCE) == SENTENCE


def test_what_is_kept_is_in_the_applications_language() -> None:
    app = application("ja", BABEL_DEFAULT_LOCALE="de")
    with app.test_request_context():
        assert words.stored_gettext("Referral bonus") == "Empfehlungsbonus"
        assert gettext("Referral bonus") == "紹介ボーナス"
    assert words.stored_gettext("Referral bonus") == "Referral bonus"


def test_what_was_kept_is_told_in_the_readers_language() -> None:
    sentences = ("Welcome bonus", "Referral bonus")
    app = application("ja", BABEL_DEFAULT_LOCALE="de")
    with app.test_request_context():
        assert words.retold("Empfehlungsbonus", sentences) == "紹介ボーナス"
        assert words.retold("The host's own", sentences) == "The host's own"
    assert words.retold("Referral bonus", sentences) == "Referral bonus"


def test_a_percent_sign_without_variables_is_only_that() -> None:
    assert gettext("100% of it") == "100% of it"
    assert str(ReferralError("100% of it")) == "100% of it"


def test_every_language_has_every_sentence() -> None:
    source = messages.extracted()
    assert (SENTENCE,) in messages.sentences(source)
    folders = {path.name for path in words.TRANSLATIONS.iterdir() if path.is_dir()}
    assert folders == set(LANGUAGES)
    wrong = [
        fault
        for language in LANGUAGES
        for fault in messages.faults(messages.stored(messages.po_file(language)), source)
    ]
    assert wrong == [], "run make messages, and translate what it names"


@pytest.mark.parametrize("language", LANGUAGES)
def test_catalogues_are_compiled_as_they_are_written(language: str) -> None:
    written = messages.stored(messages.po_file(language))
    compiled = messages.stored(messages.mo_file(language))
    assert messages.sentences(compiled) == messages.sentences(written)
    assert compiled.plural_expr == written.plural_expr
    source = messages.extracted()
    updated = messages.po_text(messages.updated(language, source))
    assert updated == messages.po_file(language).read_text(encoding="utf-8"), "run make messages"


def test_the_template_has_every_sentence() -> None:
    template = messages.pot_text(messages.extracted())
    assert template == words.TEMPLATE.read_text(encoding="utf-8"), "run make messages"


def test_arabic_has_six_forms_of_what_is_counted() -> None:
    assert messages.stored(messages.po_file("ar")).num_plurals == 6
    assert messages.stored(messages.po_file("ja")).num_plurals == 1


@pytest.mark.parametrize(
    ("translation", "fault"),
    [
        ("", "is not translated"),
        ("%(name)s lädt dich ein", "ends otherwise"),
        ("Du bist eingeladen.", "has other placeholders"),
        ("%(nam)s lädt dich ein.", "has other placeholders"),
        ("%(name)d lädt dich ein.", "has other placeholders"),
        ("%(name)s lädt dich zu 100% ein.", "has a bare '%'"),
        (" %(name)s lädt dich ein.", "has blanks"),
    ],
)
def test_bad_translations_are_named(translation: str, fault: str) -> None:
    source, bad, good = Catalog(), Catalog(locale="de"), Catalog(locale="de")
    source.add("%(name)s invited you.")
    bad.add("%(name)s invited you.", translation)
    assert any(fault in line for line in messages.faults(bad, source))
    good.add("%(name)s invited you.", "%(name)s lädt dich ein.")
    assert messages.faults(good, source) == []


def test_missing_forms_and_doubtful_and_unused_translations_are_named() -> None:
    plural = ("%(num)s visit", "%(num)s visits")
    source, catalogue = Catalog(), Catalog(locale="ar")
    source.add(plural)
    catalogue.add(plural, ["1", "2", "3", "", "5", "6"], flags=["fuzzy"])
    catalogue.add("gone", "x")
    told = " ".join(messages.faults(catalogue, source))
    for fault in ("lacks a plural form", "is fuzzy", "'gone' is said nowhere"):
        assert fault in told
