"""``POST /api/referral/webhooks/whop`` and other providers: every event takes effect once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import itertools
import json
import time
import typing as t

import pytest
import sqlalchemy as sa
from flask_wtf import CSRFProtect

from flask_referral.errors import ConfigurationError
from flask_referral.errors import InvalidEvent
from flask_referral.errors import InvalidSignature
from flask_referral.payments.handling import Headers
from flask_referral.payments.handling import Kind
from flask_referral.payments.handling import WebhookEvent

from ..conftest import MakeHost
from ..conversions.test_convert import balance
from ..conversions.test_convert import refer
from ..conversions.test_convert import rows
from ..hosts import Host

SECRET = "ws_0123456789abcdef0123456789abcdef"
URL = "/api/referral/webhooks/whop"
CONFIG = {"REFERRAL_WHOP_WEBHOOK_SECRET": SECRET, "REFERRAL_WHOP_COMPANY_ID": "biz_1"}

_numbers = itertools.count()


def signed(body: bytes, secret: str = SECRET, id: str | None = None) -> dict[str, str]:
    id = id or f"msg_{next(_numbers)}"
    moment = str(int(time.time()))
    text = f"{id}.{moment}.".encode() + body
    digest = base64.b64encode(hmac.digest(secret.encode(), text, hashlib.sha256)).decode()
    return {"webhook-id": id, "webhook-timestamp": moment, "webhook-signature": f"v1,{digest}"}


def deliver(host: Host, payload: t.Any, **options: t.Any) -> t.Any:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return host.client().post(URL, data=body, headers=signed(body, **options))


def payment(buyer: t.Any, membership: str = "mem_1", **fields: t.Any) -> dict[str, t.Any]:
    data: dict[str, t.Any] = {
        "id": f"pay_{membership}",
        "status": "paid",
        "total": 30.0,
        "currency": "usd",
        "membership": {"id": membership, "status": "active"},
        "user": {"id": "user_1", "email": None},
        "metadata": {"user_id": str(buyer)},
    }
    data |= fields
    return {"type": "payment.succeeded", "company_id": "biz_1", "data": data}


def refund(id: str, amount: float, membership: str = "mem_1", **fields: t.Any) -> dict[str, t.Any]:
    data: dict[str, t.Any] = {
        "id": id,
        "amount": amount,
        "status": "succeeded",
        "currency": "usd",
        "payment": {
            "id": f"pay_{membership}",
            "total": 30.0,
            "currency": "usd",
            "membership": {"id": membership},
        },
    }
    data |= fields
    return {"type": "refund.updated", "company_id": "biz_1", "data": data}


def dispute(id: str, status: str, membership: str = "mem_1") -> dict[str, t.Any]:
    return {
        "type": "dispute.updated",
        "company_id": "biz_1",
        "data": {
            "id": id,
            "status": status,
            "amount": 30.0,
            "currency": "usd",
            "payment": {"id": f"pay_{membership}", "membership": {"id": membership}},
        },
    }


@pytest.mark.parametrize("key", ["int", "uuid", "str"])
def test_a_purchase_and_its_redelivery(make: MakeHost, key: str) -> None:
    host = make(key=key, **CONFIG)
    referrer = host.add_user()
    event = payment(refer(host, referrer))
    first = deliver(host, event, id="msg_a")
    assert (first.status_code, first.get_json()) == (200, {"outcome": "converted"})
    for id, outcome in (("msg_a", "duplicate"), ("msg_b", "already_converted")):
        again = deliver(host, event, id=id)
        assert (again.status_code, again.get_json()) == (200, {"outcome": outcome})
    assert rows(host, referrer) == [("referral_bonus", 1000, 1000)]
    with host.app.app_context():
        models = host.referral.models
        conversion = host.db.session.scalars(sa.select(models.ReferralConversion)).one()
        assert conversion.metadata_ == {
            "payment_id": "pay_mem_1",
            "paid_cents": 3000,
            "currency": "usd",
        }
        kept = host.db.session.scalars(
            sa.select(models.ReferralEvent).where(models.ReferralEvent.provider == "whop")
        ).all()
        assert {(event.event_id, event.outcome) for event in kept} == {
            ("msg_a", "converted"),
            ("msg_b", "already_converted"),
        }


def test_refunds_in_proportion(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    deliver(host, payment(refer(host, referrer)))
    outcomes = [
        deliver(host, event).get_json()["outcome"]
        for event in (
            refund("ref_1", 10.0, status="pending"),
            refund("ref_1", 10.0),
            refund("ref_1", 10.0),
            refund("ref_2", 20.0),
            refund("ref_3", 20.0),
        )
    ]
    assert outcomes == [
        "not_refunded",
        "reversed",
        "already_reversed",
        "reversed",
        "nothing_to_reverse",
    ]
    assert [amount for _, amount, _ in rows(host, referrer)] == [1000, -333, -667]
    assert balance(host, referrer) == 0


def test_every_order_of_deliveries_nets_the_same(make: MakeHost) -> None:
    host = make(**CONFIG)
    for number, order in enumerate(itertools.permutations(range(4))):
        referrer = host.add_user()
        membership = f"mem_{number}"
        events = [
            payment(refer(host, referrer), membership),
            refund(f"ref_{number}", 15.0, membership),
            dispute(f"dis_{number}", "needs_response", membership),
            dispute(f"dis_{number}", "won", membership),
        ]
        for index in (*order, order[0]):
            assert deliver(host, events[index]).status_code == 200
        assert balance(host, referrer) == 500, order


def test_dispute_lost(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    deliver(host, payment(refer(host, referrer)))
    for status in ("warning_needs_response", "needs_response", "under_review", "lost"):
        deliver(host, dispute("dis_1", status))
    assert [amount for _, amount, _ in rows(host, referrer)] == [1000, -1000]


def test_what_pays_nothing(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    other = payment(referred)
    other["company_id"] = "biz_2"
    cases = [
        (payment(referred, total=0.0), "no_money"),
        (payment(referred, status="open"), "not_paid"),
        (payment(referred, metadata={}), "unknown_user"),
        (payment("not a number"), "unknown_user"),
        (payment(referrer), "not_referred"),
        (other, "other_company"),
        ({"type": "membership.activated", "company_id": "biz_1", "data": {}}, "not_a_payment"),
        ({"type": "invoice.paid", "company_id": "biz_1", "data": {}}, "unknown_type"),
    ]
    for event, outcome in cases:
        answer = deliver(host, event)
        assert (answer.status_code, answer.get_json()) == (200, {"outcome": outcome})
    assert rows(host, referrer) == []
    with host.app.app_context():
        event = host.referral.models.ReferralEvent
        kept = host.db.session.scalars(sa.select(event.outcome)).all()
        assert sorted(kept) == sorted(outcome for _, outcome in cases)


def test_never_by_email(make: MakeHost) -> None:
    host = make(**CONFIG)
    referred = refer(host, host.add_user())
    with host.app.app_context():
        host.db.session.get(host.User, referred).name = "ada@example.com"
        host.db.session.commit()
    event = payment(referred, metadata={}, user={"id": "user_1", "email": "ada@example.com"})
    assert deliver(host, event).get_json() == {"outcome": "unknown_user"}


def test_an_unknown_buyer_is_told_and_tried_again(
    make: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    lost = payment(referred, metadata={})
    for _ in range(2):
        assert deliver(host, lost, id="msg_a").get_json() == {"outcome": "unknown_user"}
    assert "The buyer of membership mem_1 is not known" in caplog.text
    host.referral.whop_user_loader(lambda payload: referred)
    outcomes = [deliver(host, lost, id="msg_a").get_json()["outcome"] for _ in range(2)]
    assert outcomes == ["converted", "duplicate"]
    assert balance(host, referrer) == 1000


def test_the_hosts_own_user_loader(make: MakeHost) -> None:
    host = make(**CONFIG)
    referred = refer(host, host.add_user())
    seen: list[dict[str, t.Any]] = []

    @host.referral.whop_user_loader
    def find(payload: dict[str, t.Any]) -> t.Any:
        seen.append(payload)
        return host.db.session.get(host.User, referred)

    assert deliver(host, payment("whatever")).get_json() == {"outcome": "converted"}
    assert seen[0]["data"]["user"]["id"] == "user_1"


def test_policy_sees_what_was_paid(make: MakeHost) -> None:
    host = make(reward_policy=lambda purchase: purchase.paid_cents // 10, **CONFIG)
    referrer = host.add_user()
    deliver(host, payment(refer(host, referrer), total=123.45))
    assert balance(host, referrer) == 1234


def test_refusals(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    body = json.dumps(payment(refer(host, referrer))).encode()
    client = host.client()
    forged = signed(body) | {"webhook-signature": "v1,AAAA"}
    for headers in ({}, forged, signed(body, "another secret"), signed(body + b" ")):
        answer = client.post(URL, data=body, headers=headers)
        assert answer.status_code == 401
        assert answer.get_json().keys() == {"error"}
    for bad in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"type": NaN}', b'{"type": 7}'):
        answer = client.post(URL, data=bad, headers=signed(bad))
        assert (answer.status_code, answer.get_json().keys()) == (400, {"error"})
    large = b" " * (256 * 1024 + 1)
    answer = client.post(URL, data=large, headers=signed(large))
    assert (answer.status_code, answer.get_json().keys()) == (413, {"error"})
    largest = body.ljust(256 * 1024)
    assert client.post(URL, data=largest, headers=signed(largest)).status_code == 200
    assert client.get(URL).status_code == 405
    assert client.post("/api/referral/webhooks/other", data=body).status_code == 404


def test_a_chunked_body_is_capped_too(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    large = b" " * (256 * 1024 + 1)
    answer = host.client().post(
        URL,
        input_stream=io.BytesIO(large),
        headers={"Transfer-Encoding": "chunked", **signed(large)},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )
    assert answer.status_code == 413


def test_not_set_up(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    answer = host.client().post(URL, data=b"{}")
    assert (answer.status_code, answer.get_json().keys()) == (404, {"error"})


def test_the_database_is_away(make_sqlite: MakeHost, tmp_path: t.Any) -> None:
    host = make_sqlite(**CONFIG)
    referred = refer(host, host.add_user())
    with host.app.app_context():
        url = sa.make_url("sqlite:////nowhere/at/all.db")
        host.db.engines[None] = sa.create_engine(url)
    answer = deliver(host, payment(referred))
    assert (answer.status_code, answer.get_json().keys()) == (503, {"error"})
    assert answer.headers["Retry-After"] == "60"


def test_the_connection_breaks(make_postgresql: MakeHost) -> None:
    """Whatever the driver calls it, the provider is asked to try again, and that works."""
    host = make_postgresql(**CONFIG)
    referrer = host.add_user()
    event = payment(refer(host, referrer))
    with host.app.app_context():
        engine = host.db.engine

    def cut(connection: t.Any, cursor: t.Any, statement: str, *rest: t.Any) -> None:
        if "INSERT INTO wallet_transactions" in statement:
            sa.event.remove(engine, "before_cursor_execute", cut)
            pid = connection.connection.dbapi_connection.info.backend_pid
            with sa.create_engine(engine.url).connect() as other:
                other.execute(sa.select(sa.func.pg_terminate_backend(pid, 60_000)))

    sa.event.listen(engine, "before_cursor_execute", cut)
    assert deliver(host, event, id="msg_1").status_code == 503
    assert rows(host, referrer) == []
    assert deliver(host, event, id="msg_1").get_json() == {"outcome": "converted"}
    assert balance(host, referrer) == 1000


@pytest.mark.parametrize("field", ["amount_cents", "total_cents"])
@pytest.mark.parametrize("cents", [-1, 0.5, True, "100", 2**63])
def test_amounts_that_are_none(field: str, cents: t.Any) -> None:
    with pytest.raises(InvalidEvent, match=f"{field} is no whole number of cents"):
        WebhookEvent(id="e", kind=Kind.REFUND, **{field: cents})


@pytest.mark.parametrize("kind", [Kind.PURCHASE, Kind.REFUND])
def test_no_money_at_any_provider(make_sqlite: MakeHost, kind: Kind) -> None:
    host = make_sqlite()
    referrer = host.add_user()
    referred = refer(host, referrer)
    if kind is Kind.REFUND:
        with host.app.app_context():
            host.referral.convert(referred, "mem_1")
            host.db.session.commit()
    before = balance(host, referrer)

    @host.referral.webhook("shop")
    def shop(body: bytes, headers: Headers) -> WebhookEvent:
        return WebhookEvent(id="e", kind=kind, membership_id="mem_1", user=referred, amount_cents=0)

    answer = host.client().post("/api/referral/webhooks/shop", data=b"")
    assert answer.get_json() == {"outcome": "no_money"}
    assert balance(host, referrer) == before


@pytest.mark.parametrize("csrf_first", [True, False])
def test_csrf_protection_leaves_webhooks_alone(make_sqlite: MakeHost, csrf_first: bool) -> None:
    host = make_sqlite(**CONFIG)
    CSRFProtect(host.app)
    referred = refer(host, host.add_user())
    host.current_user = referred
    assert deliver(host, payment(referred)).status_code == 200
    assert host.client().post("/api/referral/generate").status_code == 400


def test_another_provider(make: MakeHost) -> None:
    """What the documentation shows for Stripe."""
    host = make()
    referrer = host.add_user()
    referred = refer(host, referrer)
    secret = b"whsec_stripe"

    @host.referral.webhook("stripe")
    def stripe(body: bytes, headers: Headers) -> WebhookEvent:
        fields = dict(
            part.split("=", 1)
            for part in (headers.get("Stripe-Signature") or "").split(",")
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
                kind=Kind.PURCHASE,
                membership_id=data["payment_intent"],
                user=data["client_reference_id"],
                amount_cents=data["amount_total"],
            )
        if event["type"] == "refund.created":
            return WebhookEvent(
                id=event["id"],
                kind=Kind.REFUND,
                membership_id=data["payment_intent"],
                reference=data["id"],
                amount_cents=data["amount"],
                total_cents=5000,
            )
        if event["type"] == "broken":
            raise InvalidEvent("This event is broken.")
        return WebhookEvent(id=event["id"], kind=Kind.IGNORED, reason="unknown_type")

    def post(event: dict[str, t.Any], *, sign: bool = True) -> t.Any:
        body = json.dumps(event).encode()
        digest = hmac.new(secret, b"1." + body, hashlib.sha256).hexdigest()
        return host.client().post(
            "/api/referral/webhooks/stripe",
            data=body,
            headers={"Stripe-Signature": f"t=1,v1={digest if sign else 'no'}"},
        )

    bought = {
        "id": "evt_1",
        "type": "checkout.session.completed",
        "data": {
            "object": {
                "payment_intent": "pi_1",
                "client_reference_id": str(referred),
                "amount_total": 5000,
            }
        },
    }
    refunded = {
        "id": "evt_2",
        "type": "refund.created",
        "data": {"object": {"id": "re_1", "payment_intent": "pi_1", "amount": 2500}},
    }
    assert post(bought, sign=False).status_code == 401
    assert post({**bought, "type": "broken"}).status_code == 400
    outcomes = [post(event).get_json()["outcome"] for event in (refunded, bought, bought)]
    assert outcomes == ["unknown_membership", "converted", "duplicate"]
    assert post({**bought, "id": "evt_3", "type": "other"}).get_json() == {
        "outcome": "unknown_type"
    }
    assert balance(host, referrer) == 500
    for taken in ("stripe", "whop", "flask-referral", "Stripe", "", "a/b"):
        with pytest.raises(ConfigurationError, match="cannot be a webhook's provider"):
            host.referral.webhook(taken)
