"""The past that ``make demo`` starts with."""

from __future__ import annotations

import collections
import datetime as dt
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask

from examples.demo import create_app
from examples.demo import deploy
from examples.demo import past
from examples.demo.extensions import referral
from examples.demo.models import db
from examples.demo.models import Payment
from examples.demo.models import Purchase
from examples.demo.models import User
from examples.demo.models import WalletTransaction


@pytest.fixture(scope="module")
def seeded(shared_postgresql_url: str, tmp_path_factory: pytest.TempPathFactory) -> Flask:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMO_INSTANCE", str(tmp_path_factory.mktemp("demo")))
        app = create_app(SQLALCHEMY_DATABASE_URI=shared_postgresql_url)
    with app.app_context():
        deploy.upgrade()
        past.live()
        deploy.chores()
    return app


@pytest.fixture
def app(seeded: Flask) -> t.Iterator[Flask]:
    with seeded.app_context():
        yield seeded
        db.session.remove()
        db.engine.dispose()


def states() -> collections.Counter[str]:
    """Count the referrers' rewards by what became of them."""
    reward = referral.models.ReferralReward
    own = sa.select(reward).where(reward.role == "referrer")
    found: collections.Counter[str] = collections.Counter()
    for each in db.session.scalars(own):
        is_part = each.status == "credited" and each.reversed_cents
        found["refunded in part" if is_part else each.status] += 1
        found["renewed"] += each.number > 1
    return found


def snapshot() -> list[t.Any]:
    """Return what must be the same in each demo."""
    wallet = sa.select(User.name, WalletTransaction.amount_cents).join(WalletTransaction)
    rows = db.session.execute(
        wallet.order_by(User.name, WalletTransaction.created_at, WalletTransaction.id)
    )
    return [states(), *map(tuple, rows)]


def test_the_program_has_a_past_of_all_states(app: Flask) -> None:
    found = states()
    assert sum(1 for life in past.LIVES) == 40
    names = ("pending", "held", "credited", "reversed", "void", "refunded in part", "renewed")
    assert all(found[name] for name in names), found
    stats = referral.stats(db.session.scalars(sa.select(User).filter_by(name="Ada")).one(), 61)
    assert stats.totals.signups == 30
    assert stats.totals.clicks > 200
    assert {"newsletter", "whatsapp", "linkedin", "forum.example.org", None} <= {
        each.source for each in stats.sources
    }
    # Each week has something to show, and nothing is all of today.
    weeks = [stats.daily[day : day + 7] for day in range(1, 57, 7)]
    assert all(sum(day.clicks for day in week) for week in weeks)
    assert sum(day.earned_cents for day in stats.daily[:-1]) == stats.totals.earned_cents


def test_everything_has_the_date_of_its_day(app: Flask) -> None:
    ended = dt.datetime.now(dt.UTC)
    # Nothing is dated by the clock of the database, which stood at the time of the seeding.
    began = ended - dt.timedelta(days=62)
    today = ended.replace(hour=0, minute=0, second=0, microsecond=0)
    for model in (WalletTransaction, Purchase, Payment, referral.models.ReferralCode):
        days = db.session.scalars(sa.select(model.created_at)).all()
        assert all(began < day < today for day in days), model
    reward, event = referral.models.ReferralReward, referral.models.ReferralEvent
    received = db.session.scalars(sa.select(event.received_at)).all()
    assert all(began < moment < ended for moment in received)
    assert sum(moment >= today for moment in received) <= 1
    held = db.session.scalars(sa.select(reward).where(reward.credited_at > reward.available_at))
    late = [each.credited_at - each.available_at for each in held]
    assert len(late) == 4 and max(late) < dt.timedelta(days=1)


def test_doctor_is_content_with_it(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["referral", "doctor"])
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.output.splitlines() if line.startswith("warning")]
    # On one machine, without TLS and roles of the database's own.
    assert len(warnings) == 2, warnings
    assert "REFERRAL_COOKIE_SECURE" in warnings[0] and "REFERRAL_RLS_ROLE" in warnings[1]


def test_it_happens_once_and_an_interrupted_one_begins_anew(app: Flask) -> None:
    before = snapshot()
    past.live()
    assert snapshot() == before
    # As if the demo had been stopped before the last one signed up.
    db.session.execute(sa.delete(User).where(User.email == past.email_of(past.LAST)))
    db.session.commit()
    past.live()
    deploy.chores()
    assert snapshot() == before


def test_operators_see_what_is_held(seeded: Flask) -> None:
    client = seeded.test_client()
    with seeded.app_context():
        reward = seeded.extensions["referral"].models.ReferralReward
        waiting = sa.select(sa.func.count()).where(reward.status == "held")
        held = db.session.scalar(waiting)
        assert held >= states()["held"] > 0
        operator = sa.select(User.id).filter_by(email=deploy.OPERATOR[0])
        user_id = db.session.scalar(operator)
    with client.session_transaction() as session:
        session["_user_id"] = str(user_id)
    page = client.get("/operator/", follow_redirects=True).text
    assert f"{held} held reward" in page
    assert "1. <bdi>Ada</bdi>" in page and "2. <bdi>The Bread Letter</bdi>" in page
    queue = client.get("/operator/referral_rewards/?status=held").text
    assert queue.count("<tr>") == held + 1
