"""Whop's events are read for what they mean, and nothing in a body is another exception."""

from __future__ import annotations

import copy
import decimal
import json
import typing as t
from decimal import Decimal

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_referral.errors import InvalidEvent
from flask_referral.payments.whop_events import Event
from flask_referral.payments.whop_events import IgnoredReason
from flask_referral.payments.whop_events import Kind
from flask_referral.payments.whop_events import parse_event

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


def parse(value: t.Any) -> Event:
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


def purchase(**changes: t.Any) -> Event:
    return parse(envelope("payment.succeeded", changed(PAYMENT, **changes)))


def refund(**changes: t.Any) -> Event:
    return parse(envelope("refund.created", changed(REFUND, **changes)))


def dispute(**changes: t.Any) -> Event:
    return parse(envelope("dispute.updated", changed(DISPUTE, **changes)))


def test_a_payment_is_a_purchase() -> None:
    event = purchase()
    assert event == Event(
        kind=Kind.PURCHASE,
        type="payment.succeeded",
        company_id="biz_1",
        membership_id="mem_1",
        payment_id="pay_1",
        whop_user_id="user_1",
        amount_cents=1043,
        total_cents=1043,
        currency="eur",
        metadata={"user_id": 42, "plan": "pro"},
        payload={},
    )
    assert event.payload["data"]["total"] == Decimal("10.43")


@pytest.mark.parametrize("name", ["refund.created", "refund.updated"])
def test_a_refund_takes_back_a_part_of_its_payment(name: str) -> None:
    assert parse(envelope(name, REFUND)) == Event(
        kind=Kind.REFUND,
        type=name,
        company_id="biz_1",
        membership_id="mem_1",
        payment_id="pay_1",
        refund_id="rfnd_1",
        whop_user_id="user_1",
        amount_cents=521,
        total_cents=1043,
        currency="eur",
        metadata={"user_id": 42, "plan": "pro"},
        payload={},
    )


@pytest.mark.parametrize("name", ["dispute.created", "dispute.updated"])
def test_a_dispute_concerns_its_payment(name: str) -> None:
    assert parse(envelope(name, DISPUTE)) == Event(
        kind=Kind.DISPUTE_OPENED,
        type=name,
        company_id="biz_1",
        membership_id="mem_1",
        payment_id="pay_1",
        dispute_id="dspt_1",
        whop_user_id="user_1",
        amount_cents=1043,
        total_cents=1043,
        currency="eur",
        payload={},
    )


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        ("needs_response", Kind.DISPUTE_OPENED, None),
        ("under_review", Kind.DISPUTE_OPENED, None),
        ("lost", Kind.DISPUTE_OPENED, None),
        ("closed", Kind.DISPUTE_OPENED, None),
        ("won", Kind.DISPUTE_WON, None),
        ("warning_needs_response", Kind.IGNORED, IgnoredReason.INQUIRY),
        ("warning_under_review", Kind.IGNORED, IgnoredReason.INQUIRY),
        ("warning_closed", Kind.IGNORED, IgnoredReason.INQUIRY),
        ("other", Kind.IGNORED, IgnoredReason.UNKNOWN_STATUS),
        ("new_in_2030", Kind.IGNORED, IgnoredReason.UNKNOWN_STATUS),
    ],
)
def test_a_dispute_counts_once_money_has_moved(
    status: str, kind: Kind, reason: IgnoredReason | None
) -> None:
    for name in ("dispute.created", "dispute.updated"):
        event = parse(envelope(name, changed(DISPUTE, status=status)))
        assert (event.kind, event.reason) == (kind, reason)
        assert (event.membership_id, event.dispute_id) == ("mem_1", "dspt_1")


@pytest.mark.parametrize("status", ["pending", "requires_action", "failed", "canceled", "new"])
def test_a_refund_counts_when_it_succeeded(status: str) -> None:
    event = refund(status=status)
    assert (event.kind, event.reason) == (Kind.IGNORED, IgnoredReason.NOT_REFUNDED)
    assert (event.membership_id, event.refund_id) == ("mem_1", "rfnd_1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"total": 0}, IgnoredReason.NO_MONEY),
        ({"total": 0.0}, IgnoredReason.NO_MONEY),
        ({"total": -0.0}, IgnoredReason.NO_MONEY),
        ({"total": 0.004}, IgnoredReason.NO_MONEY),
        ({"total": "0.0"}, IgnoredReason.NO_MONEY),
        ({"total": 0, "final_amount": 5}, IgnoredReason.NO_MONEY),
        ({"total": None, "subtotal": None}, IgnoredReason.NO_MONEY),
        ({"total": ABSENT, "subtotal": ABSENT}, IgnoredReason.NO_MONEY),
        ({"status": "open"}, IgnoredReason.NOT_PAID),
        ({"status": "pending"}, IgnoredReason.NOT_PAID),
        ({"status": "draft", "total": 0}, IgnoredReason.NOT_PAID),
        ({"status": "void"}, IgnoredReason.NOT_PAID),
        ({"membership": None}, IgnoredReason.NO_MEMBERSHIP),
        ({"membership": ABSENT}, IgnoredReason.NO_MEMBERSHIP),
    ],
)
def test_a_payment_without_money_or_membership_is_ignored(
    changes: dict[str, t.Any], reason: IgnoredReason
) -> None:
    event = purchase(**changes)
    assert (event.kind, event.reason, event.payment_id) == (Kind.IGNORED, reason, "pay_1")
    assert event.total_cents != 0


@pytest.mark.parametrize("status", [None, ABSENT, "paid"])
def test_the_status_of_a_payment_may_be_missing(status: t.Any) -> None:
    assert purchase(status=status).kind is Kind.PURCHASE


@pytest.mark.parametrize("payment", [None, ABSENT, "pay_1", {"id": "pay_1", "membership": None}])
@pytest.mark.parametrize("read", [refund, dispute])
def test_without_a_membership_nothing_can_be_taken_back(
    read: t.Callable[..., Event], payment: t.Any
) -> None:
    event = read(payment=payment)
    assert (event.kind, event.reason) == (Kind.IGNORED, IgnoredReason.NO_MEMBERSHIP)
    event = read(payment=payment, membership={"id": "mem_2"})
    assert (event.kind is not Kind.IGNORED, event.membership_id) == (True, "mem_2")
    assert event.total_cents is None


def test_a_refund_of_nothing_is_ignored() -> None:
    assert refund(amount=0).reason is IgnoredReason.NO_MONEY


@pytest.mark.parametrize(
    "name",
    [
        *("membership.activated", "membership.went_valid", "app_membership.went_valid"),
        *("membership_activated", "membership_went_valid", "app_membership_went_valid"),
    ],
)
def test_a_membership_is_no_payment_since_trials_begin_too(name: str) -> None:
    event = parse(envelope(name, {"id": "mem_1", "status": "trialing", "total": 10}))
    assert (event.kind, event.reason) == (Kind.IGNORED, IgnoredReason.NOT_A_PAYMENT)


@pytest.mark.parametrize("data", [None, 5, "x", [], {}, {"id": 7, "company": 3}, PAYMENT])
@pytest.mark.parametrize(
    "name", ["payment.failed", "payment.created", "dispute_alert.created", "Payment.Succeeded", "x"]
)
def test_an_unknown_type_is_ignored_whatever_it_carries(name: str, data: t.Any) -> None:
    event = parse(envelope(name, data))
    assert (event.kind, event.reason) == (Kind.IGNORED, IgnoredReason.UNKNOWN_TYPE)
    assert (event.type, event.company_id) == (name, "biz_1")


@pytest.mark.parametrize("name", ["payment.succeeded", "refund.created", "dispute.created"])
def test_a_test_delivery_has_no_data(name: str) -> None:
    assert parse(envelope(name, None)).reason is IgnoredReason.NO_DATA
    assert parse({"action": name}).reason is IgnoredReason.NO_DATA


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
    assert (event.kind, event.type, event.reason) == (Kind.PURCHASE, name, None)
    assert (event.membership_id, event.payment_id, event.whop_user_id, event.company_id) == (
        "mem_1",
        "pay_1",
        "user_1",
        "biz_1",
    )
    assert (event.amount_cents, event.currency, event.metadata) == (1000, "usd", {})


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("refund_created", "succeeded", Kind.REFUND),
        ("refund_updated", "succeeded", Kind.REFUND),
        ("dispute_created", "needs_response", Kind.DISPUTE_OPENED),
        ("dispute_updated", "won", Kind.DISPUTE_WON),
    ],
)
def test_reads_refunds_and_disputes_of_the_old_api(name: str, status: str, kind: Kind) -> None:
    data = {"id": "x_1", "status": status, "amount": 4, "currency": "usd", "payment_id": "pay_1"}
    event = parse({"action": name, "data": data | {"payment": OLD_PAYMENT}})
    assert (event.kind, event.membership_id, event.payment_id) == (kind, "mem_1", "pay_1")
    assert (event.company_id, event.amount_cents, event.total_cents) == ("biz_1", 400, 1000)


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
    assert (event.kind, event.amount_cents) == (Kind.PURCHASE, cents)
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
    for event in (refund(**changes), dispute(**changes)):
        assert event.kind is not Kind.IGNORED
        assert event.total_cents == total


BAD_TEXT = ["", " ", "a b", "a\x00b", "\ud800", "ű", "x" * 256, "x" * 10**5, 5, True, 1.5, [], {}]
PATHS = [
    (purchase, "id"),
    (purchase, "membership"),
    (purchase, "membership__id"),
    (purchase, "user__id"),
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
def test_an_id_is_short_text(read: t.Callable[..., Event], path: str, value: t.Any) -> None:
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
def test_what_whop_always_sends_must_be_there(read: t.Callable[..., Event], path: str) -> None:
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
        changed(envelope("payment.succeeded", PAYMENT), company_id=7),
        changed(envelope("payment.failed", PAYMENT), company_id="b\x00"),
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
        '{"id": 7, "ratio": 1.5, "huge": 1e999, "yes": true, "none": null, "name": "zoë 😀",'
        ' "nul": "a\\u0000", "\\u0000": 1, "half": "\\ud83d", "\\udc00": 1, "list": [1], "o": {}}'
    )
    event = parse_event(body.replace('"@"', written).encode())
    assert event.metadata == {"id": 7, "ratio": 1.5, "yes": True, "name": "zoë 😀"}


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


def check(body: bytes) -> Event | None:
    """Parse a body and check all that is promised of an event."""
    try:
        event = parse_event(body)
    except InvalidEvent as error:
        assert str(error)
        return None
    assert (event.kind is Kind.IGNORED) == (event.reason is not None)
    own = {
        Kind.PURCHASE: event.payment_id,
        Kind.REFUND: event.refund_id,
        Kind.DISPUTE_OPENED: event.dispute_id,
        Kind.DISPUTE_WON: event.dispute_id,
        Kind.IGNORED: "",
    }
    assert own[event.kind] is not None
    assert event.kind is Kind.IGNORED or event.membership_id is not None
    ids = (event.type, event.company_id, event.membership_id, event.payment_id, event.refund_id)
    for text in (*ids, event.dispute_id, event.whop_user_id, event.currency):
        assert text is None or (0 < len(text) <= 255 and text.isascii() and text.isprintable())
    if event.kind in (Kind.PURCHASE, Kind.REFUND):
        assert event.amount_cents is not None and event.amount_cents > 0
    for cents in (event.amount_cents, event.total_cents):
        assert cents is None or (type(cents) is int and 0 <= cents <= 10**11)
    assert event.total_cents != 0
    stored = json.dumps(event.metadata, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in stored and stored.encode()
    assert isinstance(event.payload, dict) and repr(event)
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
        assert event is not None and event.kind is not Kind.IGNORED
