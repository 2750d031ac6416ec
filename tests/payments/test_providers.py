"""Any provider's webhooks: a function of the host's verifies and reads them."""

from __future__ import annotations

import hashlib
import hmac
import json
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import ConfigurationError
from flask_referral import EventKind
from flask_referral import InvalidEvent
from flask_referral import InvalidSignature
from flask_referral import WebhookEvent
from flask_referral.payments.events import Headers
from flask_referral.payments.providers import BUILT_IN

from ..conftest import MakeHost
from ..hosts import Host
from ..money import amounts
from ..money import balance
from ..money import refer
from ..money import rows

SHOP = "/api/referral/webhooks/shop"


def tell(host: Host, **fields: t.Any) -> t.Any:
    """Deliver what a shop without signatures tells; the fields are the event's."""
    if "shop" not in host.referral.state.loaders.webhooks:
        host.referral.webhook("shop")(lambda body, headers: WebhookEvent(**json.loads(body)))
    return host.client().post(SHOP, json=fields)


def outcome(host: Host, **fields: t.Any) -> str:
    answer = tell(host, **fields)
    assert answer.status_code == 200, answer.text
    told: str = answer.get_json()["outcome"]
    return told


def test_another_provider(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    secret = b"of the other provider"

    @host.referral.webhook("other")
    def other(body: bytes, headers: Headers) -> WebhookEvent:
        fields = dict(
            part.split("=", 1)
            for part in (headers.get("Other-Signature") or "").split(",")
            if "=" in part
        )
        text = fields.get("t", "").encode() + b"." + body
        expected = hmac.new(secret, text, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, fields.get("v1", "")):
            raise InvalidSignature()
        event = json.loads(body)
        data = event["data"]["object"]
        if event["type"] == "checkout.session.completed":
            return WebhookEvent(
                id=event["id"],
                kind="purchase",
                payment_id=data["payment_intent"],
                user=data["client_reference_id"],
                amount_cents=data["amount_total"],
                currency=data["currency"],
            )
        if event["type"] == "refund.created":
            return WebhookEvent(
                id=event["id"],
                kind="refund",
                payment_id=data["payment_intent"],
                reference=data["id"],
                amount_cents=data["amount"],
                total_cents=5000,
            )
        if event["type"] == "broken":
            raise InvalidEvent("This event is broken.")
        return WebhookEvent(id=event["id"], kind="ignored", reason="unknown_type")

    def post(event: dict[str, t.Any], *, sign: bool = True) -> t.Any:
        body = json.dumps(event).encode()
        digest = hmac.new(secret, b"1." + body, hashlib.sha256).hexdigest()
        return host.client().post(
            "/api/referral/webhooks/other",
            data=body,
            headers={"Other-Signature": f"t=1,v1={digest if sign else 'no'}"},
        )

    bought = {
        "id": "evt_1",
        "type": "checkout.session.completed",
        "data": {
            "object": {
                "payment_intent": "pi_1",
                "client_reference_id": str(referred),
                "amount_total": 5000,
                "currency": "usd",
            }
        },
    }
    refunded = {
        "id": "evt_2",
        "type": "refund.created",
        "data": {"object": {"id": "re_1", "payment_intent": "pi_1", "amount": 2500}},
    }
    assert post(bought, sign=False).status_code == 401
    assert post({**bought, "type": "broken"}).get_json() == {
        "error": "This event is broken.",
        "code": "invalid_event",
    }
    outcomes = [post(event).get_json()["outcome"] for event in (refunded, bought, bought)]
    assert outcomes == ["unknown_membership", "converted", "duplicate"]
    assert post({**bought, "id": "evt_3", "type": "other"}).get_json() == {
        "outcome": "unknown_type"
    }
    assert balance(host, referrer) == 500


@pytest.mark.parametrize("name", ["shop", "host", *BUILT_IN, "flask referral", "Shop", "", "a/b"])
def test_a_provider_has_one_reader_and_hosts_own_calls_none(
    make_sqlite: MakeHost, name: str
) -> None:
    host = make_sqlite()
    host.referral.webhook("shop")(lambda body, headers: WebhookEvent(id="e", kind="ignored"))
    with pytest.raises(ConfigurationError, match="cannot be a webhook's provider"):
        host.referral.webhook(name)


@pytest.mark.parametrize("provider", ["other", *BUILT_IN])
def test_a_provider_that_is_not_set_up_is_not_found(make_sqlite: MakeHost, provider: str) -> None:
    host = make_sqlite()
    answer = host.client().post(f"/api/referral/webhooks/{provider}", data=b"{}")
    assert (answer.status_code, answer.get_json()) == (
        404,
        {
            "error": "No webhook of this payment provider is set up here.",
            "code": "unknown_provider",
        },
    )


@pytest.mark.parametrize("returned", [None, {"id": "e", "kind": "ignored"}, "ignored", True])
def test_a_reader_that_returns_no_event_is_told_what_to_return(
    make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture, returned: t.Any
) -> None:
    host = make_sqlite()
    host.referral.webhook("shop")(lambda body, headers: returned)
    host.app.debug = True
    answer = host.client().post(SHOP)
    # The provider delivers again, when the function is mended.
    assert answer.status_code == 500
    told = answer.get_json()["error"]
    assert f"returned a {type(returned).__name__}: let it return a flask_referral.Webhook" in told
    assert told in caplog.text


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"payment_id": ""}, "'' is no payment id: pass a string of 1 to 255"),
        ({"payment_id": "a\0"}, "is no payment id"),
        ({"payment_id": None}, "pass payment_id or membership_id"),
        ({"amount_cents": "30.00"}, "amount_cents='30.00' is no amount: pass a whole number"),
        ({"currency": "dollars"}, "pass its three letters"),
        ({"metadata": [1]}, "metadata is a list: pass a dict"),
        ({"kind": "sale"}, "pass one of purchase, refund"),
        ({"id": None}, "None is no event id"),
    ],
)
def test_an_event_that_cannot_be_so_is_the_deliverys_fault(
    make_sqlite: MakeHost, fields: dict[str, t.Any], told: str
) -> None:
    host = make_sqlite()
    sound = {"id": "e", "kind": "purchase", "payment_id": "pay_1"}
    answer = tell(host, **(sound | fields))
    assert answer.status_code == 400
    assert told in answer.get_json()["error"]


@pytest.mark.parametrize("user", [None, "", "nobody", 10**30, -1, [], {}, 1.5, "\0", True])
def test_whoever_the_buyer_is_said_to_be_there_is_an_answer(make: MakeHost, user: t.Any) -> None:
    host = make()
    told = outcome(host, id="e", kind="purchase", payment_id="pay_1", user=user)
    assert told == "unknown_user"


def test_a_buyer_who_signs_up_after_the_payment_is_found_at_the_next_delivery(
    make: MakeHost,
) -> None:
    host = make()
    referrer = host.add_user()
    event = {"id": "e", "kind": "purchase", "payment_id": "pay_1", "user": referrer + 1}
    assert outcome(host, **event) == "unknown_user"
    assert refer(host, referrer) == referrer + 1
    assert outcome(host, **event) == "converted"
    assert outcome(host, **event) == "duplicate"


@pytest.mark.parametrize("kind", [EventKind.purchase, EventKind.refund])
def test_an_amount_of_nothing_pays_and_takes_nothing(make_sqlite: MakeHost, kind: str) -> None:
    host = make_sqlite()
    referrer = host.add_user()
    referred = refer(host, referrer)
    if kind == "refund":
        assert outcome(host, id="e", kind="purchase", payment_id="p", user=referred) == "converted"
    before = rows(host, referrer)
    fields = {"kind": kind, "payment_id": "p", "user": referred, "amount_cents": 0}
    assert outcome(host, id="e_2", **fields) == "no_money"
    assert rows(host, referrer) == before


def test_what_a_buyer_wrote_is_stored_without_what_databases_refuse(make: MakeHost) -> None:
    host = make()
    referred = refer(host, host.add_user())
    fields = {"kind": "purchase", "payment_id": "p", "user": referred}
    metadata = {"na\0me": "Z\ud800oë", "deep": [{"rate": "\0"}]}
    assert outcome(host, id="e", metadata=metadata, **fields) == "converted"
    with host.app.app_context():
        conversion = host.referral.models.ReferralConversion
        stored = host.db.session.scalars(sa.select(conversion.metadata_)).one()
    assert stored == {"name": "Zoë", "deep": [{"rate": ""}]}


def test_a_membership_alone_names_its_payment(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    fields = {"membership_id": "mem_1"}
    assert outcome(host, id="1", kind="purchase", user=refer(host, referrer), **fields) == (
        "converted"
    )
    half = {"reference": "ref_1", "amount_cents": 5, "total_cents": 10}
    assert outcome(host, id="2", kind="refund", **fields, **half) == "reversed"
    assert outcome(host, id="3", kind="refund", **fields) == "reversed"
    assert outcome(host, id="4", kind="refund", **fields) == "already_reversed"
    assert amounts(host, referrer) == [1000, -500, -500]


def test_equal_ids_of_two_providers_are_two_payments(make: MakeHost) -> None:
    host = make(REFERRAL_RENEWALS=None)
    referrer = host.add_user()
    referred = refer(host, referrer)
    host.referral.webhook("kiosk")(
        lambda body, headers: WebhookEvent(id="e", kind="purchase", payment_id="p_1", user=referred)
    )
    assert outcome(host, id="e", kind="purchase", payment_id="p_1", user=referred) == "converted"
    answer = host.client().post("/api/referral/webhooks/kiosk")
    assert answer.get_json() == {"outcome": "renewed"}
    assert outcome(host, id="f", kind="refund", payment_id="p_1") == "reversed"
    assert amounts(host, referrer) == [1000, 1000, -1000]
