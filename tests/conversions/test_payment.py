"""What is told of a payment is checked, or cleaned, before the database is asked anything."""

from __future__ import annotations

import decimal
import enum
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.errors import ReferralError

from ..conftest import MakeHost
from ..money import refer
from ..money import refund

NO_IDS = ["", "x" * 256, "a\0b", "a\nb", 7, "\ud800"]


@pytest.mark.parametrize("id", [*NO_IDS, None])
def test_a_membership_that_cannot_be_is_refused(make_sqlite: MakeHost, id: t.Any) -> None:
    host = make_sqlite()
    with host.app.app_context(), host.statements() as seen:
        with pytest.raises(ReferralError, match="membership id"):
            host.referral.convert(1, id)
        with pytest.raises(ReferralError, match="membership id"):
            host.referral.reverse(id, reason="refund", refund_id="r")
    assert seen == []


@pytest.mark.parametrize("id", NO_IDS)
@pytest.mark.parametrize("name", ["payment_id", "provider", "refund_id"])
def test_an_id_that_cannot_be_is_refused(make_sqlite: MakeHost, name: str, id: t.Any) -> None:
    host = make_sqlite()
    with host.app.app_context(), host.statements() as seen:
        if name != "refund_id":
            with pytest.raises(ReferralError, match="1 to 255 printable"):
                host.referral.convert(1, "mem_1", **{name: id})
        with pytest.raises(ReferralError, match="1 to 255 printable"):
            host.referral.reverse("mem_1", reason="refund", **{name: id})
    assert seen == []


@pytest.mark.parametrize("cents", [-1, 0, 2**31, 1.5, True, "10"])
def test_a_reversal_that_cannot_be_is_refused(make_sqlite: MakeHost, cents: t.Any) -> None:
    host = make_sqlite()
    with pytest.raises(ReferralError, match="whole number of cents from 1 to"):
        refund(host, amount_cents=cents)


@pytest.mark.parametrize("cents", [-1, 2**31, 1.5, True, "10"])
def test_a_payment_that_cannot_be_is_refused(make_sqlite: MakeHost, cents: t.Any) -> None:
    host = make_sqlite()
    with host.app.app_context(), pytest.raises(ReferralError, match="cents from 0 to"):
        host.referral.convert(1, "mem_1", paid_cents=cents)


@pytest.mark.parametrize("currency", ["", "us", "dollar", 7, "u$d", b"usd"])
def test_a_currency_that_cannot_be_is_refused(make_sqlite: MakeHost, currency: t.Any) -> None:
    host = make_sqlite()
    with host.app.app_context(), pytest.raises(ReferralError, match="three letters"):
        host.referral.convert(1, "mem_1", paid_cents=1, currency=currency)


class Plan(enum.StrEnum):
    gold = "gold"


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        ({"note": "a\0b\ud800c"}, {"note": "abc"}),
        ({"no\0te": ["\0", ("\udfff",)]}, {"note": ["", [""]]}),
        ({"a": float("nan"), "b": [float("inf"), -float("inf")]}, {"a": None, "b": [None, None]}),
        ({"a": decimal.Decimal("17.20")}, {"a": 17.2}),
        (
            {"a": [decimal.Decimal(text) for text in ("NaN", "sNaN", "Infinity", "1e999")]},
            {"a": [None] * 4},
        ),
        (
            {"a": {"b": {"c": [1, True, None, 1.5, "€"]}}},
            {"a": {"b": {"c": [1, True, None, 1.5, "€"]}}},
        ),
        ({"plan": Plan.gold}, {"plan": "gold"}),
        ({"a": 2**70, "b": -(2**70)}, {"a": 2**70, "b": -(2**70)}),
        ({}, None),
        (None, None),
    ],
)
def test_what_a_buyer_wrote_is_stored_without_what_databases_refuse(
    make: MakeHost, told: t.Any, stored: t.Any
) -> None:
    host = make()
    referred = refer(host, host.add_user())
    with host.app.app_context():
        result = host.referral.convert(referred, "mem_1", metadata=told)
        host.db.session.commit()
        assert result.conversion is not None
        assert result.conversion.metadata_ == stored


def nested(depth: int) -> t.Any:
    return {"a": nested(depth - 1)} if depth else 1


LOOP: dict[str, t.Any] = {}
LOOP["self"] = LOOP


@pytest.mark.parametrize(
    "metadata",
    [
        "text",
        ["list"],
        {"a": b"bytes"},
        {"a": {1: 2}},
        {"a": {1, 2}},
        {"a": object()},
        {"a": 10**5000},
        nested(40),
        LOOP,
    ],
)
def test_what_is_no_json_is_refused_and_costs_the_host_no_order(
    make: MakeHost, metadata: t.Any
) -> None:
    host = make()
    referred = refer(host, host.add_user())
    with host.app.app_context():
        host.db.session.add(host.User(name="an order"))
        with host.statements() as seen, pytest.raises(ReferralError, match="metadata"):
            host.referral.convert(referred, "mem_1", metadata=metadata)
        assert seen == []
        host.db.session.commit()
        assert host.db.session.scalar(sa.select(host.User.id).filter_by(name="an order"))


@pytest.mark.parametrize("reason", ["a\0b", "\ud800"])
def test_a_reason_is_stored_without_what_databases_refuse(make: MakeHost, reason: str) -> None:
    host = make()
    with host.app.app_context():
        host.referral.reverse("mem_1", reason=reason)
        host.db.session.commit()


def test_a_reason_that_is_no_text_is_refused(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    reason: t.Any = None
    with host.app.app_context(), pytest.raises(ReferralError, match="is no text"):
        host.referral.reverse("mem_1", reason=reason)
