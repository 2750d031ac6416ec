"""Holds, reviews and maturity: what waits is credited once, or given up for good."""

from __future__ import annotations

import datetime as dt
import typing as t
import uuid

import pytest

from flask_referral import clock
from flask_referral import clock as extension_clock
from flask_referral import signals
from flask_referral.conversions import maturity
from flask_referral.conversions.facts import Kind
from flask_referral.errors import ReferralError
from flask_referral.results import Reward

from ..conftest import MakeHost
from ..hosts import Host
from ..money import amounts
from ..money import balance
from ..money import delete_user
from ..money import happen
from ..money import mature
from ..money import MONDAY
from ..money import pay
from ..money import refer
from ..money import refund
from ..money import refuse_rows
from ..money import rewards
from ..money import rows
from ..money import sign_up_on_days_of_their_own
from ..money import transaction
from ..money import withdraw
from ..visiting import Clock

SetClock = t.Callable[[dt.datetime], None]
TWO_WEEKS = dt.timedelta(days=14)


def release(host: Host, reward: uuid.UUID, now: dt.datetime = MONDAY) -> str:
    with host.app.app_context():
        row = maturity.release(transaction(host), reward, now)
        host.db.session.commit()
        return row.status.value


def void(host: Host, reward: uuid.UUID) -> tuple[str, int]:
    with host.app.app_context():
        outcome = maturity.void(transaction(host), reward, MONDAY)
        host.db.session.commit()
        return outcome.reason.value, outcome.cents


def statuses(host: Host) -> list[str]:
    return [row.status for row in rewards(host)]


def test_a_held_back_bonus_is_credited_when_its_hold_is_over(make: MakeHost, now: SetClock) -> None:
    host = make(REFERRAL_HOLD_DAYS=14)
    referrer = host.add_user()
    assert pay(host, refer(host, referrer)) == "pending"
    assert clock.as_utc(rewards(host)[0].available_at) == MONDAY + TWO_WEEKS
    assert mature(host, MONDAY + TWO_WEEKS - dt.timedelta(seconds=1)) is None
    assert rows(host, referrer) == []
    assert refund(host, refund_id="a", amount_cents=250) == ("voided", 250, 0)
    assert mature(host, MONDAY + TWO_WEEKS) == 1
    assert mature(host, MONDAY + TWO_WEEKS * 9) is None
    assert statuses(host) == ["credited"]
    assert rows(host, referrer) == [("referral_bonus", 750, 750)]
    assert refund(host, refund_id="b") == ("reversed", 750, 0)
    assert balance(host, referrer) == 0


def test_bought_refunded_and_bought_again_within_a_hold_is_credited_once(
    make: MakeHost, now: SetClock
) -> None:
    host = make(REFERRAL_HOLD_DAYS=14)
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert pay(host, referred, payment_id="pay_1") == "pending"
    assert refund(host, payment_id="pay_1") == ("voided", 1000, 0)
    assert pay(host, referred, payment_id="pay_2") == "pending"
    assert pay(host, referred, payment_id="pay_3") == "already_converted"
    assert mature(host, MONDAY + TWO_WEEKS) == 1
    assert mature(host, MONDAY + TWO_WEEKS) is None
    assert amounts(host, referrer) == [1000]
    assert statuses(host) == ["void", "credited"]


def test_a_policy_may_hold_longer_or_shorter_than_the_setting(
    make: MakeHost, now: SetClock
) -> None:
    days = [0, 30, None]
    host = make(
        REFERRAL_HOLD_DAYS=14,
        REFERRAL_RENEWALS=None,
        reward_policy=lambda purchase: Reward(100, hold_days=days[purchase.number - 1]),
    )
    referred = refer(host, host.add_user())
    answers = [pay(host, referred, payment_id=f"pay_{number}") for number in range(3)]
    assert answers == ["converted", "pending", "pending"]
    due = [row.available_at and clock.as_utc(row.available_at) for row in rewards(host)]
    assert due == [None, MONDAY + dt.timedelta(days=30), MONDAY + TWO_WEEKS]


def test_what_was_refunded_before_maturity_never_reaches_the_wallet(make: MakeHost) -> None:
    host = make(REFERRAL_HOLD_DAYS=1, reward_policy=lambda purchase: Reward(1000, 300))
    referrer = host.add_user()
    referred = refer(host, referrer)
    pay(host, referred)
    assert refund(host) == ("voided", 1000, 0)
    assert statuses(host) == ["void", "void"]
    assert mature(host, clock.now() + dt.timedelta(days=9)) is None
    assert (rows(host, referrer), rows(host, referred)) == ([], [])


def test_a_dispute_that_is_won_before_maturity_is_credited_with_the_rest(make: MakeHost) -> None:
    host = make(REFERRAL_HOLD_DAYS=1)
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    assert happen(host, Kind.dispute_opened, membership_id="mem_1", id="d") == "voided"
    assert statuses(host) == ["void"]
    happen(host, Kind.dispute_won, membership_id="mem_1", id="d")
    assert statuses(host) == ["pending"]
    assert mature(host, clock.now() + dt.timedelta(days=9)) == 1
    assert amounts(host, referrer) == [1000]


def test_a_pending_bonus_of_a_deleted_buyer_is_still_credited_and_taken_back(
    make: MakeHost, now: SetClock
) -> None:
    host = make(REFERRAL_HOLD_DAYS=14)
    referrer = host.add_user()
    referred = refer(host, referrer)
    pay(host, referred)
    delete_user(host, referred)
    assert mature(host, MONDAY + TWO_WEEKS) == 1
    assert refund(host) == ("reversed", 1000, 0)
    assert amounts(host, referrer) == [1000, -1000]


def test_maturity_pays_off_what_is_missing(make: MakeHost, now: SetClock) -> None:
    hold = [0, 14]
    host = make(
        positive_wallet=True, reward_policy=lambda purchase: Reward(1000, hold_days=hold.pop(0))
    )
    referrer = host.add_user()
    pay(host, refer(host, referrer), "mem_1")
    withdraw(host, referrer, 900)
    assert refund(host, "mem_1") == ("reversed", 100, 900)
    pay(host, refer(host, referrer), "mem_2")
    mature(host, MONDAY + TWO_WEEKS)
    assert amounts(host, referrer) == [1000, -900, -100, 1000, -900]


def test_what_is_over_the_limit_of_a_day_waits_for_a_reviewer(
    make: MakeHost, now: SetClock
) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=2, reward_policy=lambda purchase: Reward(1000, 300))
    referrer = host.add_user()
    referred = [refer(host, referrer) for _ in range(4)]
    sign_up_on_days_of_their_own(host)
    answers = [pay(host, user, f"mem_{number}") for number, user in enumerate(referred[:3])]
    assert answers == ["converted", "converted", "held"]
    held = [row for row in rewards(host) if row.status == "held"]
    assert [row.role for row in held] == ["referrer", "referred"]
    now(MONDAY + dt.timedelta(days=1))
    assert pay(host, referred[3], "mem_3") == "converted"
    assert balance(host, referrer) == 3000
    assert release(host, held[0].id) == "credited"
    assert (balance(host, referrer), balance(host, referred[2])) == (4000, 0)
    with pytest.raises(ReferralError, match="is credited, not held; use reverse"):
        release(host, held[0].id)
    assert void(host, held[1].id) == ("voided", 300)
    assert balance(host, referred[2]) == 0


def test_the_limit_counts_renewals_and_survives_the_buyers_account(
    make: MakeHost, now: SetClock
) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=2, REFERRAL_RENEWALS=None)
    referrer = host.add_user()
    referred = refer(host, referrer)
    answers = [pay(host, referred, payment_id=f"pay_{number}") for number in range(2)]
    assert answers == ["converted", "renewed"]
    delete_user(host, referred)
    assert pay(host, refer(host, referrer), "mem_2") == "held"


def test_a_released_bonus_waits_for_the_rest_of_its_hold(make: MakeHost, now: SetClock) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=0, REFERRAL_HOLD_DAYS=14)
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    (held,) = rewards(host)
    assert clock.as_utc(held.available_at) == MONDAY + TWO_WEEKS
    assert mature(host, MONDAY + TWO_WEEKS) is None
    assert release(host, held.id, MONDAY + dt.timedelta(days=1)) == "pending"
    assert rows(host, referrer) == []
    assert mature(host, MONDAY + TWO_WEEKS) == 1
    assert balance(host, referrer) == 1000


def test_what_a_reviewer_gave_up_stays_given_up(make: MakeHost) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=0)
    referrer = host.add_user()
    referred = refer(host, referrer)
    pay(host, referred, payment_id="pay_1")
    happen(host, Kind.dispute_opened, payment_id="pay_1", id="d")
    assert statuses(host) == ["void"]
    happen(host, Kind.dispute_won, payment_id="pay_1", id="d")
    assert statuses(host) == ["held"]
    assert void(host, rewards(host)[0].id) == ("voided", 1000)
    happen(host, Kind.dispute_won, payment_id="pay_1", id="d2")
    assert statuses(host) == ["void"]
    with pytest.raises(ReferralError, match="nothing left to decide"):
        void(host, rewards(host)[0].id)
    assert rows(host, referrer) == []
    assert pay(host, referred, payment_id="pay_2") == "held"


def test_a_reward_that_does_not_exist_is_said_to_be_none(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    for decide in (release, void):
        with pytest.raises(ReferralError, match="There is no reward"):
            decide(host, uuid.uuid4())


def test_nobody_waits_for_a_wallet_that_is_frozen(make: MakeHost, clock: Clock) -> None:
    host = make(REFERRAL_HOLD_DAYS=1)
    told: list[t.Any] = []

    def receive(app: t.Any, **values: t.Any) -> None:
        told.append(values["user_id"])

    frozen, other = host.add_user(), host.add_user()
    for number, referrer in enumerate((frozen, other)):
        pay(host, refer(host, referrer), f"mem_{number}")
    refuse_rows(host, f"NEW.user_id = {frozen}")
    clock.turn(days=1)
    with signals.conversion_credited.connected_to(receive):
        said = host.failure("mature")
    assert told == [other]
    assert "1 reward could not be credited and will be tried again in a day" in said
    assert f"user {frozen}" in said
    assert (balance(host, frozen), balance(host, other)) == (0, 1000)
    assert statuses(host) == ["pending", "credited"]
    refuse_rows(host, "false")
    clock.turn(days=1)
    assert "Credited 1 reward" in host.cli("mature").stdout
    assert balance(host, frozen) == 1000


def test_a_moment_that_is_asked_about_is_not_the_one_it_happened(
    make: MakeHost, clock: Clock
) -> None:
    host = make(REFERRAL_HOLD_DAYS=7)
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    refuse_rows(host, "true")
    later = clock() + dt.timedelta(days=30)
    # It ends, although what was refused is due by the moment that was asked about.
    assert "could not be credited" in host.failure("mature", "--now", later.isoformat())
    refuse_rows(host, "false")
    later += dt.timedelta(days=2)
    host.cli("mature", "--now", later.isoformat())
    credited_at = rewards(host)[0].credited_at
    assert extension_clock.as_utc(credited_at) == clock()
