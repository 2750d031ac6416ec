"""Users and wallet in a second database: no statement goes to the first, which has users too."""

from __future__ import annotations

import datetime as dt
import json
import typing as t
import uuid

import pytest

from flask_referral import Referral
from flask_referral.conversions import maturity
from flask_referral.conversions.facts import Kind
from flask_referral.errors import ConfigurationError
from flask_referral.events import EVENTS
from flask_referral.results import Reward

from ..hosts import make_application
from ..hosts import make_wallet
from ..money import amounts
from ..money import balance
from ..money import happen
from ..money import mature
from ..money import MONDAY
from ..money import pay
from ..money import refund
from ..money import rewards
from ..money import transaction
from ..money import withdraw
from ..visiting import browser
from ..visiting import make_code


def test_a_whole_life_in_the_second_database(
    new_database_url: t.Callable[[], str],
    host_on: t.Callable[..., t.Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terms = Reward(1000, 300)
    host = host_on(
        new_database_url(),
        bind_key="people",
        SQLALCHEMY_BINDS={"people": new_database_url()},
        positive_wallet=True,
        reward_policy=lambda purchase: terms,
        REFERRAL_RENEWALS=None,
        REFERRAL_VELOCITY_LIMIT=3,
        REFERRAL_OUTBOX=True,
    )
    told: list[str] = []
    for name, event in EVENTS.items():
        if event.is_kept:
            host.referral.on(name)(lambda event: told.append(event.type))
    monkeypatch.setattr("flask_referral.clock.now", lambda: MONDAY)
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO users VALUES (1), (2), (3)")
    referrer, referred = host.add_user(created_at=MONDAY), host.add_user(created_at=MONDAY)
    session_class = host.db.session.session_factory.class_
    get_bind = session_class.get_bind

    def named(self: t.Any, mapper: t.Any = None, clause: t.Any = None, **options: t.Any) -> t.Any:
        assert mapper is not None or clause is not None, "asked for whichever database there is"
        return get_bind(self, mapper=mapper, clause=clause, **options)

    monkeypatch.setattr(session_class, "get_bind", named)
    with host.statements() as seen:
        code = make_code(host, referrer)
        assert browser(host).get(f"/r/{code}").status_code == 302
        with host.app.test_request_context():
            assert host.referral.attribute(referred, code=code).reason == "attributed"
            host.db.session.commit()
        assert pay(host, referred, payment_id="pay_1") == "converted"
        assert pay(host, referred, payment_id="pay_1") == "already_converted"
        assert pay(host, referred, payment_id="pay_2") == "renewed"
        happen(host, Kind.dispute_opened, payment_id="pay_2", id="d")
        happen(host, Kind.dispute_won, payment_id="pay_2", id="d", minutes=1)
        withdraw(host, referrer, 1900)
        assert refund(host, payment_id="pay_1") == ("reversed", 100, 900)
        terms = Reward(1000, hold_days=1)
        assert pay(host, referred, payment_id="pay_3") == "pending"
        for payment, decide in (("pay_4", maturity.release), ("pay_5", maturity.void)):
            assert pay(host, referred, payment_id=payment) == "held"
            held: uuid.UUID = rewards(host)[-1].id
            with host.app.app_context():
                decide(transaction(host), held, MONDAY)
                host.db.session.commit()
        assert mature(host, MONDAY + dt.timedelta(days=2)) == 2
        delivered = json.loads(host.cli("deliver", "--json").stdout)
    assert seen == []
    assert (delivered["delivered"], delivered["waiting"]) == (len(told), 0)
    assert {"code_created", "user_attributed", "conversion_released"} <= set(told)
    assert amounts(host, referrer) == ([1000, 1000, -1000, 1000, -1900, -100, 1000, -900, 1000])
    assert (balance(host, referrer), balance(host, referred)) == (1100, 300)


def test_a_wallet_in_another_database_than_the_users_is_refused_at_the_start() -> None:
    host = make_application("sqlite://", SQLALCHEMY_BINDS={"people": "sqlite://"}, wallet=False)
    elsewhere = make_wallet(host.db, host.User, bind_key="people")
    with pytest.raises(ConfigurationError, match=r"in the database 'people'.*one database"):
        Referral(host.app, host.db, user_model=host.User, wallet_model=elsewhere)
