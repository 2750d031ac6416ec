"""Whop's dated API versions: ``account_id``, money objects, payments that are named by their id."""

from __future__ import annotations

import itertools
import typing as t

import pytest

from ..conftest import MakeHost
from ..money import amounts
from ..money import balance
from ..money import refer
from ..whop import CONFIG
from ..whop import dated_dispute
from ..whop import dated_payment
from ..whop import dated_refund
from ..whop import money
from ..whop import outcome
from ..whop import payment
from ..whop import refund


def test_a_payment_without_a_membership_pays_once(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    sale = dated_payment(refer(host, referrer))
    assert outcome(host, sale) == "converted"
    assert outcome(host, sale) == "already_converted"
    assert amounts(host, referrer) == [1000]


def test_a_refund_finds_its_payment_and_what_that_was(make: MakeHost) -> None:
    host = make(**CONFIG)
    for number, order in enumerate(itertools.permutations(range(3))):
        referrer = host.add_user()
        id = f"pay_{number}"
        events = [
            dated_payment(refer(host, referrer), id),
            dated_refund("rf_1", "10.00", id),
            dated_refund("rf_2", "5.00", id),
        ]
        for place in order:
            outcome(host, events[place])
            outcome(host, events[place])
        assert balance(host, referrer) == 500, order


def test_a_refund_of_everything_takes_everything(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    outcome(host, dated_payment(refer(host, referrer)))
    for status in ("pending", "requires_action", "failed", "canceled"):
        assert outcome(host, dated_refund("rf_1", "30.00", status=status)) == "not_refunded"
    assert outcome(host, dated_refund("rf_1", "30.00")) == "reversed"
    assert amounts(host, referrer) == [1000, -1000]


def test_a_refund_whose_amount_nobody_converted_takes_everything(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    outcome(host, dated_payment(refer(host, referrer)))
    original = money("5.00", "mxn")
    outcome(host, dated_refund("rf_1", "10.00", amount=None, original_amount=original))
    assert balance(host, referrer) == 0


def test_a_dispute_takes_it_back_until_it_is_won(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    outcome(host, dated_payment(refer(host, referrer)))
    for hour, status, left in (
        (1, "needs_response", 0),
        (2, "under_review", 0),
        (3, "won", 1000),
        (4, "lost", 0),
    ):
        outcome(host, dated_dispute("dspt_1", status, hour=hour))
        assert balance(host, referrer) == left, status


def test_an_inquiry_moves_no_money(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    outcome(host, dated_payment(refer(host, referrer)))
    for status in ("needs_response", "under_review", "closed", "warning_closed"):
        assert outcome(host, dated_dispute("dspt_1", status, inquiry=True)) == "inquiry"
    assert amounts(host, referrer) == [1000]


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({}, 1000),
        ({"visa_rdr": False, "rapid_dispute_resolution": None}, 1000),
        ({"visa_rdr": True}, 0),
        ({"rapid_dispute_resolution": True}, 0),
    ],
)
def test_a_prevented_dispute_takes_what_it_refunded(
    make: MakeHost, fields: dict[str, t.Any], left: int
) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    outcome(host, dated_payment(refer(host, referrer)))
    outcome(host, dated_dispute("dspt_1", "needs_response"))
    outcome(host, dated_dispute("dspt_1", "prevented", hour=1, **fields))
    assert balance(host, referrer) == left
    # An alert that was answered with a refund is prevented too: the refund is told by itself.
    outcome(host, dated_refund("rf_1", "30.00"))
    assert balance(host, referrer) == 0


def test_another_account_pays_nothing(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    sale = dated_payment(refer(host, referrer), account_id="biz_2")
    for foreign in (sale | {"account_id": "biz_2"}, sale | {"account_id": None}):
        assert outcome(host, foreign) == "other_company"
    nameless = dated_payment(refer(host, referrer), account_id=None) | {"account_id": None}
    assert outcome(host, nameless) == "other_company"
    assert amounts(host, referrer) == []


def test_money_is_read_in_its_own_currency(make_sqlite: MakeHost) -> None:
    seen: list[tuple[t.Any, ...]] = []

    def policy(purchase: t.Any) -> int:
        seen.append((purchase.currency, str(purchase.paid_amount), purchase.paid_cents))
        return 1000

    host = make_sqlite(reward_policy=policy, **CONFIG)
    sale = dated_payment(
        refer(host, host.add_user()),
        currency="jpy",
        total=money("4500", "jpy"),
        usd_total=money("30.15"),
        membership_id="mem_1",
    )
    assert outcome(host, sale) == "converted"
    assert seen == [("jpy", "4500", 3015)]


@pytest.mark.parametrize("amount", [None, "", "-1.00", "1e3", "ten", "NaN", {}, True, "9" * 11])
def test_what_is_no_amount_is_refused(make_sqlite: MakeHost, amount: t.Any) -> None:
    host = make_sqlite(**CONFIG)
    referred = refer(host, host.add_user())
    sale = dated_payment(referred, total={"amount": amount, "currency": "usd"})
    with pytest.raises(AssertionError, match="is not an amount"):
        outcome(host, sale)


def test_a_webhook_may_be_pinned_between_payment_and_refund(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    outcome(host, payment(refer(host, referrer)))
    outcome(host, dated_refund("rf_1", "10.00", "pay_mem_1"))
    outcome(host, refund("rf_2", 5.0))
    # Told of once in either form.
    outcome(host, dated_refund("rf_2", "5.00", "pay_mem_1"))
    assert balance(host, referrer) == 500


@pytest.mark.parametrize("bought", [None, {"id": "mem_1"}])
def test_an_undated_payment_may_have_no_membership(make: MakeHost, bought: t.Any) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    assert outcome(host, payment(refer(host, referrer), membership=bought)) == "converted"
    told = refund("rf_1", 30.0)
    told["data"]["payment"]["membership"] = bought
    assert outcome(host, told) == "reversed"
    assert amounts(host, referrer) == [1000, -1000]
