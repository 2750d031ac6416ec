"""Currencies: what was paid is told in its own, and in the wallet's only where that is known."""

from __future__ import annotations

from decimal import Decimal

import pytest

from flask_referral.currency import to_minor
from flask_referral.currency import to_units
from flask_referral.results import Purchase

from ..conftest import MakeHost
from ..money import balance
from ..money import deliver
from ..money import pay
from ..money import refer

#: what was paid in minor units, its currency, and in units
PAID = [
    (3000, "jpy", Decimal(3000)),
    (169000, "inr", Decimal("1690.00")),
    (1720, "eur", Decimal("17.20")),
    (20000, "kwd", Decimal("20.000")),
]


def tenth(purchase: Purchase) -> int | None:
    """Pay a tenth of what was paid, and 7 cents where that is not known."""
    return 7 if purchase.paid_cents is None else purchase.paid_cents // 10


def test_a_share_is_of_what_the_provider_converted(make: MakeHost) -> None:
    host = make(reward_policy=tenth)
    for paid, currency, _ in PAID:
        referrer = host.add_user()
        options = {"provider": "whop", "id": f"pay_{currency}", "paid": paid, "currency": currency}
        assert deliver(host, refer(host, referrer), cents=2000, **options) == "converted"
        assert balance(host, referrer) == 200


def test_nothing_is_converted_that_the_provider_did_not(make: MakeHost) -> None:
    seen: list[Purchase] = []

    def policy(purchase: Purchase) -> int | None:
        seen.append(purchase)
        return tenth(purchase)

    host = make(reward_policy=policy)
    for paid, currency, amount in PAID:
        referrer = host.add_user()
        referred = refer(host, referrer)
        pay(host, referred, f"mem_{currency}", paid_cents=paid, currency=currency.upper())
        assert (seen[-1].paid_cents, seen[-1].currency) == (None, currency)
        assert (seen[-1].paid_amount, type(seen[-1].paid_amount)) == (amount, Decimal)
        assert balance(host, referrer) == 7


def test_the_wallets_own_currency_needs_no_conversion(make: MakeHost) -> None:
    seen: list[Purchase] = []

    def policy(purchase: Purchase) -> None:
        seen.append(purchase)

    host = make(REFERRAL_CURRENCY="EUR", reward_policy=policy)
    pay(host, refer(host, host.add_user()), paid_cents=1720)
    pay(host, refer(host, host.add_user()), "mem_2", paid_cents=1720, currency=" eur ")
    assert {(one.paid_cents, one.currency, one.paid_amount) for one in seen} == {
        (1720, "eur", Decimal("17.20"))
    }


@pytest.mark.parametrize(
    ("minor", "currency", "units"),
    [*PAID, (1, "usd", Decimal("0.01")), (5, "clf", Decimal("0.0005")), (0, "jpy", Decimal(0))],
)
def test_amounts_are_read_by_the_decimals_of_their_currency(
    minor: int, currency: str, units: Decimal
) -> None:
    assert to_units(minor, currency) == units
    assert to_minor(units, currency) == minor


def test_less_than_a_minor_unit_is_rounded_half_to_even() -> None:
    halves = [to_minor(Decimal(text), "usd") for text in ("0.005", "0.015", "0.025", "0.0251")]
    assert halves == [0, 2, 2, 3]
