"""Refunds and disputes: each counts once, for its own payment, in whatever order they come."""

from __future__ import annotations

import itertools
import typing as t

import pytest

from flask_referral.conversions.facts import Kind
from flask_referral.errors import ReferralError
from flask_referral.results import Reward

from ..conftest import MakeHost
from ..money import amounts
from ..money import balance
from ..money import delete_user
from ..money import deliver
from ..money import happen
from ..money import pay
from ..money import refer
from ..money import refund
from ..money import rewards
from ..money import withdraw


def test_each_refund_counts_once(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    told = (("a", 300), ("a", 300), ("b", 900), ("c", 1), ("d", None))
    answers = [refund(host, refund_id=id, amount_cents=cents) for id, cents in told]
    assert answers == [
        ("reversed", 300, 0),
        ("already_reversed", 0, 0),
        ("reversed", 700, 0),
        ("nothing_to_reverse", 0, 0),
        ("nothing_to_reverse", 0, 0),
    ]
    assert amounts(host, referrer) == [1000, -300, -700]
    assert balance(host, referrer) == 0
    assert [(row.status, row.reversed_cents) for row in rewards(host)] == [("reversed", 1000)]


def test_a_part_without_an_id_is_taken_once_and_then_asked_about(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    assert refund(host, amount_cents=300) == ("reversed", 300, 0)
    for cents in (300, 200):
        with pytest.raises(ReferralError, match="pass refund_id"):
            refund(host, amount_cents=cents)
    assert refund(host, refund_id="b", amount_cents=200) == ("reversed", 200, 0)
    assert balance(host, referrer) == 500
    # Everything is everything, whatever came before.
    assert refund(host) == ("reversed", 500, 0)
    assert refund(host) == ("already_reversed", 0, 0)
    assert balance(host, referrer) == 0


def test_a_part_without_an_id_before_its_payment_is_asked_about_too(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert refund(host, amount_cents=400) == ("unknown_membership", 0, 0)
    with pytest.raises(ReferralError, match="pass refund_id"):
        refund(host, amount_cents=400)
    assert pay(host, referred) == "converted"
    assert balance(host, referrer) == 600
    with pytest.raises(ReferralError, match="pass refund_id"):
        refund(host, amount_cents=400)
    assert pay(host, referred) == "already_converted"
    assert amounts(host, referrer) == [1000, -400]


def test_a_refund_of_everything_before_its_payment_is_repeated_without_harm(
    make: MakeHost,
) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert refund(host, amount_cents=400) == ("unknown_membership", 0, 0)
    assert refund(host) == ("unknown_membership", 0, 0)
    assert refund(host) == ("already_reversed", 0, 0)
    pay(host, referred)
    assert balance(host, referrer) == 0


@pytest.mark.parametrize("names", ["payment", "membership"])
def test_every_order_of_arrival_ends_in_the_same_amount(make: MakeHost, names: str) -> None:
    host = make()

    def fact(kind: Kind, id: str, minutes: int, cents: int | None = None) -> t.Any:
        def tell(number: int, referred: t.Any) -> None:
            name = {"payment": "payment_id", "membership": "membership_id"}[names]
            happen(
                host,
                kind,
                **{name: f"{names}_{number}"},
                id=id,
                minutes=minutes,
                amount_cents=cents,
                base_cents=cents and 3000,
            )

        return tell

    def purchase(number: int, referred: t.Any) -> None:
        pay(host, referred, f"membership_{number}", payment_id=f"payment_{number}")

    steps = [
        purchase,
        fact(Kind.refund, "a", 1, 1000),
        fact(Kind.refund, "b", 2, 500),
        fact(Kind.dispute_opened, "d", 3),
        fact(Kind.dispute_won, "d", 4),
    ]
    for number, order in enumerate(itertools.permutations(steps)):
        referrer = host.add_user()
        referred = refer(host, referrer)
        for step in (*order, order[0]):
            step(number, referred)
        # A half of what was paid came back.
        assert balance(host, referrer) == 500, order


def test_three_thirds_are_the_whole(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    referrer = host.add_user()
    pay(host, refer(host, referrer), bonus_cents=100)
    for id in "abc":
        happen(host, Kind.refund, payment_id="mem_1", id=id, amount_cents=333, base_cents=999)
    assert amounts(host, referrer) == [100, -33, -34, -33]


# Which payment is meant


def test_a_refund_of_the_second_month_leaves_the_bonus_of_the_first(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    pay(host, referred, payment_id="pay_1")
    pay(host, referred, payment_id="pay_2")
    assert refund(host, payment_id="pay_2") == ("unknown_membership", 0, 0)
    assert balance(host, referrer) == 1000


def test_a_refund_counts_in_proportion_to_its_own_payment(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    for payment in ("pay_1", "pay_2"):
        pay(host, referred, payment_id=payment)
        half: dict[str, t.Any] = {"amount_cents": 1500, "base_cents": 3000}
        happen(host, Kind.refund, payment_id=payment, id=f"re_{payment}", **half)
    assert balance(host, referrer) == 500


def test_a_refund_of_a_renewal_takes_the_renewals_bonus(make: MakeHost) -> None:
    host = make(REFERRAL_RENEWALS=None, reward_policy=lambda purchase: 1000 // purchase.number)
    referrer = host.add_user()
    referred = refer(host, referrer)
    for number in (1, 2, 3):
        pay(host, referred, payment_id=f"pay_{number}")
    assert refund(host, payment_id="pay_2") == ("reversed", 500, 0)
    # Without a payment, the one that qualified is meant.
    assert refund(host) == ("reversed", 1000, 0)
    assert [row.reversed_cents for row in rewards(host)] == [1000, 500, 0]
    assert balance(host, referrer) == 333


def test_a_refund_that_names_its_payment_only_finds_it(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    deliver(host, refer(host, referrer), provider="whop", id="pay_1", membership_id="mem_1")
    assert happen(host, Kind.refund, provider="whop", payment_id="pay_1") == "reversed"
    assert balance(host, referrer) == 0


def test_a_refund_of_another_providers_equal_id_takes_nothing(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    deliver(host, refer(host, referrer), provider="whop", id="pay_1", membership_id="mem_1")
    for name in ("payment_id", "membership_id"):
        value = "pay_1" if name == "payment_id" else "mem_1"
        assert happen(host, Kind.refund, provider="stripe", **{name: value}) == (
            "unknown_membership"
        )
    assert balance(host, referrer) == 1000


def test_what_waits_under_a_membership_goes_to_the_first_payment_that_earns(
    make: MakeHost,
) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert happen(host, Kind.refund, membership_id="mem_1", id="re_1") == "unknown_membership"
    assert pay(host, referred, payment_id="trial", bonus_cents=0) == "no_bonus"
    assert pay(host, referred, payment_id="pay_1") == "converted"
    assert balance(host, referrer) == 0
    assert pay(host, referred, payment_id="pay_2") == "converted"
    assert balance(host, referrer) == 1000
    # Told again, it is still the refund of the first.
    assert happen(host, Kind.refund, membership_id="mem_1", id="re_1") == "already_reversed"
    assert happen(host, Kind.refund, payment_id="pay_1", id="re_1") == "already_reversed"
    assert balance(host, referrer) == 1000


def test_a_fact_that_came_by_both_names_counts_once(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    part: dict[str, t.Any] = {"id": "re_1", "amount_cents": 1, "base_cents": 4}
    happen(host, Kind.refund, membership_id="mem_1", **part)
    happen(host, Kind.refund, payment_id="pay_1", **part)
    pay(host, refer(host, referrer), payment_id="pay_1")
    assert balance(host, referrer) == 750
    assert happen(host, Kind.refund, membership_id="mem_1", **part) == "already_reversed"
    assert balance(host, referrer) == 750


def test_a_dispute_stays_with_the_payment_it_began_with(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    pay(host, referred, payment_id="pay_1")
    happen(host, Kind.dispute_opened, membership_id="mem_1", id="d")
    pay(host, referred, payment_id="pay_2")
    assert balance(host, referrer) == 1000
    assert [row.status for row in rewards(host)] == ["reversed", "credited"]
    happen(host, Kind.dispute_won, membership_id="mem_1", id="d", minutes=1)
    assert [row.status for row in rewards(host)] == ["credited", "credited"]
    assert balance(host, referrer) == 2000


def test_ids_with_separators_in_them_are_told_apart(make: MakeHost) -> None:
    host = make(REFERRAL_RENEWALS=None)
    referrer = host.add_user()
    referred = refer(host, referrer)
    for payment in ("a:1", "a"):
        pay(host, referred, payment_id=payment)
    assert refund(host, payment_id="a:1", refund_id="b", amount_cents=10) == ("reversed", 10, 0)
    assert refund(host, payment_id="a", refund_id="1:b", amount_cents=10) == ("reversed", 10, 0)


# Disputes


def test_an_open_dispute_takes_everything_until_the_last_is_won(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    assert happen(host, Kind.dispute_opened, membership_id="mem_1", id="d1") == "reversed"
    happen(host, Kind.dispute_opened, membership_id="mem_1", id="d2")
    happen(host, Kind.dispute_won, membership_id="mem_1", id="d1")
    assert balance(host, referrer) == 0
    happen(host, Kind.dispute_won, membership_id="mem_1", id="d2")
    assert amounts(host, referrer) == [1000, -1000, 1000]
    assert balance(host, referrer) == 1000


#: What is told, by minutes after noon in the order of arrival, and what is left of the bonus.
DISPUTES = {
    "opened 1, won 2": 1000,
    "won 2, opened 1": 1000,
    "won 1, opened 2": 0,
    "opened 2, won 1": 0,
    "opened 1, won 1": 1000,
    "won 1, opened 1": 1000,
    "opened 1, won 2, opened 3": 0,
    "opened 3, won 2, opened 1": 0,
    "opened 1, opened 3, won 2, won 4": 1000,
    "won 4, opened 3, opened 1, won 2": 1000,
}


def test_the_later_state_of_a_dispute_counts_whichever_arrives_first(make: MakeHost) -> None:
    host = make()
    ways = itertools.product(DISPUTES, ("payment_id", "membership_id"), (True, False))
    for number, (told, names, is_paid_last) in enumerate(ways):
        referrer = host.add_user()
        referred = refer(host, referrer)
        if not is_paid_last:
            pay(host, referred, f"mem_{number}")
        for item in told.split(", "):
            what, minutes = item.split()
            kind = Kind.dispute_won if what == "won" else Kind.dispute_opened
            happen(host, kind, **{names: f"mem_{number}"}, id="d", minutes=int(minutes))
        if is_paid_last:
            pay(host, referred, f"mem_{number}")
        assert balance(host, referrer) == DISPUTES[told], (told, names, is_paid_last)


# What is not in the wallet any more


def test_a_dispute_that_is_won_gives_back_what_was_taken_and_forgives_the_rest(
    make: MakeHost,
) -> None:
    host = make(positive_wallet=True)
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    withdraw(host, referrer, 900)
    happen(host, Kind.dispute_opened, membership_id="mem_1", id="d")
    assert [(row.reversed_cents, row.shortfall_cents) for row in rewards(host)] == [(100, 900)]
    happen(host, Kind.dispute_won, membership_id="mem_1", id="d")
    assert [(row.reversed_cents, row.shortfall_cents) for row in rewards(host)] == [(0, 0)]
    assert amounts(host, referrer) == [1000, -900, -100, 100]
    pay(host, refer(host, referrer), "mem_2")
    assert balance(host, referrer) == 1100


def test_what_a_won_dispute_gives_back_pays_other_shortfalls_first(make: MakeHost) -> None:
    host = make(positive_wallet=True)
    referrer = host.add_user()
    pay(host, refer(host, referrer), "mem_1")
    pay(host, refer(host, referrer), "mem_2")
    happen(host, Kind.dispute_opened, membership_id="mem_1", id="d")
    withdraw(host, referrer, 800)
    assert refund(host, "mem_2") == ("reversed", 200, 800)
    happen(host, Kind.dispute_won, membership_id="mem_1", id="d")
    assert balance(host, referrer) == 200
    assert [row.shortfall_cents for row in rewards(host)] == [0, 0]


def test_a_part_of_a_payment_leaves_a_bonus_of_nothing_where_it_was(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: Reward(0, 300))
    referred = refer(host, host.add_user())
    pay(host, referred)
    happen(host, Kind.refund, payment_id="mem_1", id="a", amount_cents=1, base_cents=2)
    assert [row.status for row in rewards(host)] == ["credited", "credited"]
    assert balance(host, referred) == 150


def test_a_part_that_was_taken_stays_a_part_when_the_referrer_goes(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: Reward(1000, 500))
    referrer = host.add_user()
    buyer = refer(host, referrer)
    pay(host, buyer)
    refund(host, refund_id="a", amount_cents=300)
    assert balance(host, buyer) == 350
    delete_user(host, referrer)
    assert happen(host, Kind.dispute_opened, payment_id="mem_1", id="d") == "reversed"
    assert balance(host, buyer) == 0
    happen(host, Kind.dispute_won, payment_id="mem_1", id="d", minutes=1)
    assert balance(host, buyer) == 350


def test_whatever_stops_a_refund_leaves_no_fact_behind(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make()
    referrer = host.add_user()
    pay(host, refer(host, referrer))

    def stop(*args: t.Any, **options: t.Any) -> t.NoReturn:
        raise KeyboardInterrupt

    with host.app.app_context():
        with monkeypatch.context() as patch:
            patch.setattr("flask_referral.conversions.rewards.of_payment", stop)
            with pytest.raises(KeyboardInterrupt):
                host.referral.reverse("mem_1", reason="refund")
        with pytest.raises(KeyboardInterrupt):
            host.db.session.commit()
        host.db.session.rollback()
    assert refund(host) == ("reversed", 1000, 0)
    assert balance(host, referrer) == 0
