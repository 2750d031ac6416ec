"""Many sign-ups of one visit, or of one day, are paid only as far as the limit goes."""

from __future__ import annotations

import collections
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import clock

from ..conftest import MakeHost
from ..hosts import Host
from ..money import pay
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import Clock
from ..visiting import COOKIE
from ..visiting import cookie_value


@pytest.fixture
def days(request: pytest.FixtureRequest) -> Clock:
    """Return the clock, whose name the module has here."""
    return t.cast(Clock, request.getfixturevalue("clock"))


def sign_up(host: Host, cookie: str) -> t.Any:
    """Bind a new user to the visit of a cookie; return the key."""
    with host.app.test_request_context(headers={"Cookie": f"{COOKIE}={cookie}"}):
        user = host.User(created_at=clock.now())
        host.db.session.add(user)
        host.db.session.flush()
        assert host.referral.attribute(user).reason == "attributed"
        host.db.session.commit()
        return user.id


def visit(host: Host, code: str) -> str:
    return cookie_value(browser(host).get(f"/r/{code}"))


def reasons(host: Host) -> list[str]:
    """Return why what is held is held."""
    fact = host.referral.models.ReferralEvent.__table__
    with host.app.app_context(), host.db.engine.connect() as connection:
        return list(connection.scalars(sa.select(fact.c.outcome).where(fact.c.kind == "hold")))


@pytest.mark.parametrize("key", ["int", "uuid"])
def test_of_30_sign_ups_of_one_cookie_those_over_the_limit_are_held(
    make: MakeHost, days: Clock, key: str
) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=5, key=key)
    _, code = add_referrer(host)
    cookie = visit(host, code)
    users = []
    for _ in range(30):
        days.turn(seconds=1)
        users.append(sign_up(host, cookie))
    # They buy one on a day, which no limit of a day's conversions sees, the last one first.
    came = []
    for number, user in enumerate(reversed(users)):
        days.turn(days=1)
        came.append(pay(host, user, f"mem_{number}"))
    assert came == ["held"] * 25 + ["converted"] * 5
    assert set(reasons(host)) == {"over REFERRAL_VELOCITY_LIMIT on the day of the sign-up"}


def test_of_sign_ups_of_one_moment_as_many_are_paid(make: MakeHost, days: Clock) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=2)
    _, code = add_referrer(host)
    cookie = visit(host, code)
    users = [sign_up(host, cookie) for _ in range(6)]
    came = []
    for number, user in enumerate(users):
        days.turn(days=1)
        came.append(pay(host, user, f"mem_{number}"))
    assert collections.Counter(came) == {"held": 4, "converted": 2}


def test_sign_ups_of_other_days_and_referrers_hold_nothing(make: MakeHost, days: Clock) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=1)
    _, code = add_referrer(host)
    _, other = add_referrer(host)
    came = []
    for number in range(4):
        days.turn(days=1)
        # Followed, and not signed up.
        for _ in range(3):
            visit(host, code)
        users = [sign_up(host, visit(host, each)) for each in (code, other)]
        came += [pay(host, user, f"mem_{number}_{place}") for place, user in enumerate(users)]
    assert came == ["converted"] * 8


def test_accounts_that_are_deleted_go_on_counting(make: MakeHost, days: Clock) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=3)
    _, code = add_referrer(host)
    users = []
    for _ in range(4):
        days.turn(minutes=1)
        users.append(sign_up(host, visit(host, code)))
    with host.app.app_context():
        for user in users[:3]:
            host.db.session.execute(sa.delete(host.User).where(host.User.id == user))
        host.db.session.commit()
    days.turn(days=1)
    assert pay(host, users[3]) == "held"


def test_without_a_limit_nobody_is_held(make: MakeHost, days: Clock) -> None:
    host = make()
    _, code = add_referrer(host)
    cookie = visit(host, code)
    users = [sign_up(host, cookie) for _ in range(10)]
    assert {pay(host, user, f"mem_{user}") for user in users} == {"converted"}
