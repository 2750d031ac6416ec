"""What users read: sentences in their language; amounts, numbers and dates in its form.

The locale is Flask-Babel's, where the host has set that extension up, and English else. The
catalogues are the package's ``translations/<locale>/LC_MESSAGES/flask_referral.po``. A file of that
name in the host's own translation folders goes before ours, sentence by sentence, and may be of a
language that we do not have. A language that nobody has is answered in English, amounts and dates
included, so that no sentence is half of one language and half of another.
"""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import itertools
import re
import typing as t
from pathlib import Path

from flask import current_app
from flask import has_app_context
from flask import has_request_context

from . import clock
from . import currency as currencies
from .errors import ReferralError

if t.TYPE_CHECKING:
    from babel import Locale
    from babel.numbers import NumberPattern
    from babel.support import Translations
    from flask_babel import BabelConfiguration

T = t.TypeVar("T")

DOMAIN = "flask_referral"
TRANSLATIONS = Path(__file__).parent / "translations"
#: What a new language is made from.
TEMPLATE = TRANSLATIONS / f"{DOMAIN}.pot"
#: The languages of our catalogues.
LANGUAGES = ("ar", "de", "en", "es", "fr", "ja", "pt_BR")

#: As English of the Unicode CLDR writes them; the others by their three letters.
_SYMBOLS = {
    **{"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥", "brl": "R$", "cad": "CA$", "aud": "A$"},
    **{"cny": "CN¥", "hkd": "HK$", "ils": "₪", "inr": "₹", "krw": "₩", "mxn": "MX$", "nzd": "NZ$"},
    **{"php": "₱", "twd": "NT$", "vnd": "₫", "xaf": "FCFA", "xcd": "EC$", "xof": "F\u202fCFA"},
    **{"xpf": "CFPF"},
}
#: A currency's letters beside its digits. CLDR (currencySpacing) parts them; Babel does not.
_TOUCHING = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def gettext(message: str, /, **variables: t.Any) -> str:
    """Return a sentence in the reader's language.

    :param message: the English sentence, with ``%(name)s`` for each variable.
    """
    return _translated(_place(), message, variables)


def ngettext(singular: str, plural: str, num: int, /, **variables: t.Any) -> str:
    """Return a sentence about a number of things in the reader's language.

    :param num: how many; ``%(num)s`` in the sentence is :func:`number` of it.
    """
    place = _place()
    if place is None:
        message = singular if num == 1 else plural
    else:
        message = place.catalogue.ngettext(singular, plural, num)
    return message % {"num": number(num), **variables}


def gettext_noop(message: str) -> str:
    """Return a sentence as it is, and mark it for the catalogues; it is translated when told."""
    return message


def told(error: ReferralError) -> str:
    """Return an error's sentence in the reader's language, where it is one for users."""
    return gettext(error.message, **error.variables)


def stored_gettext(message: str, /, **variables: t.Any) -> str:
    """Return a sentence in the application's own language, ``BABEL_DEFAULT_LOCALE``.

    For texts that are kept, as a wallet's descriptions: whose request, webhook or command writes
    one is not who reads it, and the reader's language is not known.
    """
    babel = hosts_babel()
    place = None if babel is None else _place_of(babel, babel.instance.default_locale)
    return _translated(place, message, variables)


def retold(text: str, sentences: t.Iterable[str]) -> str:
    """Return a text that :func:`stored_gettext` made, in the reader's language.

    :param sentences: the English ones that it may be; any other text stays as it is.
    """
    return next((gettext(each) for each in sentences if stored_gettext(each) == text), text)


def money(cents: int, currency: str) -> str:
    """Return an amount as the reader's language writes it, with the currency's own decimals.

    :param cents: in minor units of the currency; may be negative.
    :param currency: three letters (ISO 4217) in lower case.
    """
    amount = currencies.to_units(cents, currency)
    digits = currencies.exponent(currency)
    place = _place()
    if place is None:
        symbol = _SYMBOLS.get(currency, currency.upper())
        written = f"{'-' if cents < 0 else ''}{symbol}{abs(amount):,.{digits}f}"
    else:
        # CLDR's decimals are those of prices in shops, and would drop a Lebanese pound's piastres.
        written = _formatted(
            place.locale.currency_formats["standard"],
            amount,
            place.locale,
            (digits, digits),
            currency=currency.upper(),
            currency_digits=False,
        )
    return _TOUCHING.sub("\xa0", written)


def number(value: int) -> str:
    """Return a whole number as the reader's language writes it."""
    place = _place()
    if place is None:
        return f"{value:,}"
    from babel.numbers import format_decimal

    return format_decimal(value, locale=place.locale)


def percent(share: float) -> str:
    """Return a share as the reader's language writes it, with a decimal where there is one.

    :param share: 1 is all of it.
    """
    tenths = round(decimal.Decimal(str(share)), 3)
    place = _place()
    if place is None:
        return f"{tenths * 100:,.1f}".removesuffix(".0") + "%"
    return _formatted(place.locale.percent_formats[None], tenths, place.locale, (0, 1))


def date(value: dt.date | dt.datetime) -> str:
    """Return a day and its month, with the year where it is not this one.

    :param value: a day, which stays as it is, or a time, whose day is that of Flask-Babel's time
        zone, else UTC; one without a zone is UTC.
    """
    day = _at(clock.as_utc(value)).date() if isinstance(value, dt.datetime) else value
    is_this_year = day.year == _at(clock.now()).year
    place = _place()
    if place is None:
        return f"{day.day} {_MONTHS[day.month - 1]}" + ("" if is_this_year else f" {day.year}")
    from babel.dates import format_skeleton

    return format_skeleton("MMMd" if is_this_year else "yMMMd", day, locale=place.locale)


def locale() -> str:
    """Return the language that the texts are in, as HTML's ``lang`` takes it (BCP 47)."""
    place = _place()
    if place is None:
        return "en"
    tags = (place.locale.language, place.locale.script, place.locale.territory)
    return "-".join(filter(None, tags))


def direction() -> str:
    """Return where that language's lines begin: ``ltr``, at the left, or ``rtl``."""
    place = _place()
    return "ltr" if place is None else place.locale.text_direction


def _formatted(
    pattern: NumberPattern,
    value: decimal.Decimal,
    locale: Locale,
    decimals: tuple[int, int],
    **options: t.Any,
) -> str:
    """Return a number by a pattern of its locale, with these decimals at least and at most."""
    from babel.numbers import parse_pattern

    # A copy: the locale's own is everybody's.
    own = parse_pattern(pattern.pattern)
    own.frac_prec = decimals
    written: str = own.apply(value, locale, **options)
    return written


def is_known(babel: BabelConfiguration, locale: Locale) -> bool:
    """Whether there are sentences in a language."""
    return _catalogue(tuple(babel.translation_directories), locale) is not None


class _Place(t.NamedTuple):
    """A locale of the host's, with a catalogue in its language."""

    locale: Locale
    catalogue: Translations


def _translated(place: _Place | None, message: str, variables: t.Mapping[str, t.Any]) -> str:
    if place is not None:
        message = place.catalogue.gettext(message)
    return message % variables if variables else message


def hosts_babel() -> BabelConfiguration | None:
    """Return what the host has set Flask-Babel up with, or None where it has not."""
    if not has_app_context() or "babel" not in current_app.extensions:
        return None
    try:
        from flask_babel import BabelConfiguration
    except ImportError:
        # Flask-BabelEx, or a Flask-Babel of before version 3.
        return None
    found = current_app.extensions["babel"]
    return found if isinstance(found, BabelConfiguration) else None


def _place() -> _Place | None:
    """Return where the reader is, or None for English without Babel."""
    babel = hosts_babel()
    if babel is None:
        return None
    from flask_babel import get_locale

    return _place_of(babel, _asked(get_locale, babel.instance.default_locale))


def _asked(ask: t.Callable[[], T | None], default: T) -> T:
    """Return what one of the host's selectors says.

    Most of them read the request, and a command or a worker has none.
    """
    try:
        return ask() or default
    except RuntimeError:
        if has_request_context():
            raise
        return default


def _at(moment: dt.datetime) -> dt.datetime:
    """Return a time in the reader's time zone."""
    babel = hosts_babel()
    if babel is None:
        return moment
    from flask_babel import get_timezone

    return moment.astimezone(_asked(get_timezone, babel.instance.default_timezone))


def _place_of(babel: BabelConfiguration, wanted: Locale) -> _Place:
    folders = tuple(babel.translation_directories)
    catalogue = _catalogue(folders, wanted)
    if catalogue is None:
        wanted = type(wanted)("en")
        catalogue = _catalogue(folders, wanted)
        assert catalogue is not None
    return _Place(wanted, catalogue)


@functools.lru_cache(maxsize=256)
def _catalogue(folders: tuple[str, ...], locale: Locale) -> Translations | None:
    """Return the sentences of a locale, or None where nobody has its language.

    Not by ``flask_babel.Domain``, which takes the plural forms of a folder that lacks the
    language, English ones, for those of all.
    """
    from babel.support import Translations

    # A region without a catalogue reads that of its language, whichever region's it is.
    names = [str(locale), *(name for name in LANGUAGES if name[:2] == locale.language)]
    found = [
        catalogue
        for folder in (*folders, str(TRANSLATIONS))
        if isinstance(catalogue := Translations.load(folder, names, DOMAIN), Translations)
    ]
    for catalogue, fallback in itertools.pairwise(found):
        catalogue.add_fallback(fallback)
    return found[0] if found else None
