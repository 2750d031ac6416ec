"""Visitors for the tests: a clock to turn, codes, and what the database holds of clicks."""

from __future__ import annotations

import datetime as dt
import typing as t
from http.cookies import SimpleCookie

import sqlalchemy as sa
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_referral.testing import BROWSER

from .hosts import Host

COOKIE = "virtuna_referral"
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


class Clock:
    """What ``flask_referral.clock.now`` says."""

    def __init__(self) -> None:
        # Databases date the accounts of the tests by the real time: later than this minute.
        self.time = dt.datetime.now(dt.UTC).replace(hour=0, minute=1)

    def __call__(self) -> dt.datetime:
        return self.time

    def turn(self, **amount: float) -> None:
        self.time += dt.timedelta(**amount)


def make_code(host: Host, user_id: t.Any) -> str:
    """Return the code of a user."""
    with host.app.app_context():
        code = host.referral.get_or_create_code(user_id).code
        host.db.session.commit()
        return code


def add_referrer(host: Host) -> tuple[t.Any, str]:
    """Store a user with a code and return both."""
    user_id = host.add_user(name="referrer")
    return user_id, make_code(host, user_id)


def clicks(host: Host) -> list[t.Any]:
    """Return all clicks, oldest first."""
    table = host.referral.models.ReferralClick.__table__
    with host.app.app_context(), host.db.engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.clicked_at, table.c.id)))


def browser(host: Host) -> FlaskClient:
    """Return the client of a visitor who nobody knows yet."""
    client = host.client()
    client.environ_base["HTTP_USER_AGENT"] = BROWSER
    return client


def set_cookie(response: TestResponse) -> str | None:
    """Return the visit cookie that a response sets, with its attributes."""
    found = [line for line in response.headers.getlist("Set-Cookie") if line.startswith(COOKIE)]
    assert len(found) <= 1
    return found[0] if found else None


def cookie_value(response: TestResponse) -> str:
    """Return the value of the visit cookie that a response sets."""
    return SimpleCookie(set_cookie(response))[COOKIE].value
