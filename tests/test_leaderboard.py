"""Who brought the most customers."""

from __future__ import annotations

import datetime as dt
import json
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import ReferralError
from flask_referral.results import LeaderboardEntry

from .conftest import MakeHost
from .hosts import Host
from .hosts import KEYS
from .money import pay
from .money import refer
from .money import refund
from .visiting import Clock


def board(host: Host, **options: t.Any) -> list[LeaderboardEntry]:
    with host.app.app_context():
        return host.referral.leaderboard(**options)


def sell(host: Host, referrer: t.Any, number: int, name: str, **options: t.Any) -> None:
    for count in range(number):
        pay(host, refer(host, referrer), f"mem_{name}_{count}", **options)


@pytest.mark.parametrize("key", KEYS)
def test_who_brought_more_customers_is_before_who_earned_more(make: MakeHost, key: str) -> None:
    host = make(key=key)
    many, dear, cheap, nobody, refunded = (host.add_user() for _ in range(5))
    sell(host, cheap, 1, "cheap", bonus_cents=100)
    sell(host, dear, 1, "dear", bonus_cents=9000)
    sell(host, many, 2, "many", bonus_cents=100)
    refer(host, many)
    refer(host, nobody)
    sell(host, refunded, 1, "refunded", bonus_cents=9000)
    refund(host, "mem_refunded_0")
    host.referral.display_name_loader(lambda user: "Ada" if user == many else None)
    rows = [
        (entry.rank, entry.user_id, entry.name, entry.signups, entry.conversions)
        for entry in board(host)
    ]
    assert rows == [
        (1, many, "Ada", 3, 2),
        (2, dear, None, 1, 1),
        (3, cheap, None, 1, 1),
        (4, refunded, None, 1, 1),
    ]
    assert [entry.earned_cents for entry in board(host)] == [200, 9000, 100, 0]
    assert [entry.user_id for entry in board(host, limit=2)] == [many, dear]
    # Ids are for the host alone.
    assert json.dumps([entry.to_dict() for entry in board(host, limit=1)]) == json.dumps(
        [{"rank": 1, "name": "Ada", "signups": 3, "conversions": 2, "earned_cents": 200}]
    )


def test_days_count_what_came_in_them(make: MakeHost, clock: Clock) -> None:
    host = make()
    early, late = host.add_user(), host.add_user()
    sell(host, early, 3, "early")
    for model, column in (("ReferralReward", "created_at"), ("ReferralClick", "bound_at")):
        table = getattr(host.referral.models, model).__table__
        with host.app.app_context(), host.db.engine.begin() as db:
            db.execute(sa.update(table).values({column: clock.time - dt.timedelta(days=40)}))
    sell(host, late, 1, "late")
    assert [entry.user_id for entry in board(host)] == [early, late]
    assert [(entry.user_id, entry.signups) for entry in board(host, days=30)] == [(late, 1)]
    assert [entry.user_id for entry in board(host, days=60)] == [early, late]


def test_it_takes_two_statements_whatever_the_number_of_referrers(make: MakeHost) -> None:
    host = make()
    for number in range(4):
        sell(host, host.add_user(), 1, str(number))
    board(host)
    with host.statements() as seen:
        assert len(board(host)) == 4
    assert len(seen) == 2


@pytest.mark.parametrize("options", [{"days": 0}, {"days": 367}, {"limit": 0}, {"limit": 101}])
def test_numbers_out_of_bounds_are_refused(make: MakeHost, options: dict[str, int]) -> None:
    with pytest.raises(ReferralError, match="whole number"):
        board(make(), **options)
