"""What paid nothing for a reason that somebody can mend is handled once more, and pays once."""

from __future__ import annotations

import datetime as dt
import json
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import ConfigurationError
from flask_referral import InvalidEvent
from flask_referral import WebhookEvent
from flask_referral.clock import as_utc
from flask_referral.errors import WalletRefused
from flask_referral.payments.kept import cleaned_payload
from flask_referral.payments.providers import BUILT_IN

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS
from ..money import amounts
from ..money import balance
from ..money import pay
from ..money import refer
from ..money import rewards
from ..visiting import browser
from ..visiting import COOKIE
from ..visiting import make_code
from ..whop import CONFIG
from ..whop import outcome
from ..whop import payment
from ..whop import refund

PERSONAL = {
    "user": {"id": "user_1", "email": "ada@example.com", "name": "Ada Lovelace", "username": "ada"},
    "billing_address": {"name": "Ada Lovelace", "line1": "1 St James's Square", "city": "London"},
    "card_last4": "4242",
    "metadata": {
        "plan": "gold",
        "planName": "Gold",
        "email": "ada@example.com",
        "note": "call ada@example.com",
        "fullName": "Ada Lovelace",
        "seats": [{"phone": "+44 1", "number": 2}],
    },
}


def event_row(host: Host, id: str = "evt_1") -> t.Any:
    """Return the row of a delivery."""
    table = host.referral.models.ReferralEvent.__table__
    with host.app.app_context(), host.db.engine.connect() as connection:
        query = sa.select(table).where(table.c.kind == "delivery", table.c.event_id == id)
        return connection.execute(query).one()


def guest(host: Host) -> None:
    """Let somebody without an account pay, whom the host finds by Whop's id of them."""
    host.referral.whop_user_loader(
        lambda payload: host.db.session.scalar(
            sa.select(host.User).filter_by(name=payload["data"]["user"]["id"])
        )
    )
    assert outcome(host, payment("nobody", metadata={}), id="evt_1") == "unknown_user"


def sign_up(host: Host, code: str | None = None, *, name: str = "user_1") -> dict[str, int]:
    """Sign somebody up, through a link where a code is given; return what came of the payments."""
    with host.app.test_request_context():
        user = host.User(name=name)
        host.db.session.add(user)
        if code is not None:
            assert host.referral.attribute(user, code=code).reason == "attributed"
        outcomes = host.referral.retry_deliveries(user)
        host.db.session.commit()
    return outcomes


def age(host: Host, **amount: float) -> None:
    """Let all deliveries have come so long ago."""
    table = host.referral.models.ReferralEvent.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        moment = dt.datetime.now(dt.UTC) - dt.timedelta(**amount)
        connection.execute(sa.update(table).values(received_at=moment))


@pytest.mark.parametrize("key", KEYS)
def test_a_guest_who_signs_up_through_a_link_brings_the_bonus_once(
    make: MakeHost, key: str
) -> None:
    host = make(key=key, **CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    guest(host)
    assert sign_up(host, code) == {"converted": 1}
    assert balance(host, referrer) == 1000
    with host.app.app_context():
        assert host.referral.retry_deliveries(rewards(host)[0].referred_user_id) == {}
    assert outcome(host, payment("nobody", metadata={}), id="evt_1") == "duplicate"
    host.cli("events", "retry", "--all", "--yes")
    assert amounts(host, referrer) == [1000]


def test_the_hosts_call_is_the_hosts_transaction(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    guest(host)
    with host.app.test_request_context():
        user = host.User(name="user_1")
        host.db.session.add(user)
        host.referral.attribute(user, code=code)
        assert host.referral.retry_deliveries(user) == {"converted": 1}
        host.db.session.rollback()
    assert rewards(host) == []
    assert event_row(host).outcome == "unknown_user"
    assert sign_up(host, code) == {"converted": 1}
    assert balance(host, referrer) == 1000


def test_the_hosts_call_handles_nobody_elses_payments(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    guest(host)
    other = payment("nobody", "mem_2", metadata={}, user={"id": "user_2"})
    assert outcome(host, other, id="evt_2") == "unknown_user"
    assert sign_up(host, code, name="user_2") == {"converted": 1}
    assert sign_up(host, code, name="user_3") == {}
    assert event_row(host).outcome == "unknown_user"
    assert [row.payment_id for row in rewards(host)] == ["pay_mem_2"]


def test_a_payment_from_before_the_binding_counts_within_the_window(make: MakeHost) -> None:
    """Later its buyer is an existing customer; the provider's redelivery changes nothing."""
    host = make(**CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    event = payment("nobody", metadata={})
    guest(host)
    age(host, days=30, minutes=1)
    # So old that the loader is not even asked.
    assert sign_up(host, code) == {}
    host.cli("events", "retry", "--all", "--yes")
    assert outcome(host, event, id="evt_1") == "not_referred"
    assert rewards(host) == []
    age(host, days=29, hours=23)
    assert outcome(host, event, id="evt_1") == "converted"
    assert balance(host, referrer) == 1000


def test_an_old_delivery_of_somebody_bound_before_it_is_paid(make: MakeHost) -> None:
    host = make(**(CONFIG | {"REFERRAL_WHOP_COMPANY_ID": "biz_2"}))
    referrer = host.add_user()
    assert outcome(host, payment(refer(host, referrer)), id="evt_1") == "other_company"
    click = host.referral.models.ReferralClick.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        moment = dt.datetime.now(dt.UTC) - dt.timedelta(days=61)
        connection.execute(sa.update(click).values(bound_at=moment))
    age(host, days=60)
    state = host.referral.state
    object.__setattr__(state.settings, "whop_company_id", ("biz_1",))
    host.cli("events", "retry", "--all", "--yes")
    assert balance(host, referrer) == 1000


def test_a_payment_before_the_binding_is_tried_again_by_the_provider(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer, buyer = host.add_user(), host.add_user()
    event = payment(buyer)
    assert [outcome(host, event, id="evt_1") for _ in range(2)] == ["not_referred"] * 2
    row = event_row(host)
    assert row.user_id == buyer and row.details["user"] == str(buyer)
    host.cli("reattribute", str(buyer), make_code(host, referrer), "--yes")
    assert [outcome(host, event, id="evt_1") for _ in range(2)] == ["converted", "duplicate"]
    assert balance(host, referrer) == 1000
    # What is dealt with is not kept.
    row = event_row(host)
    assert (row.outcome, row.user_id, row.details) == ("converted", None, None)


@pytest.mark.parametrize("named", [True, False])
def test_a_company_that_was_missing_in_the_settings(make: MakeHost, named: bool) -> None:
    """Purchase and refund are handled as they were told, also where no company is named."""
    host = make(**(CONFIG | {"REFERRAL_WHOP_COMPANY_ID": "biz_2"}))
    referrer = host.add_user()
    referred = refer(host, referrer)
    events = [payment(referred), refund("ref_1", 7.5)]
    for number, event in enumerate(events):
        if not named:
            del event["company_id"]
        for _ in range(2):
            assert outcome(host, event, id=f"evt_{number}") == "other_company"
    assert host.cli("events", "retry", "--all", "--yes").exit_code == 0
    assert amounts(host, referrer) == []
    companies = ("biz_1",) if named else ()
    object.__setattr__(host.referral.state.settings, "whop_company_id", companies)
    report = json.loads(host.cli("events", "retry", "--all", "--yes", "--json").stdout)
    assert report["outcomes"] == {"converted": 1, "reversed": 1}
    assert amounts(host, referrer) == [1000, -250]
    host.cli("events", "retry", "--all", "--yes")
    assert outcome(host, events[1], id="evt_1") == "duplicate"
    assert balance(host, referrer) == 750


def test_refunds_and_disputes_before_the_retry_are_applied_by_it(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    guest(host)
    assert outcome(host, refund("ref_1", 7.5)) == "unknown_membership"
    assert sign_up(host, code) == {"converted": 1}
    assert balance(host, referrer) == 750


def test_two_payments_are_handled_in_the_order_in_which_they_came(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    guest(host)
    age(host, hours=1)
    assert outcome(host, payment("nobody", "mem_0", metadata={}), id="evt_0") == "unknown_user"
    assert sign_up(host, code) == {"converted": 1, "already_converted": 1}
    assert [row.payment_id for row in rewards(host)] == ["pay_mem_1"]


def test_currency_amounts_and_metadata_are_as_they_were_told(make: MakeHost) -> None:
    seen: list[t.Any] = []

    def policy(purchase: t.Any) -> int:
        seen.append(purchase)
        return 500

    host = make(reward_policy=policy, **CONFIG)
    buyer = host.add_user()
    referrer = host.add_user()
    code = make_code(host, referrer)
    visit = browser(host)
    visit.get(f"/r/{code}")
    cookie = visit.get_cookie(COOKIE)
    assert cookie is not None
    data = {"total": 25.0, "currency": "eur", "usd_total": 30.0}
    event = payment(buyer, metadata={"user_id": str(buyer), "plan": "gold"}, **data)
    assert outcome(host, event, id="evt_1") == "not_referred"
    # The visit was first, and the provider faster than the sign-up.
    with host.app.test_request_context(headers={"Cookie": f"{COOKIE}={cookie.value}"}):
        host.referral.attribute(buyer)
        assert host.referral.retry_deliveries(buyer) == {"converted": 1}
        host.db.session.commit()
    (purchase,) = seen
    assert (purchase.paid_cents, purchase.currency, purchase.paid_amount) == (3000, "eur", 25)
    assert (purchase.payment_id, purchase.membership_id) == ("pay_mem_1", "mem_1")
    assert purchase.metadata["plan"] == "gold"


def test_nothing_personal_is_kept(make: MakeHost) -> None:
    host = make(**CONFIG)
    assert outcome(host, payment("x", **PERSONAL), id="evt_1") == "unknown_user"
    row = event_row(host)
    text = json.dumps(row.details)
    for word in ('"ada"', "Ada", "@", "Lovelace", "London", "4242", "St James", "+44"):
        assert word not in text
    assert row.details["payload"] == {
        "type": "payment.succeeded",
        "company_id": "biz_1",
        "data": {
            "id": "pay_mem_1",
            "status": "paid",
            "membership": {"id": "mem_1", "status": "active"},
            "user": {"id": "user_1"},
            "metadata": {"plan": "gold", "planName": "Gold", "seats": [{"number": 2}]},
        },
    }


def test_what_pays_is_not_kept(make: MakeHost) -> None:
    host = make(**CONFIG)
    referred = refer(host, host.add_user())
    for number, event in enumerate([payment(referred), payment(referred, total=0.0)]):
        outcome(host, event, id=f"evt_{number}")
        row = event_row(host, f"evt_{number}")
        assert (row.user_id, row.details) == (None, None)


def test_of_stripes_payload_its_ids_stay() -> None:
    """An event of Stripe's API: ids stand bare beside the person's data."""
    session = {
        "id": "cs_1",
        "object": "checkout.session",
        "client_reference_id": "17",
        "customer": "cus_1",
        "customer_email": "ada@example.com",
        "customer_details": {"email": "ada@example.com", "name": "Ada", "tax_ids": []},
        "payment_intent": "pi_1",
        "subscription": None,
        "amount_total": 5000,
        "livemode": True,
        "metadata": {"user_id": "17"},
        "lines": {"data": [{"id": "il_1", "description": "Gold", "metadata": {}}, "x"]},
    }
    event = {"id": "evt_1", "type": "checkout.session.completed", "data": {"object": session}}
    assert cleaned_payload(event) == {
        "id": "evt_1",
        "type": "checkout.session.completed",
        "data": {
            "object": {
                "id": "cs_1",
                "object": "checkout.session",
                "client_reference_id": "17",
                "customer": "cus_1",
                "payment_intent": "pi_1",
                "metadata": {"user_id": "17"},
                "lines": {"data": [{"id": "il_1"}]},
            }
        },
    }


def test_what_stands_where_an_id_should_is_kept_only_if_it_can_be_one() -> None:
    deep: dict[str, t.Any] = {}
    for _ in range(1000):
        deep = {"data": deep, "id": "x"}
    metadata: dict[str, t.Any] = {}
    for _ in range(100):
        metadata = {"deep": metadata}
    odd = {
        "id": "Ada Lovelace",
        "apple_id": "ada@example.com",
        "tax_id": "DE1",
        "user": True,
        "customer": 10**30,
        "order": 17,
        1: {"id": "x"},
        "metadata": metadata,
    }
    assert cleaned_payload(t.cast(t.Any, odd)) == {"order": 17}
    assert len(json.dumps(cleaned_payload(deep))) < 1000


def test_a_providers_own_reader_and_loader(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    code = make_code(host, referrer)

    @host.referral.webhook("shop")
    def read(body: bytes, headers: t.Any) -> WebhookEvent:
        told = json.loads(body)
        return WebhookEvent(id=told["id"], kind="purchase", payment_id=told["charge"], payload=told)

    @host.referral.user_loader("shop")
    async def find(payload: dict[str, t.Any]) -> t.Any:
        return host.db.session.scalar(sa.select(host.User.id).filter_by(name=payload["buyer_id"]))

    told = {"id": "e_1", "charge": "ch_1", "buyer_id": "b_1", "mail": "ada@example.com"}
    answer = host.client().post("/api/referral/webhooks/shop", json=told)
    assert answer.get_json() == {"outcome": "unknown_user"}
    assert event_row(host, "e_1").details["payload"] == {
        "id": "e_1",
        "charge": "ch_1",
        "buyer_id": "b_1",
    }
    assert sign_up(host, code, name="b_1") == {"converted": 1}
    assert balance(host, referrer) == 1000


def test_a_reader_without_payload_names_the_buyer_itself(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    host.referral.webhook("shop")(
        lambda body, headers: WebhookEvent(
            id="e_1", kind="purchase", payment_id="p", user=referrer + 1, metadata={"plan": "x"}
        )
    )
    answer = host.client().post("/api/referral/webhooks/shop")
    assert answer.get_json() == {"outcome": "unknown_user"}
    assert event_row(host, "e_1").details == {"user": str(referrer + 1), "metadata": {"plan": "x"}}
    buyer = refer(host, referrer)
    with host.app.app_context():
        # Also where the call is the first of its transaction, which a savepoint does not end.
        assert host.referral.retry_deliveries(buyer) == {"converted": 1}
        host.db.session.rollback()
        assert rewards(host) == []
        assert host.referral.retry_deliveries(buyer) == {"converted": 1}
        host.db.session.commit()
    assert balance(host, referrer) == 1000


@pytest.mark.parametrize("provider", BUILT_IN)
def test_a_built_in_provider_has_a_loader_of_its_own(make_sqlite: MakeHost, provider: str) -> None:
    host = make_sqlite()
    with pytest.raises(ConfigurationError, match=f"@referral.{provider}_user_loader; use that"):
        host.referral.user_loader(provider)


@pytest.mark.parametrize("payload", [[], "text", 1])
def test_a_payload_is_a_dict(payload: t.Any) -> None:
    with pytest.raises(InvalidEvent, match="pass the delivery's JSON as a dict, or None"):
        WebhookEvent(id="e", kind="ignored", payload=payload)


def test_what_fails_in_a_retry_does_not_stop_the_sign_up(
    make: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a loader that wants what is not kept, nor a policy, nor what others left behind."""
    host = make(**CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    guest(host)

    @host.referral.whop_user_loader
    def find(payload: dict[str, t.Any]) -> t.Any:
        return payload["data"]["user"]["email"]

    assert sign_up(host, code) == {"failed": 1}
    assert "Delivery evt_1 of whop could not be handled once more" in caplog.text
    assert event_row(host).outcome == "unknown_user"
    assert event_row(host).details is not None
    guest_id = host.add_user(name="later")
    host.referral.whop_user_loader(lambda payload: guest_id)
    with host.app.test_request_context():
        assert host.referral.attribute(guest_id, code=code).reason == "attributed"
        host.db.session.commit()
        assert host.referral.retry_deliveries(guest_id) == {"converted": 1}
        host.db.session.commit()
    assert balance(host, referrer) == 1000


def test_a_wallet_that_refuses_leaves_the_delivery_waiting(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    code = make_code(host, referrer)
    guest(host)

    def refuse(*args: t.Any, **options: t.Any) -> None:
        raise WalletRefused("The wallet is closed.")

    with monkeypatch.context() as patch:
        patch.setattr("flask_referral.conversions.rewards.credit", refuse)
        assert sign_up(host, code) == {"failed": 1}
    assert rewards(host) == []
    report = json.loads(host.cli("events", "retry", "--all", "--yes", "--json").stdout)
    assert report["outcomes"] == {"converted": 1}
    assert amounts(host, referrer) == [1000]


def test_the_newest_purchases_without_a_buyer_are_looked_through(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_referral.payments.retries.MOST_UNKNOWN", 2)
    host = make(**CONFIG)
    guest(host)
    age(host, hours=1)
    asked: list[str] = []

    @host.referral.whop_user_loader
    def find(payload: dict[str, t.Any]) -> None:
        asked.append(payload["data"]["id"])

    for number in (2, 3):
        outcome(host, payment("nobody", f"mem_{number}", metadata={}), id=f"evt_{number}")
    asked.clear()
    assert sign_up(host) == {}
    assert sorted(asked) == ["pay_mem_2", "pay_mem_3"]


def test_keeping_costs_no_statement(make: MakeHost) -> None:
    """A delivery that pays takes three beside the conversion's; one that pays nothing, no more.

    On PostgreSQL one more says how long it waits for somebody's lock.
    """
    host = make(**CONFIG)
    referrer = host.add_user()
    referred, stranger = refer(host, referrer), host.add_user()
    outcome(host, payment(referred, "mem_0"), id="first")
    another, third = refer(host, referrer), refer(host, referrer)
    with host.statements() as of_conversion:
        assert pay(host, another, "mem_1") == "converted"
    counts = {}
    for name, event in {
        "converted": payment(third, "mem_2"),
        "not_referred": payment(stranger, "mem_3"),
        "unknown_user": payment("nobody", "mem_4"),
    }.items():
        with host.statements() as seen:
            outcome(host, event, id=name)
        counts[name] = len(seen)
    with host.app.app_context():
        beside = 4 if host.db.engine.dialect.name == "postgresql" else 3
    assert counts["converted"] == beside + len(of_conversion)
    assert counts["not_referred"] == beside + 1
    assert counts["unknown_user"] == beside


def test_an_account_that_is_deleted_takes_what_was_kept_along(make: MakeHost) -> None:
    host = make(**CONFIG)
    buyer = host.add_user()
    assert outcome(host, payment(buyer), id="evt_1") == "not_referred"
    with host.app.app_context():
        host.db.session.delete(host.db.session.get(host.User, buyer))
        host.db.session.commit()
        assert host.db.session.query(host.referral.models.ReferralEvent).all() == []
    assert outcome(host, payment(buyer), id="evt_1") == "unknown_user"


def test_when_a_delivery_came_stays_the_first_time(make: MakeHost) -> None:
    host = make(**CONFIG)
    guest(host)
    age(host, days=3)
    before = as_utc(event_row(host).received_at)
    assert outcome(host, payment("nobody", metadata={}), id="evt_1") == "unknown_user"
    assert as_utc(event_row(host).received_at) == before
