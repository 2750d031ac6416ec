"""A share of what was paid is right in every currency, or known not to be known."""

from __future__ import annotations

import typing as t
from decimal import Decimal

import pytest

from flask_referral import Purchase

from ..conftest import MakeHost
from ..money import amounts
from ..money import balance
from ..money import refer
from ..whop import CONFIG
from ..whop import outcome
from ..whop import payment
from ..whop import refund


def tenth(purchase: Purchase) -> int | None:
    """Give 10 %; what the setting says where the wallet's currency cannot tell."""
    return None if purchase.paid_cents is None else purchase.paid_cents // 10


PRICES = pytest.mark.parametrize(
    ("currency", "total", "amount"),
    [
        ("jpy", 3000, "3000"),
        ("inr", 1690.00, "1690.00"),
        ("eur", 17.20, "17.20"),
        ("KWD", 6.125, "6.125"),
    ],
)


@PRICES
def test_a_share_is_of_what_the_provider_converted(
    make: MakeHost, currency: str, total: float, amount: str
) -> None:
    host = make(reward_policy=tenth, **CONFIG)
    referrer = host.add_user()
    price = {"currency": currency, "total": total}
    bought = payment(refer(host, referrer), **price, usd_total=20.00)
    assert outcome(host, bought) == "converted"
    assert balance(host, referrer) == 200
    # Half of the money is half of the bonus, in any currency.
    half = {"currency": currency, "payment": {"id": "pay_mem_1", **price}}
    assert outcome(host, refund("ref_1", total / 2, **half)) == "reversed"
    assert amounts(host, referrer) == [200, -100]


@PRICES
def test_without_a_conversion_the_policy_sees_what_was_paid_and_in_what(
    make_sqlite: MakeHost, currency: str, total: float, amount: str
) -> None:
    seen: list[Purchase] = []

    def policy(purchase: Purchase) -> int:
        seen.append(purchase)
        return 70

    host = make_sqlite(reward_policy=policy, **CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert outcome(host, payment(referred, currency=currency, total=total)) == "converted"
    (purchase,) = seen
    assert purchase.paid_cents is None
    assert (purchase.currency, purchase.paid_amount) == (currency.lower(), Decimal(amount))
    assert str(purchase.paid_amount) == amount
    assert (purchase.provider, purchase.payment_id, purchase.membership_id) == (
        "whop",
        "pay_mem_1",
        "mem_1",
    )
    assert purchase.metadata["user_id"] == str(referred)
    assert balance(host, referrer) == 70


@pytest.mark.parametrize(
    ("wallet", "fields", "paid_cents"),
    [
        # The amount itself, where it is in the wallet's currency.
        ("eur", {"currency": "eur", "total": 17.20, "usd_total": 20.00}, 1720),
        ("jpy", {"currency": "jpy", "total": 3000, "usd_total": 20.00}, 3000),
        ("usd", {"currency": "usd", "total": 17.20, "usd_total": 17.20}, 1720),
        # A conversion into another currency than the wallet's is none.
        ("eur", {"currency": "jpy", "total": 3000, "usd_total": 20.00}, None),
        # Whop may not tell the currency, or one without known decimals.
        ("usd", {"currency": None, "total": 17.20, "usd_total": 20.00}, 2000),
        ("usd", {"currency": "usdt", "total": 17.20, "usd_total": 17.21}, 1721),
        ("usd", {"currency": None, "total": 17.20}, None),
    ],
)
def test_cents_are_the_wallets_or_unknown(
    make_sqlite: MakeHost, wallet: str, fields: dict[str, t.Any], paid_cents: int | None
) -> None:
    seen: list[int | None] = []

    def policy(purchase: Purchase) -> int:
        seen.append(purchase.paid_cents)
        return 1

    host = make_sqlite(reward_policy=policy, REFERRAL_CURRENCY=wallet, **CONFIG)
    assert outcome(host, payment(refer(host, host.add_user()), **fields)) == "converted"
    assert seen == [paid_cents]


def test_a_small_payment_is_measured_in_the_wallets_currency(make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_MIN_PAYMENT_CENTS=500, **CONFIG)
    referrer = host.add_user()
    yen = {"currency": "jpy", "total": 600}
    small = payment(refer(host, referrer), "mem_1", **yen, usd_total=4.00)
    large = payment(refer(host, referrer), "mem_2", **yen, usd_total=5.00)
    assert [outcome(host, event) for event in (small, large)] == ["no_bonus", "converted"]
