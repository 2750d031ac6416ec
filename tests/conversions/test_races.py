"""Payments, refunds and moves at the same moment: each earns once, and for the right person."""

from __future__ import annotations

import contextlib
import random
import typing as t
from time import sleep

import pytest
import sqlalchemy as sa

from flask_referral import clock
from flask_referral.attribution import reattribute
from flask_referral.errors import AttributionRefused

from ..conftest import MakeHost
from ..hosts import Host
from ..money import at_once
from ..money import balance
from ..money import pay
from ..money import pool
from ..money import refer
from ..money import refund
from ..money import rewards
from ..money import transaction
from ..visiting import make_code

THREADS = 32


def test_as_many_renewals_earn_as_the_host_says_however_many_come_at_once(
    make_postgresql: MakeHost,
) -> None:
    host = make_postgresql(REFERRAL_RENEWALS=3, **pool(THREADS))
    referrer = host.add_user()
    for memberships, earned in ((1, 0), (THREADS, 0), (1, 1), (THREADS, 2)):
        referred = refer(host, referrer)
        answers = [
            pay(host, referred, payment_id=f"{referred}_{number}") for number in range(earned)
        ]

        def buy(
            number: int,
            referred: t.Any = referred,
            memberships: int = memberships,
            answers: list[str] = answers,
        ) -> None:
            payment = f"pay_{referred}_{number}"
            membership = f"mem_{referred}_{number % memberships}"
            answers.append(pay(host, referred, membership, payment_id=payment))

        at_once([lambda number=number: buy(number) for number in range(THREADS)])
        late = ["already_converted"] * (THREADS + earned - 4)
        assert sorted(answers) == [*late, "converted", "renewed", "renewed", "renewed"]
        numbers = [row.number for row in rewards(host) if row.referred_user_id == referred]
        assert sorted(numbers) == [1, 2, 3, 4]
    assert balance(host, referrer) == 16_000


def test_one_payment_that_is_delivered_by_many_earns_once(make_postgresql: MakeHost) -> None:
    host = make_postgresql(REFERRAL_RENEWALS=None, **pool(THREADS))
    referrer = host.add_user()
    referred = refer(host, referrer)
    answers: list[str] = []

    def buy() -> None:
        answers.append(pay(host, referred, payment_id="pay_1"))

    at_once([buy] * THREADS)
    assert sorted(answers) == ["already_converted"] * 31 + ["converted"]
    assert balance(host, referrer) == 1000


def test_a_refund_and_its_payment_never_miss_each_other(make_postgresql: MakeHost) -> None:
    host = make_postgresql(**pool(4))
    referrer = host.add_user()
    for number in range(20):
        referred = refer(host, referrer)
        name = {"payment_id": f"pay_{number}"} if number % 2 else {}
        at_once(
            [
                lambda referred=referred, number=number: pay(
                    host, referred, f"mem_{number}", payment_id=f"pay_{number}"
                ),
                lambda number=number, name=name: refund(host, f"mem_{number}", **name),
            ]
        )
        assert balance(host, referrer) == 0


def _bound_to(host: Host, referred: t.Any) -> t.Any:
    click = host.referral.models.ReferralClick
    with host.app.app_context():
        query = sa.select(click.referrer_user_id).where(click.referred_user_id == referred)
        return host.db.session.scalar(query)


def test_the_bonus_is_whose_the_buyer_is_even_if_moved_at_that_moment(
    make_postgresql: MakeHost,
) -> None:
    host = make_postgresql(**pool(4))
    first, second = host.add_user(), host.add_user()
    code = make_code(host, second)
    chance = random.Random(6)
    for number in range(40):
        referred = refer(host, first)

        def move(referred: t.Any = referred) -> None:
            with host.app.app_context():
                tx = transaction(host)
                with contextlib.suppress(AttributionRefused):
                    reattribute(tx.db, tx.models, referred, code, now=clock.now())
                tx.session.commit()

        def buy(number: int = number, referred: t.Any = referred) -> None:
            sleep(chance.random() / 200)
            pay(host, referred, f"mem_{number}")

        at_once([move, buy])
        bonus = next(row for row in rewards(host) if row.referred_user_id == referred)
        assert bonus.user_id == _bound_to(host, referred)

    assert balance(host, first) + balance(host, second) == 40_000


def test_a_buyer_is_not_deleted_on_the_way_to_the_reward(make_postgresql: MakeHost) -> None:
    host = make_postgresql(**pool(2))
    buyer = refer(host, host.add_user())
    take = sa.select(host.User.id).filter_by(id=buyer).with_for_update(nowait=True, key_share=True)
    with host.app.app_context(), host.db.engine.connect() as other:
        host.referral.convert(buyer, "mem_1")
        # Else the deletion would hold the user and wait for the click, and the purchase the
        # other way round.
        with pytest.raises(sa.exc.OperationalError, match="could not obtain lock"):
            other.execute(take)
