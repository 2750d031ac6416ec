"""Whop's events are read for what they mean, and nothing in a body is another exception."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import json
import typing as t

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_referral import EventKind
from flask_referral import InvalidEvent
from flask_referral import WebhookEvent
from flask_referral.payments import whop_events
from flask_referral.payments.events import Outcome
from flask_referral.payments.strict_json import load_object

ABSENT = object()

PAYMENT: dict[str, t.Any] = {
    "id": "pay_1",
    "status": "paid",
    "substatus": "succeeded",
    "currency": "eur",
    "total": 10.43,
    "subtotal": 10.0,
    "usd_total": 12.05,
    "membership": {"id": "mem_1", "status": "active"},
    "user": {"id": "user_1", "username": "ann", "email": None},
    "company": {"id": "biz_1", "route": "shop", "title": "Shop"},
    "metadata": {"user_id": 42, "plan": "pro"},
    "billing_reason": "subscription_create",
}
REFUNDED = {key: value for key, value in PAYMENT.items() if key != "company"}
REFUND: dict[str, t.Any] = {
    "id": "rfnd_1",
    "status": "succeeded",
    "amount": 5.21,
    "currency": "eur",
    "payment": REFUNDED,
}
DISPUTE: dict[str, t.Any] = {
    "id": "dspt_1",
    "status": "needs_response",
    "amount": 10.43,
    "currency": "eur",
    "company": {"id": "biz_1", "title": "Shop"},
    "payment": {key: value for key, value in REFUNDED.items() if key != "metadata"},
}


def envelope(name: str, data: t.Any) -> dict[str, t.Any]:
    return {
        "id": "msg_1",
        "api_version": "v1",
        "timestamp": "2026-06-02T00:00:00.000Z",
        "type": name,
        "company_id": "biz_1",
        "data": data,
    }


def parse_event(body: bytes) -> WebhookEvent:
    return whop_events.read("msg_1", load_object(body))


def parse(value: t.Any) -> WebhookEvent:
    return parse_event(json.dumps(value).encode())


def changed(template: dict[str, t.Any], **changes: t.Any) -> dict[str, t.Any]:
    """Copy an object with other values; ``payment__total`` is a value inside ``payment``."""
    copied = copy.deepcopy(template)
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = copied
        for parent in parents:
            target = target[parent]
        if value is ABSENT:
            target.pop(last, None)
        else:
            target[last] = value
    return copied


def purchase(**changes: t.Any) -> WebhookEvent:
    return parse(envelope("payment.succeeded", changed(PAYMENT, **changes)))


def refund(**changes: t.Any) -> WebhookEvent:
    return parse(envelope("refund.created", changed(REFUND, **changes)))


def dispute(**changes: t.Any) -> WebhookEvent:
    return parse(envelope("dispute.updated", changed(DISPUTE, **changes)))


SENT = dt.datetime(2026, 6, 2, tzinfo=dt.UTC)


def test_a_payment_is_a_purchase() -> None:
    assert purchase() == WebhookEvent(
        id="msg_1",
        kind="purchase",
        membership_id="mem_1",
        payment_id="pay_1",
        user=42,
        amount_cents=1043,
        currency="eur",
        converted_cents=1205,
        converted_currency="usd",
        occurred_at=SENT,
        metadata={
            "user_id": 42,
            "plan": "pro",
            "payment_id": "pay_1",
            "paid_cents": 1043,
            "currency": "eur",
        },
    )


@pytest.mark.parametrize("name", ["refund.created", "refund.updated"])
def test_a_refund_takes_back_a_part_of_its_payment(name: str) -> None:
    assert parse(envelope(name, REFUND)) == WebhookEvent(
        id="msg_1",
        kind="refund",
        membership_id="mem_1",
        payment_id="pay_1",
        reference="rfnd_1",
        amount_cents=521,
        total_cents=1043,
        currency="eur",
        occurred_at=SENT,
    )


@pytest.mark.parametrize("name", ["dispute.created", "dispute.updated"])
def test_a_dispute_concerns_its_payment(name: str) -> None:
    assert parse(envelope(name, DISPUTE)) == WebhookEvent(
        id="msg_1",
        kind="dispute_opened",
        membership_id="mem_1",
        payment_id="pay_1",
        reference="dspt_1",
        occurred_at=SENT,
    )


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-06-02T02:00:00.000+02:00", SENT),
        *((value, None) for value in (ABSENT, None, 1780358400, "", "yesterday", "2026-06-02")),
        # Without a time zone it could be any of two days; and no such year is meant.
        ("2026-06-02T00:00:00", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
def test_the_time_of_an_event_is_told_by_its_envelope(written: t.Any, moment: t.Any) -> None:
    event = parse(changed(envelope("dispute.updated", DISPUTE), timestamp=written))
    assert (event.kind, event.occurred_at) == (EventKind.dispute_opened, moment)


@pytest.mark.parametrize(
    ("currency", "total", "paid"),
    [
        ("jpy", 3000, 3000),
        ("JPY", 2999.5, 3000),
        ("inr", 1690.00, 169000),
        ("eur", 17.20, 1720),
        ("kwd", 1.234, 1234),
        ("btc", 0.00012345, 12345),
    ],
)
def test_an_amount_is_in_the_minor_unit_of_its_currency(
    currency: str, total: float, paid: int
) -> None:
    event = purchase(currency=currency, total=total)
    assert (event.amount_cents, event.currency) == (paid, currency.lower())
    event = refund(currency=currency, payment__currency=currency, amount=total, payment__total=6000)
    assert event.amount_cents == paid


@pytest.mark.parametrize("currency", [None, ABSENT, "usdt", "x2x"])
def test_a_currency_without_known_decimals_leaves_what_whop_converted(currency: t.Any) -> None:
    event = purchase(currency=currency)
    assert (event.kind, event.amount_cents, event.currency) == (EventKind.purchase, None, None)
    assert (event.converted_cents, event.converted_currency) == (1205, "usd")
    # A part is a part in any currency.
    event = refund(currency=currency, payment__currency=currency)
    assert (event.kind, event.amount_cents, event.total_cents) == (EventKind.refund, 521, 1043)
    for other in ("eur", "usdc"):
        assert refund(currency=currency, payment__currency=other).total_cents is None


@pytest.mark.parametrize("usd_total", [None, ABSENT, 0])
def test_an_amount_that_whop_did_not_convert_is_not_converted(usd_total: t.Any) -> None:
    event = purchase(usd_total=usd_total)
    assert (event.converted_cents, event.converted_currency) == (None, None)


def test_what_whop_converted_is_enough() -> None:
    event = purchase(total=None, subtotal=None)
    assert (event.kind, event.amount_cents, event.converted_cents) == (
        EventKind.purchase,
        None,
        1205,
    )


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        ("needs_response", EventKind.dispute_opened, None),
        ("under_review", EventKind.dispute_opened, None),
        ("lost", EventKind.dispute_opened, None),
        ("closed", EventKind.dispute_opened, None),
        ("won", EventKind.dispute_won, None),
        ("warning_needs_response", EventKind.ignored, Outcome.inquiry),
        ("warning_under_review", EventKind.ignored, Outcome.inquiry),
        ("warning_closed", EventKind.ignored, Outcome.inquiry),
        ("other", EventKind.ignored, Outcome.unknown_status),
        ("new_in_2030", EventKind.ignored, Outcome.unknown_status),
    ],
)
def test_a_dispute_counts_once_money_has_moved(
    status: str, kind: EventKind, reason: Outcome | None
) -> None:
    for name in ("dispute.created", "dispute.updated"):
        event = parse(envelope(name, changed(DISPUTE, status=status)))
        assert (event.kind, event.reason) == (kind, reason)
        assert (event.membership_id, event.reference) == ("mem_1", "dspt_1")


@pytest.mark.parametrize("status", ["pending", "requires_action", "failed", "canceled", "new"])
def test_a_refund_counts_when_it_succeeded(status: str) -> None:
    event = refund(status=status)
    assert (event.kind, event.reason) == (EventKind.ignored, Outcome.not_refunded)
    assert (event.membership_id, event.reference) == ("mem_1", "rfnd_1")


@pytest.mark.parametrize(
    "changes",
    [
        *({"total": total} for total in (0, 0.0, -0.0, 0.004, "0.0")),
        {"total": 0, "final_amount": 5},
        {"total": 0, "currency": None},
    ],
)
def test_a_payment_of_nothing_says_so(changes: dict[str, t.Any]) -> None:
    event = purchase(**changes)
    assert (event.kind, event.amount_cents) == (EventKind.purchase, 0)
    assert refund(amount=0).amount_cents == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"total": None, "subtotal": None, "usd_total": None}, Outcome.no_money),
        ({"total": ABSENT, "subtotal": ABSENT, "usd_total": ABSENT}, Outcome.no_money),
        ({"status": "open"}, Outcome.not_paid),
        ({"status": "pending"}, Outcome.not_paid),
        ({"status": "draft", "total": 0}, Outcome.not_paid),
        ({"status": "void"}, Outcome.not_paid),
    ],
)
def test_a_payment_that_was_not_made_is_ignored(changes: dict[str, t.Any], reason: Outcome) -> None:
    event = purchase(**changes)
    assert (event.kind, event.reason, event.payment_id) == (EventKind.ignored, reason, "pay_1")


@pytest.mark.parametrize("membership", [None, ABSENT])
def test_a_payment_needs_no_membership(membership: t.Any) -> None:
    event = purchase(membership=membership)
    assert (event.kind, event.payment_id, event.membership_id) == (
        EventKind.purchase,
        "pay_1",
        None,
    )


@pytest.mark.parametrize("status", [None, ABSENT, "paid"])
def test_the_status_of_a_payment_may_be_missing(status: t.Any) -> None:
    assert purchase(status=status).kind is EventKind.purchase


@pytest.mark.parametrize(
    ("payment", "payment_id"),
    [
        (None, None),
        (ABSENT, None),
        ("pay_1", "pay_1"),
        ({"id": "pay_1", "membership": None}, "pay_1"),
    ],
)
@pytest.mark.parametrize("read", [refund, dispute])
def test_a_payment_or_a_membership_is_enough_to_take_back(
    read: t.Callable[..., WebhookEvent], payment: t.Any, payment_id: str | None
) -> None:
    event = read(payment=payment)
    if payment_id is None:
        assert (event.kind, event.reason) == (EventKind.ignored, Outcome.no_payment)
    else:
        assert event.kind is not EventKind.ignored
    assert (event.payment_id, event.membership_id) == (payment_id, None)
    event = read(payment=payment, membership={"id": "mem_2"})
    assert event.kind is not EventKind.ignored
    assert (event.payment_id, event.membership_id) == (payment_id, "mem_2")
    assert event.total_cents is None


@pytest.mark.parametrize(
    "name",
    [
        *("membership.activated", "membership.went_valid", "app_membership.went_valid"),
        *("membership_activated", "membership_went_valid", "app_membership_went_valid"),
    ],
)
def test_a_membership_is_no_payment_since_trials_begin_too(name: str) -> None:
    event = parse(envelope(name, {"id": "mem_1", "status": "trialing", "total": 10}))
    assert (event.kind, event.reason) == (EventKind.ignored, Outcome.not_a_payment)


@pytest.mark.parametrize("data", [None, 5, "x", [], {}, {"id": 7, "company": 3}, PAYMENT])
@pytest.mark.parametrize(
    "name", ["payment.failed", "payment.created", "dispute_alert.created", "Payment.Succeeded", "x"]
)
def test_an_unknown_type_is_ignored_whatever_it_carries(name: str, data: t.Any) -> None:
    event = parse(envelope(name, data))
    assert (event.kind, event.reason) == (EventKind.ignored, Outcome.unknown_type)


@pytest.mark.parametrize("name", ["payment.succeeded", "refund.created", "dispute.created"])
def test_a_test_delivery_has_no_data(name: str) -> None:
    assert parse(envelope(name, None)).reason == Outcome.no_data
    assert parse({"action": name}).reason == Outcome.no_data


OLD_PAYMENT = {
    "id": "pay_1",
    "membership_id": "mem_1",
    "user_id": "user_1",
    "company_id": "biz_1",
    "status": "paid",
    "subtotal": 9,
    "final_amount": 10,
    "currency": "USD",
    "metadata": None,
}


@pytest.mark.parametrize(
    "name",
    ["payment.succeeded", "payment_succeeded", "app_payment.succeeded", "app_payment_succeeded"],
)
@pytest.mark.parametrize(
    "data",
    [
        OLD_PAYMENT,
        changed(OLD_PAYMENT, membership_id=ABSENT, membership="mem_1"),
        changed(OLD_PAYMENT, total="10.0"),
    ],
)
def test_reads_purchases_of_the_old_api(name: str, data: dict[str, t.Any]) -> None:
    event = parse({"action": name, "data": data})
    assert (event.kind, event.reason) == (EventKind.purchase, None)
    assert (event.membership_id, event.payment_id) == ("mem_1", "pay_1")
    assert (event.amount_cents, event.currency, event.user) == (1000, "usd", None)


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("refund_created", "succeeded", EventKind.refund),
        ("refund_updated", "succeeded", EventKind.refund),
        ("dispute_created", "needs_response", EventKind.dispute_opened),
        ("dispute_updated", "won", EventKind.dispute_won),
    ],
)
def test_reads_refunds_and_disputes_of_the_old_api(name: str, status: str, kind: EventKind) -> None:
    data = {"id": "x_1", "status": status, "amount": 4, "currency": "usd", "payment_id": "pay_1"}
    event = parse({"action": name, "data": data | {"payment": OLD_PAYMENT}})
    assert (event.kind, event.membership_id, event.payment_id) == (kind, "mem_1", "pay_1")
    if kind is EventKind.refund:
        assert (event.amount_cents, event.total_cents) == (400, 1000)


@pytest.mark.parametrize(
    "payload",
    [
        envelope("payment.succeeded", PAYMENT),
        changed(envelope("payment.succeeded", PAYMENT), company_id=ABSENT),
        changed(envelope("refund.created", REFUND), company_id="biz_1"),
        {"action": "payment_succeeded", "data": OLD_PAYMENT},
        {"action": "refund_created", "data": {"payment": OLD_PAYMENT}},
        {"action": "x", "data": {"company": "biz_1"}},
    ],
)
def test_the_company_of_an_event_is_found_where_whop_writes_it(payload: dict[str, t.Any]) -> None:
    assert whop_events.company_of(payload) == "biz_1"


@pytest.mark.parametrize("data", [None, 5, "x", [], {}, {"company": {"id": None}, "payment": 3}])
def test_an_event_without_a_company_is_of_none(data: t.Any) -> None:
    company = whop_events.company_of({"action": "payment_succeeded", "data": data})
    assert company in (None, {"id": None})


@pytest.mark.parametrize(
    ("written", "cents"),
    [
        ("10.43", 1043),
        ("1e1", 1000),
        ("0.01", 1),
        ("1", 100),
        # 1.1 * 100 and 1.15 * 100 are not whole as binary fractions.
        ("1.1", 110),
        ("1.15", 115),
        ("19.990000000000002", 1999),
        ("0.29999999999999998", 30),
        # Half to even, in one step.
        ("1.005", 100),
        ("1.015", 102),
        ("1.0050000000000000000000000000000000000001", 101),
        ("999999999.99", 99_999_999_999),
        ("1000000000", 100_000_000_000),
        ('"100.0"', 10_000),
        ('"2"', 200),
        ("1." + "0" * 10_000, 100),
    ],
)
def test_money_is_exact(written: str, cents: int) -> None:
    body = json.dumps(envelope("payment.succeeded", changed(PAYMENT, total="@")))
    event = parse_event(body.replace('"@"', written).encode())
    assert (event.kind, event.amount_cents) == (EventKind.purchase, cents)
    with decimal.localcontext(prec=1, rounding=decimal.ROUND_UP):
        assert parse_event(body.replace('"@"', written).encode()).amount_cents == cents


@pytest.mark.parametrize(
    "written",
    [
        *("-1", "-0.01", "1000000000.01", "1e10", "1e999999999", "1e99999999999999999999"),
        *("9" * 4000, "9" * 5000, "NaN", "Infinity", "-Infinity", "true", "false", "[]", "{}"),
        *(
            '""',
            '"1e5"',
            '"-1"',
            '"NaN"',
            '"10,00"',
            '"1.2.3"',
            '" 1"',
            '"\\u0661"',
            '"9999999999"',
        ),
    ],
)
@pytest.mark.parametrize("trapped", [True, False])
def test_an_absurd_amount_is_no_event(written: str, trapped: bool) -> None:
    for name, template in (("payment.succeeded", PAYMENT), ("refund.created", REFUND)):
        data = changed(template, amount="@", total="@")
        body = json.dumps(envelope(name, data)).replace('"@"', written).encode()
        with decimal.localcontext() as context:
            context.traps[decimal.InvalidOperation] = trapped
            with pytest.raises(InvalidEvent):
                parse_event(body)


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        ({}, 1043),
        ({"payment__total": None}, 1000),
        ({"payment__total": 0}, None),
        ({"payment__total": None, "payment__subtotal": None}, None),
        # A share of another currency's total would be a wrong share.
        ({"currency": "gbp"}, None),
        ({"currency": "usd"}, 1205),
        ({"currency": "usd", "payment__usd_total": None}, None),
        ({"currency": "EUR"}, 1043),
    ],
)
def test_the_total_is_in_the_currency_of_the_amount(
    changes: dict[str, t.Any], total: int | None
) -> None:
    event = refund(**changes)
    assert (event.kind, event.total_cents) == (EventKind.refund, total)


BAD_TEXT = ["", " ", "a b", "a\x00b", "\ud800", "ű", "x" * 256, "x" * 10**5, 5, True, 1.5, [], {}]
PATHS = [
    (purchase, "id"),
    (purchase, "membership"),
    (purchase, "membership__id"),
    (purchase, "status"),
    (purchase, "currency"),
    (refund, "id"),
    (refund, "status"),
    (refund, "payment__id"),
    (refund, "payment__membership"),
    (refund, "payment__membership__id"),
    (dispute, "id"),
    (dispute, "status"),
    (dispute, "payment__membership__id"),
]


@pytest.mark.parametrize("value", BAD_TEXT, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(("read", "path"), PATHS)
def test_an_id_is_short_text(read: t.Callable[..., WebhookEvent], path: str, value: t.Any) -> None:
    with pytest.raises(InvalidEvent, match=repr(path.rpartition("__")[2]) + "|'id'") as caught:
        read(**{path: value})
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    ("read", "path"),
    [
        *((purchase, "id"), (purchase, "membership__id")),
        *((refund, "id"), (refund, "status"), (refund, "amount"), (refund, "payment__id")),
        *((dispute, "id"), (dispute, "status")),
    ],
)
def test_what_whop_always_sends_must_be_there(
    read: t.Callable[..., WebhookEvent], path: str
) -> None:
    for value in (None, ABSENT):
        with pytest.raises(InvalidEvent, match="missing"):
            read(**{path: value})


@pytest.mark.parametrize(
    "value",
    [
        envelope("payment.succeeded", []),
        envelope("payment.succeeded", "x"),
        envelope("payment.succeeded", 0),
        envelope("payment.succeeded", changed(PAYMENT, metadata=[])),
        envelope("payment.succeeded", changed(PAYMENT, metadata="x")),
        changed(envelope("payment.succeeded", PAYMENT), type=None),
        changed(envelope("payment.succeeded", PAYMENT), type=7),
        changed(envelope("payment.succeeded", PAYMENT), type="x" * 256),
        changed(envelope("payment.succeeded", PAYMENT), type="a\x00"),
        {},
        [],
        [envelope("payment.succeeded", PAYMENT)],
        "payment.succeeded",
        None,
        7,
    ],
)
def test_an_ill_typed_event_is_no_event(value: t.Any) -> None:
    with pytest.raises(InvalidEvent):
        parse(value)


GOOD = json.dumps(envelope("payment.succeeded", PAYMENT))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\xff",
        b"{",
        GOOD.encode()[:-1],
        GOOD.encode() + b"}",
        GOOD.encode("utf-16"),
        GOOD.encode("utf-32"),
        GOOD.encode("utf-8-sig"),
        GOOD.encode().replace(b"pay_1", b"pay\xff"),
        GOOD.replace('"subtotal": 10.0', '"subtotal": NaN').encode(),
        GOOD.replace('"subtotal": 10.0', '"subtotal": Infinity').encode(),
        GOOD.replace('"subtotal": 10.0', '"subtotal": -Infinity').encode(),
        GOOD.replace('"subtotal": 10.0', '"subtotal": 1e99999999999999999999').encode(),
        GOOD.replace('"eur"', "'eur'").encode(),
        GOOD.replace('"id": "pay_1"', '"id": "pay_1", "id": "pay_2"').encode(),
        GOOD.replace('"id": "mem_1"', '"id": "mem_1", "id": "mem_1"').encode(),
        GOOD.replace('"type": ', '"type": "payment.failed", "type": ').encode(),
        GOOD.replace('"type": ', '"type": "payment.failed", "\\u0074ype": ').encode(),
        b"[" * 100_000,
        b'{"a":' * 40_000,
        b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
        b"1" * 5000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_is_strict_json(body: bytes) -> None:
    with pytest.raises(InvalidEvent) as caught:
        parse_event(body)
    # Neither the message nor a chained error shows what came.
    assert "pay" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_metadata_is_what_a_database_can_store() -> None:
    body = json.dumps(envelope("payment.succeeded", changed(PAYMENT, metadata="@")))
    written = (
        '{"ratio": 1.5, "huge": 1e999, "yes": true, "none": null, "name": "zoë 😀",'
        ' "nul": "a\\u0000", "half": "\\ud83d", "list": [1, 0.5], "o": {}}'
    )
    event = parse_event(body.replace('"@"', written).encode())
    assert event.metadata == {
        **{"ratio": 1.5, "huge": None, "yes": True, "none": None, "name": "zoë 😀"},
        **{"nul": "a", "half": "", "list": [1, 0.5], "o": {}},
        **{"payment_id": "pay_1", "paid_cents": 1043, "currency": "eur"},
    }


@pytest.mark.parametrize(
    ("metadata", "user"),
    [
        ({"user_id": 42}, 42),
        ({"referral_user_id": "42"}, "42"),
        ({"user_id": None, "referral_user_id": 7}, 7),
        ({"user_id": 0}, 0),
        ({"user": 1}, None),
        (None, None),
    ],
)
def test_the_buyer_is_whom_the_checkout_names(metadata: t.Any, user: t.Any) -> None:
    assert purchase(metadata=metadata).user == user


texts = st.text() | st.text(st.characters(codec="ascii"), max_size=8) | st.just("x" * 300)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
KNOWN = ["payment.succeeded", "refund.created", "dispute.updated", "membership.activated", "x"]


def paths_in(value: t.Any, path: tuple[str, ...] = ()) -> t.Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key in value:
            yield (*path, key)
            yield from paths_in(value[key], (*path, key))


@st.composite
def almost_events(draw: st.DrawFn) -> t.Any:
    """Draw an event of Whop's in which some values are replaced, added or gone."""
    template = draw(st.sampled_from([PAYMENT, REFUND, DISPUTE, OLD_PAYMENT]))
    event = envelope(draw(st.sampled_from(KNOWN)), template)
    if draw(st.booleans()):
        event["action"] = event.pop("type")
    event = copy.deepcopy(event)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(sorted(paths_in(event))))
        target = event
        for key in path[:-1]:
            target = target[key]
        if draw(st.booleans()):
            target[path[-1]] = draw(anything | st.sampled_from([0, -1, 0.001, 1e300, "won", "1.5"]))
        else:
            del target[path[-1]]
    return event


def check(body: bytes) -> WebhookEvent | None:
    """Parse a body and check all that is promised of an event."""
    try:
        event = parse_event(body)
    except InvalidEvent as error:
        assert str(error)
        return None
    assert (event.kind is EventKind.ignored) == (event.reason is not None)
    if event.kind is not EventKind.ignored:
        assert event.payment_id is not None or event.membership_id is not None
        assert event.kind is EventKind.purchase or event.reference is not None
    for text in (event.payment_id, event.membership_id, event.reference, event.currency):
        assert text is None or (0 < len(text) <= 255 and text.isascii() and text.isprintable())
    for cents in (event.amount_cents, event.total_cents, event.converted_cents):
        assert cents is None or (type(cents) is int and 0 <= cents < 2**63)
    assert event.total_cents != 0
    assert event.occurred_at is None or event.occurred_at.tzinfo is dt.UTC
    # What PostgreSQL's JSONB refuses: NUL, and halves of pairs.
    stored = json.dumps(event.metadata, allow_nan=False)
    assert "\\u0000" not in stored and json.loads(stored) == event.metadata
    assert json.dumps(event.metadata, ensure_ascii=False).encode() and repr(event)
    return event


@settings(max_examples=400, deadline=None)
@given(anything)
@example({"type": "payment.succeeded", "data": {"id": "a", "membership": {"id": "\ud800"}}})
def test_any_json_is_an_event_or_invalid(value: t.Any) -> None:
    check(json.dumps(value).encode())


@settings(max_examples=1000, deadline=None)
@given(almost_events())
def test_a_changed_event_is_an_event_or_invalid(value: t.Any) -> None:
    check(json.dumps(value).encode())


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=60) | st.text('{}[]":,.-+eE0123456789\\ ntfu', max_size=60).map(str.encode)
)
def test_any_bytes_are_an_event_or_invalid(body: bytes) -> None:
    check(body)
    check(b'{"type": "payment.succeeded", "data": ' + body + b"}")


def test_the_templates_pass_the_check() -> None:
    for name, data in zip(KNOWN, (PAYMENT, REFUND, DISPUTE), strict=False):
        event = check(json.dumps(envelope(name, data)).encode())
        assert event is not None and event.kind is not EventKind.ignored
