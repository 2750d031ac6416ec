"""An event that cannot be so is refused when it is made, in words that help its author."""

from __future__ import annotations

import datetime as dt
import typing as t

import pytest

from flask_referral import EventKind
from flask_referral import InvalidEvent
from flask_referral import WebhookEvent

PAYMENT = {"payment_id": "pay_1", "reference": "ref_1"}


def event(kind: str, **fields: t.Any) -> WebhookEvent:
    return WebhookEvent(**({"id": "evt_1", "kind": kind} | fields))


@pytest.mark.parametrize("kind", EventKind)
def test_a_kind_may_be_given_as_text(kind: EventKind) -> None:
    made = event(str.__str__(kind), **PAYMENT)
    assert made.kind is kind
    assert made == event(kind, **PAYMENT)


@pytest.mark.parametrize("kind", ["PURCHASE", "", None, 1, [], "refund\0"])
def test_another_kind_is_refused_with_those_there_are(kind: t.Any) -> None:
    with pytest.raises(InvalidEvent, match="pass one of purchase, refund, dispute_opened"):
        event(kind, **PAYMENT)


BAD_IDS = ["", "x" * 256, "a\0", "\ud800", "a\nb", "\u200b", 5, b"pay_1", True, [], {}]


@pytest.mark.parametrize("value", BAD_IDS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("name", ["id", "payment_id", "membership_id", "reference"])
@pytest.mark.parametrize("kind", EventKind)
def test_an_id_is_1_to_255_printable_characters(kind: str, name: str, value: t.Any) -> None:
    with pytest.raises(InvalidEvent, match="pass a string of 1 to 255 printable characters"):
        event(kind, **(PAYMENT | {name: value}))
    assert getattr(event(kind, **(PAYMENT | {name: "ü" * 255})), name) == "ü" * 255


def test_an_event_has_an_id_of_its_own() -> None:
    with pytest.raises(InvalidEvent, match="None is no event id"):
        WebhookEvent(id=t.cast(str, None), kind="ignored")


@pytest.mark.parametrize("kind", [kind for kind in EventKind if kind is not EventKind.ignored])
def test_all_that_has_an_effect_names_a_payment_or_a_membership(kind: str) -> None:
    with pytest.raises(InvalidEvent, match="pass payment_id or membership_id"):
        event(kind, reference="ref_1")
    for name in ("payment_id", "membership_id"):
        assert getattr(event(kind, **{name: "x", "reference": "ref_1"}), name) == "x"


def test_what_is_ignored_needs_nothing() -> None:
    assert event("ignored").reason is None


@pytest.mark.parametrize(
    ("kind", "fields", "is_needed"),
    [
        ("purchase", {}, False),
        ("dispute_opened", {}, True),
        ("dispute_won", {}, True),
        ("refund_failed", {}, True),
        ("refund", {}, False),
        ("refund", {"amount_cents": 10}, False),
        ("refund", {"total_cents": 10}, False),
        ("refund", {"amount_cents": 10, "total_cents": 10}, False),
        ("refund", {"amount_cents": 11, "total_cents": 10}, False),
        ("refund", {"amount_cents": 9, "total_cents": 10}, True),
    ],
)
def test_what_may_come_twice_for_a_payment_has_a_reference(
    kind: str, fields: dict[str, t.Any], is_needed: bool
) -> None:
    if is_needed:
        with pytest.raises(InvalidEvent, match="pass reference, the provider's id of it"):
            event(kind, payment_id="pay_1", **fields)
    else:
        event(kind, payment_id="pay_1", **fields)
    assert event(kind, **PAYMENT, **fields).reference == "ref_1"


@pytest.mark.parametrize("value", BAD_IDS, ids=lambda value: repr(value)[:12])
def test_every_id_of_a_payment_is_one(value: t.Any) -> None:
    with pytest.raises(InvalidEvent, match="is no payment id"):
        event("purchase", **PAYMENT, aliases=("ch_1", value))
    assert event("purchase", **PAYMENT, aliases=["ch_1"]).aliases == ("ch_1",)
    assert event("purchase", **PAYMENT, aliases=()).aliases == ()


def test_a_sum_is_of_refunds_and_has_an_amount_and_a_reference() -> None:
    event("refund", **PAYMENT, is_sum=True, amount_cents=5)
    for kind, fields in (("refund", {}), ("purchase", {"amount_cents": 5})):
        with pytest.raises(InvalidEvent, match="is_sum is said of a refund"):
            event(kind, **PAYMENT, **fields, is_sum=True)
    with pytest.raises(InvalidEvent, match="pass reference"):
        event("refund", payment_id="pay_1", is_sum=True, amount_cents=5)


@pytest.mark.parametrize("name", ["amount_cents", "total_cents", "converted_cents"])
@pytest.mark.parametrize("value", [-1, 0.5, True, "100", 2**63, []])
def test_an_amount_is_a_whole_number_of_cents(name: str, value: t.Any) -> None:
    with pytest.raises(InvalidEvent, match=f"{name}=.* is no amount: pass a whole number"):
        event("refund", **PAYMENT, converted_currency="usd", **{name: value})
    made = event("refund", **PAYMENT, **{"converted_cents": 1, name: 2**63 - 1}, **USD)
    assert getattr(made, name) == 2**63 - 1


USD = {"converted_currency": "usd"}


def test_a_whole_payment_is_not_nothing() -> None:
    with pytest.raises(InvalidEvent, match="total_cents=0 is no amount"):
        event("refund", **PAYMENT, total_cents=0)


@pytest.mark.parametrize("name", ["currency", "converted_currency"])
def test_a_currency_is_three_letters(name: str) -> None:
    made = event("purchase", **PAYMENT, **{"converted_cents": 1, **USD, name: " EUR"})
    assert getattr(made, name) == "eur"
    for value in ("", "euro", "€", "e r", 978, b"eur"):
        with pytest.raises(InvalidEvent, match="pass its three letters, as in 'usd'"):
            event("purchase", **PAYMENT, **{"converted_cents": 1, **USD, name: value})


@pytest.mark.parametrize("fields", [{"converted_cents": 1}, USD])
def test_a_converted_amount_has_its_currency(fields: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidEvent, match="together, or neither"):
        event("purchase", **PAYMENT, **fields)


def test_a_moment_is_kept_in_utc() -> None:
    east = dt.timezone(dt.timedelta(hours=9))
    made = event("dispute_won", **PAYMENT, occurred_at=dt.datetime(2026, 6, 2, 9, tzinfo=east))
    assert made.occurred_at == dt.datetime(2026, 6, 2, tzinfo=dt.UTC)
    assert made.occurred_at.tzinfo is dt.UTC


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2026, 6, 2),
        dt.date(2026, 6, 2),
        "2026-06-02T00:00:00Z",
        1780358400,
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=14))),
        dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-12))),
    ],
)
def test_a_moment_has_a_time_zone_and_can_be_stored(value: t.Any) -> None:
    with pytest.raises(InvalidEvent, match="pass a datetime from 1970 on with a time zone"):
        event("dispute_won", **PAYMENT, occurred_at=value)


def test_metadata_is_cleaned() -> None:
    made = event("purchase", **PAYMENT, metadata={"na\0me": "Z\ud800oë", "rate": float("nan")})
    assert made.metadata == {"name": "Zoë", "rate": None}
    assert event("purchase", **PAYMENT).metadata == {}


@pytest.mark.parametrize("value", ["text", [1], {"when": dt.date(2026, 6, 2)}, {1: 2}])
def test_metadata_is_json(value: t.Any) -> None:
    with pytest.raises(InvalidEvent, match="metadata"):
        event("purchase", **PAYMENT, metadata=value)


def test_a_reason_may_be_any_text() -> None:
    assert event("ignored", reason="no\0 \ud800good\n" + "x" * 300).reason == (
        "no good" + "x" * 248
    )
    assert event("ignored", reason="\n").reason is None
    with pytest.raises(InvalidEvent, match="reason is a list: pass text"):
        event("ignored", reason=[])


def test_what_is_wrong_is_told_in_one_short_sentence() -> None:
    for fields in ({"payment_id": "x" * 10**5}, {"currency": "x" * 10**5}, {"kind": "x" * 10**5}):
        with pytest.raises(InvalidEvent) as caught:
            event(**({"kind": "purchase"} | PAYMENT | fields))
        assert len(str(caught.value)) < 200
        assert caught.value.__suppress_context__
