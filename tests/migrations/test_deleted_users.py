"""SQLite gives the key of a deleted user to the next one; nothing of ours goes along."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from ..conftest import MakeHost
from ..history import fetch
from ..hosts import Host
from ..hosts import KEYS
from ..visiting import add_referrer
from ..visiting import make_code


@pytest.fixture(params=KEYS)
def host(request: pytest.FixtureRequest, make_sqlite: MakeHost) -> Host:
    """A host that has not switched foreign keys on."""
    host = make_sqlite(key=request.param)
    with host.app.app_context(), host.db.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 0
    return host


def refer(host: Host, code: str) -> t.Any:
    """Store a user who signed up with a code, and bought; return the key."""
    user = host.add_user()
    models = host.referral.models
    with host.app.app_context():
        session = host.db.session
        click = host.referral.attribute(user, code=code).click
        assert click is not None
        values = {"referrer_user_id": click.referrer_user_id, "referred_user_id": user}
        conversion = models.ReferralConversion(
            referral_code=code, whop_membership_id="mem_1", bonus_cents=1000, **values
        )
        session.add(conversion)
        session.flush()
        for role, owner in (("referrer", click.referrer_user_id), ("referred", user)):
            session.add(
                models.ReferralReward(
                    conversion_id=conversion.id,
                    user_id=owner,
                    referred_user_id=user,
                    role=role,
                    provider="host",
                    payment_id="pay_1",
                    membership_id="mem_1",
                    number=1,
                    cents=1000,
                    status="credited",
                )
            )
        session.commit()
    return user


def replace(host: Host, user: t.Any) -> None:
    """Delete a user, past the ORM, and give the key to another."""
    table = host.User.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.id == user))
        connection.execute(sa.insert(table).values(id=user, name="another"))


def rows(host: Host, model: str) -> list[t.Any]:
    return fetch(host, getattr(host.referral.models, model).__table__)


def test_a_new_user_with_a_referrers_key_inherits_nothing(host: Host) -> None:
    referrer, code = add_referrer(host)
    refer(host, code)
    models = host.referral.models
    with host.app.app_context(), host.db.engine.begin() as connection:
        day = {"referrer_user_id": referrer, "day": sa.func.date("2026-01-01"), "clicks": 3}
        connection.execute(sa.insert(models.ReferralDaily.__table__).values(day))
        by_source = sa.insert(models.ReferralDailySource.__table__)
        connection.execute(by_source.values(**day, source="news", campaign=""))
    replace(host, referrer)
    for model in (
        *("ReferralCode", "ReferralClick", "ReferralConversion"),
        *("ReferralDaily", "ReferralDailySource"),
    ):
        assert rows(host, model) == [], model
    # The buyer's own welcome bonus stays, of a purchase that is told by no conversion any more.
    (welcome,) = rows(host, "ReferralReward")
    assert (welcome.role, welcome.conversion_id) == ("referred", None)
    assert make_code(host, referrer) != code


def test_a_new_user_with_a_buyers_key_inherits_nothing(host: Host) -> None:
    _, code = add_referrer(host)
    _, other = add_referrer(host)
    user = refer(host, code)
    own = make_code(host, user)
    replace(host, user)
    assert own not in [row.code for row in rows(host, "ReferralCode")]
    assert rows(host, "ReferralConversion") == []
    # The referrer's click and reward stay, and name nobody.
    (click,), (reward,) = rows(host, "ReferralClick"), rows(host, "ReferralReward")
    assert click.referred_user_id is None
    assert (reward.role, reward.referred_user_id, reward.conversion_id) == ("referrer", None, None)
    with host.app.app_context():
        result = host.referral.attribute(user, code=other)
        assert (result.reason, result.code) == ("attributed", other)


def test_a_replaced_row_is_the_same_user(host: Host) -> None:
    """A host that writes the row of a user again has deleted nobody."""
    referrer, code = add_referrer(host)
    table = host.User.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.id == referrer).values(name="new"))
    assert make_code(host, referrer) == code
