"""``POST /api/referral/webhooks/whop``: every event takes effect once."""

from __future__ import annotations

import io
import itertools
import json
import typing as t

import pytest
import sqlalchemy as sa
from flask_wtf import CSRFProtect

from ..conftest import MakeHost
from ..money import amounts
from ..money import balance
from ..money import refer
from ..money import rows
from ..whop import CONFIG
from ..whop import deliver
from ..whop import dispute
from ..whop import outcome
from ..whop import payment
from ..whop import refund
from ..whop import signed
from ..whop import URL


@pytest.mark.parametrize("key", ["int", "uuid", "str"])
def test_a_second_delivery_pays_nothing(make: MakeHost, key: str) -> None:
    host = make(key=key, **CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    event = payment(referred)
    first = deliver(host, event, id="msg_a")
    assert (first.status_code, first.get_json()) == (200, {"outcome": "converted"})
    for id, told in (("msg_a", "duplicate"), ("msg_b", "already_converted")):
        again = deliver(host, event, id=id)
        assert (again.status_code, again.get_json()) == (200, {"outcome": told})
    assert rows(host, referrer) == [("referral_bonus", 1000, 1000)]
    with host.app.app_context():
        models = host.referral.models
        conversion = host.db.session.scalars(sa.select(models.ReferralConversion)).one()
        assert conversion.metadata_ == {
            "user_id": str(referred),
            "payment_id": "pay_mem_1",
            "paid_cents": 3000,
            "currency": "usd",
        }
        delivery = models.ReferralEvent
        kept = host.db.session.scalars(sa.select(delivery).where(delivery.kind == "delivery"))
        assert {(event.event_id, event.type, event.outcome) for event in kept} == {
            ("msg_a", "purchase", "converted"),
            ("msg_b", "purchase", "already_converted"),
        }


def test_refunds_take_back_in_proportion(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    deliver(host, payment(refer(host, referrer)))
    outcomes = [
        outcome(host, event)
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
    assert amounts(host, referrer) == [1000, -333, -667]
    assert balance(host, referrer) == 0


def test_every_order_of_deliveries_nets_the_same(make: MakeHost) -> None:
    host = make(**CONFIG)
    for number, order in enumerate(itertools.permutations(range(4))):
        referrer = host.add_user()
        membership = f"mem_{number}"
        events = [
            payment(refer(host, referrer), membership),
            refund(f"ref_{number}", 15.0, membership),
            dispute(f"dis_{number}", "needs_response", membership, hour=1),
            dispute(f"dis_{number}", "won", membership, hour=2),
        ]
        for index in (*order, order[0]):
            assert deliver(host, events[index]).status_code == 200
        assert balance(host, referrer) == 500, order


@pytest.mark.parametrize(
    ("states", "left"),
    [
        (("needs_response", "under_review", "lost"), 0),
        (("needs_response", "won"), 1000),
        # Lost on appeal, and won on appeal.
        (("needs_response", "won", "lost"), 0),
        (("needs_response", "lost", "won"), 1000),
    ],
)
def test_the_last_state_of_a_dispute_counts_whatever_arrives_last(
    make_sqlite: MakeHost, states: tuple[str, ...], left: int
) -> None:
    host = make_sqlite(**CONFIG)
    for number, order in enumerate(itertools.permutations(range(len(states) + 1))):
        referrer = host.add_user()
        membership = f"mem_{number}"
        events = [payment(refer(host, referrer), membership)] + [
            dispute(f"dis_{number}", state, membership, hour=hour)
            for hour, state in enumerate(states)
        ]
        for index in order:
            assert deliver(host, events[index]).status_code == 200
        assert balance(host, referrer) == left, order


@pytest.mark.parametrize(("states", "left"), [(("lost", "won"), 1000), (("won", "lost"), 0)])
def test_without_times_a_disputes_states_count_as_they_arrive(
    make: MakeHost, states: tuple[str, ...], left: int
) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    deliver(host, payment(refer(host, referrer)))
    for state in states:
        deliver(host, dispute("dis_1", state))
    assert balance(host, referrer) == left


def test_a_clock_that_is_ahead_has_not_the_last_word(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    deliver(host, payment(refer(host, referrer)))
    deliver(host, dispute("dis_1", "lost") | {"timestamp": "2126-06-02T00:00:00Z"})
    assert balance(host, referrer) == 0
    assert outcome(host, dispute("dis_1", "won")) == "nothing_to_reverse"
    assert balance(host, referrer) == 1000


def test_an_inquiry_takes_nothing(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    deliver(host, payment(refer(host, referrer)))
    states = ("warning_needs_response", "needs_response", "under_review", "lost")
    told = [outcome(host, dispute("dis_1", state)) for state in states]
    assert told == ["inquiry", "reversed", "nothing_to_reverse", "nothing_to_reverse"]
    assert amounts(host, referrer) == [1000, -1000]


@pytest.mark.parametrize("refund_first", [True, False])
@pytest.mark.parametrize("membership", [{"id": "mem_1"}, None])
def test_a_refund_that_names_its_payment_alone_finds_it(
    make: MakeHost, membership: t.Any, refund_first: bool
) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    bought = payment(refer(host, referrer), membership=membership)
    part = {"id": "pay_mem_1", "total": 30.0, "currency": "usd", "membership": None}
    events = [bought, refund("ref_1", 15.0, payment=part)]
    told = [outcome(host, event) for event in (events[::-1] if refund_first else events)]
    assert told == (
        ["unknown_membership", "converted"] if refund_first else ["converted", "reversed"]
    )
    assert amounts(host, referrer) == [1000, -500]


def test_a_payment_without_a_membership_is_one_of_its_own(make: MakeHost) -> None:
    host = make(REFERRAL_RENEWALS=None, **CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    for id, told in (("mem_1", "converted"), ("mem_2", "renewed"), ("mem_1", "already_converted")):
        assert outcome(host, payment(referred, id, membership=None)) == told
    with host.app.app_context():
        reward = host.referral.models.ReferralReward
        query = sa.select(reward.payment_id, reward.membership_id).order_by(reward.number)
        kept = [tuple(row) for row in host.db.session.execute(query)]
    assert kept == [("pay_mem_1", "pay_mem_1"), ("pay_mem_2", "pay_mem_2")]


def test_each_month_of_a_membership_is_refunded_by_itself(make: MakeHost) -> None:
    host = make(REFERRAL_RENEWALS=1, **CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    months = [payment(referred, id=f"pay_{month}") for month in (1, 2, 3)]
    assert [outcome(host, event) for event in months] == [
        "converted",
        "renewed",
        "already_converted",
    ]
    second = {"id": "pay_2", "total": 30.0, "currency": "usd", "membership": {"id": "mem_1"}}
    assert outcome(host, refund("ref_1", 30.0, payment=second)) == "reversed"
    assert balance(host, referrer) == 1000


def test_what_earns_nothing_says_why(make: MakeHost) -> None:
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
        # Which of theirs we could not read is none of our business.
        (other | {"data": {"total": -1}}, "other_company"),
        ({"type": "membership.activated", "company_id": "biz_1", "data": {}}, "not_a_payment"),
        ({"type": "invoice.paid", "company_id": "biz_1", "data": {}}, "unknown_type"),
    ]
    for event, told in cases:
        assert outcome(host, event) == told
    assert rows(host, referrer) == []
    with host.app.app_context():
        event = host.referral.models.ReferralEvent
        kept = host.db.session.scalars(sa.select(event.outcome)).all()
        assert sorted(kept) == sorted(told for _, told in cases)


def test_a_buyer_is_never_looked_up_by_email(make: MakeHost) -> None:
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
    assert "The buyer of payment pay_mem_1 is not known" in caplog.text
    cure = "flask referral convert USER mem_1 --payment-id pay_mem_1 --provider whop makes good"
    assert cure in caplog.text
    host.referral.whop_user_loader(lambda payload: referred)
    outcomes = [deliver(host, lost, id="msg_a").get_json()["outcome"] for _ in range(2)]
    assert outcomes == ["converted", "duplicate"]
    assert balance(host, referrer) == 1000


def test_the_hosts_own_function_finds_the_buyer(make: MakeHost) -> None:
    host = make(**CONFIG)
    referred = refer(host, host.add_user())
    seen: list[dict[str, t.Any]] = []

    @host.referral.whop_user_loader
    def find(payload: dict[str, t.Any]) -> t.Any:
        seen.append(payload)
        return host.db.session.get(host.User, referred)

    assert deliver(host, payment("whatever")).get_json() == {"outcome": "converted"}
    assert seen[0]["data"]["user"]["id"] == "user_1"


def test_what_is_not_whops_is_refused(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    body = json.dumps(payment(refer(host, referrer))).encode()
    client = host.client()
    forged = signed(body) | {"webhook-signature": "v1,AAAA"}
    for headers in ({}, forged, signed(body, "another secret"), signed(body + b" ")):
        answer = client.post(URL, data=body, headers=headers)
        assert (answer.status_code, answer.get_json()["code"]) == (401, "invalid_signature")
    ill_typed = b'{"company_id": "biz_1", "type": 7}'
    for bad in (b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"type": NaN}', ill_typed):
        answer = client.post(URL, data=bad, headers=signed(bad))
        assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_event")
    large = b" " * (256 * 1024 + 1)
    answer = client.post(URL, data=large, headers=signed(large))
    assert (answer.status_code, answer.get_json()["code"]) == (413, "too_large")
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


def test_a_delivery_waits_while_the_database_is_away(
    make_sqlite: MakeHost, tmp_path: t.Any
) -> None:
    host = make_sqlite(**CONFIG)
    referred = refer(host, host.add_user())
    with host.app.app_context():
        url = sa.make_url("sqlite:////nowhere/at/all.db")
        host.db.engines[None] = sa.create_engine(url)
    answer = deliver(host, payment(referred))
    assert (answer.status_code, answer.get_json()["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "60"


def test_a_delivery_whose_connection_breaks_is_asked_for_again(make_postgresql: MakeHost) -> None:
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


@pytest.mark.parametrize("csrf_first", [True, False])
def test_csrf_protection_leaves_webhooks_alone(make_sqlite: MakeHost, csrf_first: bool) -> None:
    host = make_sqlite(**CONFIG)
    CSRFProtect(host.app)
    referred = refer(host, host.add_user())
    host.current_user = referred
    assert deliver(host, payment(referred)).status_code == 200
    assert host.client().post("/api/referral/generate").status_code == 400
