"""Stripe's deliveries that waited: one payment pays once, and is found by each of its ids."""

from __future__ import annotations

import datetime as dt
import json
import threading
import types
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import WebhookEvent
from flask_referral.payments import kept

from .. import whop
from ..conftest import MakeHost
from ..hosts import Host
from ..money import amounts
from ..money import balance
from ..money import PATIENCE
from ..money import pool
from ..money import refer
from ..servers import wait_until
from ..stripe import charge
from ..stripe import CONFIG
from ..stripe import deliver
from ..stripe import dispute
from ..stripe import invoice
from ..stripe import invoice_payment
from ..stripe import outcome
from ..stripe import refund
from ..stripe import session
from ..stripe import subscribed
from ..visiting import make_code

#: Without a limit, so that a payment that was told of twice would be paid twice.
ALL = CONFIG | {"REFERRAL_RENEWALS": None}


def find_by_customer(host: Host) -> None:
    """Let the host know buyers by Stripe's id of them, which are their names here."""

    @host.referral.stripe_user_loader
    async def find(payload: dict[str, t.Any]) -> t.Any:
        name = payload["data"]["object"]["customer"]
        return host.db.session.scalar(sa.select(host.User).filter_by(name=name))


def sign_up(host: Host, code: str, name: str = "cus_1") -> dict[str, int]:
    """Sign the buyer up through a link; return what came of what had waited."""
    with host.app.test_request_context():
        user = host.User(name=name)
        host.db.session.add(user)
        assert host.referral.attribute(user, code=code).reason == "attributed"
        outcomes = host.referral.retry_deliveries(user)
        host.db.session.commit()
    return outcomes


def test_a_guests_checkout_pays_once_and_its_refund_is_found_by_the_intent(make: MakeHost) -> None:
    host = make(**ALL)
    referrer = host.add_user()
    code = make_code(host, referrer)
    find_by_customer(host)
    told = session(None)
    assert [outcome(host, told) for _ in range(2)] == ["unknown_user"] * 2
    assert sign_up(host, code) == {"converted": 1}
    assert outcome(host, told) == "duplicate"
    host.cli("events", "retry", "--all", "--yes")
    assert amounts(host, referrer) == [1000]
    assert outcome(host, refund("re_1", 1500, charge=None)) == "reversed"
    assert amounts(host, referrer) == [1000, -500]


def test_a_guests_subscription_is_one_payment_that_is_told_of_twice(make: MakeHost) -> None:
    host = make(**ALL)
    referrer = host.add_user()
    code = make_code(host, referrer)
    find_by_customer(host)
    for told in (subscribed(None), invoice()):
        assert outcome(host, told) == "unknown_user"
    assert sign_up(host, code) == {"converted": 1, "already_converted": 1}
    assert outcome(host, invoice_payment()) == "linked"
    assert outcome(host, charge(1500)) == "reversed"
    assert amounts(host, referrer) == [1000, -500]


def test_ids_that_are_linked_while_a_checkout_waits_are_one_payment(make: MakeHost) -> None:
    """The invoice, which is told later, is the id under which the payment is kept."""
    host = make(**ALL)
    referrer = host.add_user()
    code = make_code(host, referrer)
    find_by_customer(host)
    assert outcome(host, session(None)) == "unknown_user"
    assert outcome(host, invoice_payment()) == "linked"
    assert sign_up(host, code) == {"converted": 1}
    assert outcome(host, charge(1500)) == "reversed"
    assert outcome(host, invoice(customer="cus_1")) == "already_converted"
    assert amounts(host, referrer) == [1000, -500]


@pytest.mark.parametrize(
    ("told", "left"),
    [
        (lambda: [charge(1500)], 500),
        (lambda: [refund("re_1", 1500), charge(1500)], 500),
        (lambda: [refund("re_1", 1500), refund("re_1", 1500, type="refund.failed")], 500),
        (lambda: [dispute("needs_response")], 0),
        (lambda: [dispute("needs_response", hour=1), dispute("won", hour=2)], 1000),
        (lambda: [dispute("won", hour=2), dispute("needs_response", hour=1)], 1000),
    ],
)
def test_refunds_and_disputes_before_the_retry_are_applied_by_it(
    make: MakeHost, told: t.Callable[[], list[dict[str, t.Any]]], left: int
) -> None:
    host = make(**ALL)
    referrer = host.add_user()
    code = make_code(host, referrer)
    find_by_customer(host)
    assert outcome(host, session(None)) == "unknown_user"
    for each in told():
        assert deliver(host, each).status_code == 200
    assert sign_up(host, code) == {"converted": 1}
    assert balance(host, referrer) == left


def test_a_dispute_of_whops_before_the_retry_is_applied_by_it(make: MakeHost) -> None:
    host = make(**whop.CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    host.referral.whop_user_loader(
        lambda payload: host.db.session.scalar(
            sa.select(host.User).filter_by(name=payload["data"]["user"]["id"])
        )
    )
    assert whop.outcome(host, whop.payment("nobody", metadata={})) == "unknown_user"
    assert whop.outcome(host, whop.dispute("dp_1", "needs_response")) == "unknown_membership"
    assert sign_up(host, code, "user_1") == {"converted": 1}
    assert balance(host, referrer) == 0
    whop.outcome(host, whop.dispute("dp_1", "won"))
    assert balance(host, referrer) == 1000


def test_a_dispute_that_waited_does_not_have_the_last_word(make: MakeHost) -> None:
    """It does not say when it occurred, so it did when it came, and not at the retry."""
    host = make(**(whop.CONFIG | {"REFERRAL_WHOP_COMPANY_ID": "biz_2"}))
    referrer = host.add_user()
    buyer = refer(host, referrer)
    assert whop.outcome(host, whop.dispute("dp_1", "needs_response")) == "other_company"
    table = host.referral.models.ReferralEvent.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        earlier = sa.func.datetime("now", "-1 hour")
        if connection.dialect.name == "postgresql":
            earlier = sa.func.now() - sa.text("interval '1 hour'")
        connection.execute(sa.update(table).values(received_at=earlier))
    object.__setattr__(host.referral.state.settings, "whop_company_id", ("biz_1",))
    assert whop.outcome(host, whop.payment(buyer)) == "converted"
    whop.outcome(host, whop.dispute("dp_1", "won"))
    host.cli("events", "retry", "--all", "--yes")
    assert balance(host, referrer) == 1000


def test_all_that_an_event_says_is_kept() -> None:
    """But for the payload and the metadata, of which what is personal goes."""
    told = WebhookEvent(
        id="evt_1",
        kind="refund",
        payment_id="in_1",
        aliases=("pi_1", "ch_1"),
        membership_id="sub_1",
        user="17",
        reference="ch_1",
        amount_cents=1500,
        total_cents=3000,
        is_sum=True,
        currency="eur",
        converted_cents=1700,
        converted_currency="usd",
        occurred_at=dt.datetime(2026, 6, 2, tzinfo=dt.UTC),
        metadata={"plan": "gold"},
        reason="requested",
        payload={"id": "evt_1"},
    )
    row = types.SimpleNamespace(
        event_id="evt_1",
        type="refund",
        payment_id="in_1",
        membership_id="sub_1",
        reference="ch_1",
        amount_cents=1500,
        base_cents=3000,
        occurred_at=told.occurred_at,
        received_at=told.occurred_at,
        details=json.loads(json.dumps(kept.details(told, "17"))),
    )
    assert kept.event(row) == told


def test_an_invoice_that_is_delivered_again_during_the_sign_up_waits_for_it(
    make_postgresql: MakeHost,
) -> None:
    """It is of the checkout's payment: neither may keep the other waiting for ever."""
    told: list[int] = []
    threads: list[threading.Thread] = []

    def deliver_again(purchase: t.Any) -> int:
        # The checkout is being handled once more, and the invoice is the next.
        def again() -> None:
            told.append(deliver(host, of_invoice).status_code)

        threads.append(threading.Thread(target=again))
        threads[0].start()
        wait_until(lambda: is_waiting(host))
        return 1000

    host = make_postgresql(**pool(4), **ALL, reward_policy=deliver_again)
    referrer = host.add_user()
    code = make_code(host, referrer)
    find_by_customer(host)
    of_invoice = invoice()
    for each in (subscribed(None), of_invoice):
        assert outcome(host, each) == "unknown_user"
    assert sign_up(host, code) == {"converted": 1, "already_converted": 1}
    threads[0].join(PATIENCE)
    assert told == [200]
    assert amounts(host, referrer) == [1000]


def is_waiting(host: Host) -> bool:
    query = sa.text(
        "SELECT EXISTS (SELECT FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    with host.db.engine.connect() as connection:
        return bool(connection.scalar(query))
