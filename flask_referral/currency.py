"""Amounts in currencies: how many decimals each has."""

from __future__ import annotations

import decimal
import re
import typing as t

from .errors import ReferralError

#: Minor units by ISO 4217 (list one of its maintenance agency), where there are not two. Of the
#: cryptocurrencies, which it does not list, bitcoin's satoshi for all.
_NO_DECIMALS = "bif clp djf gnf isk jpy kmf krw pyg rwf ugx uyi vnd vuv xaf xof xpf"
_EXPONENTS: t.Final[dict[str, int]] = {
    **dict.fromkeys(_NO_DECIMALS.split(), 0),
    **dict.fromkeys(("bhd", "iqd", "jod", "kwd", "lyd", "omr", "tnd"), 3),
    **dict.fromkeys(("clf", "uyw"), 4),
    **dict.fromkeys(("ape", "btc", "eth"), 8),
}

_CODE = re.compile("[a-z]{3}")
# Independent of what the host does to its own context.
_CONTEXT = decimal.Context(prec=40, rounding=decimal.ROUND_HALF_EVEN)


def checked_currency(value: t.Any) -> str:
    """Return a currency's code in lower case, or refuse it.

    :raises ReferralError: where it is no code of three letters.
    """
    if isinstance(value, str) and _CODE.fullmatch(code := value.strip().lower()):
        return code
    raise ReferralError(f"{value!r:.40} is no currency: pass its three letters, as in 'usd'.")


def exponent(currency: str) -> int:
    """Return how many decimals a currency has."""
    return _EXPONENTS.get(currency, 2)


def to_units(minor: int, currency: str) -> decimal.Decimal:
    """Return an amount in units of its currency; 3000 yen are 3000, 1720 cents are 17.20."""
    return decimal.Decimal(minor).scaleb(-exponent(currency), _CONTEXT)


def to_minor(amount: decimal.Decimal, currency: str) -> int:
    """Return an amount in minor units, rounded half to even."""
    digits = exponent(currency)
    # In one step: scaled first, more digits than the context's would be rounded twice.
    rounded = _CONTEXT.quantize(amount, _CONTEXT.scaleb(decimal.Decimal(1), -digits))
    return int(rounded.scaleb(digits, _CONTEXT))
