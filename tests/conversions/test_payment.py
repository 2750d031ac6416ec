"""What is told of a payment is checked, or cleaned, before the database is asked anything."""

from __future__ import annotations

import decimal
import enum
import itertools
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.errors import ReferralError

from ..conftest import MakeHost
from ..money import refer

NO_IDS: list[t.Any] = ["", "x" * 256, "a\0b", "a\nb", 7, "\ud800"]


def test_an_id_that_cannot_be_is_refused_before_any_statement(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    with host.app.app_context(), host.statements() as seen:
        for id in (*NO_IDS, None):
            with pytest.raises(ReferralError, match="membership id"):
                host.referral.convert(1, id)
            with pytest.raises(ReferralError, match="membership id"):
                host.referral.reverse(id, reason="refund", refund_id="r")
        for id, name in itertools.product(NO_IDS, ("payment_id", "provider", "refund_id")):
            if name != "refund_id":
                with pytest.raises(ReferralError, match="1 to 255 printable"):
                    host.referral.convert(1, "mem_1", **{name: id})
            with pytest.raises(ReferralError, match="1 to 255 printable"):
                host.referral.reverse("mem_1", reason="refund", **{name: id})
    assert seen == []


def test_an_amount_that_cannot_be_is_refused_before_any_statement(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    no_cents: list[t.Any] = [-1, 2**31, 1.5, True, "10"]
    no_currencies: list[t.Any] = ["", "us", "dollar", 7, "u$d", b"usd"]
    with host.app.app_context(), host.statements() as seen:
        for cents in (-1, 2**63, 1.5, True, "10"):
            with pytest.raises(ReferralError, match="whole number of cents from 0 to"):
                host.referral.convert(1, "mem_1", paid_cents=cents)  # type: ignore[arg-type]
        for cents in (*no_cents, 0):
            with pytest.raises(ReferralError, match="whole number of cents from 1 to"):
                host.referral.reverse("mem_1", reason="refund", amount_cents=cents)
        for currency in no_currencies:
            with pytest.raises(ReferralError, match="three letters"):
                host.referral.convert(1, "mem_1", paid_cents=1, currency=currency)
    assert seen == []


class Plan(enum.StrEnum):
    gold = "gold"


TOLD_AND_STORED: t.Any = [
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
]


def test_what_a_buyer_wrote_is_stored_without_what_databases_refuse(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    for number, (told, stored) in enumerate(TOLD_AND_STORED):
        referred = refer(host, referrer)
        with host.app.app_context():
            result = host.referral.convert(referred, f"mem_{number}", metadata=told)
            host.db.session.commit()
            assert result.conversion is not None
            assert result.conversion.metadata_ == stored, told


def nested(depth: int) -> t.Any:
    return {"a": nested(depth - 1)} if depth else 1


LOOP: dict[str, t.Any] = {}
LOOP["self"] = LOOP


NO_METADATA: t.Any = [
    "text",
    ["list"],
    {"a": b"bytes"},
    {"a": {1: 2}},
    {"a": {1, 2}},
    {"a": object()},
    {"a": 10**5000},
    nested(40),
    LOOP,
]


def test_what_is_no_json_is_refused_and_costs_the_host_no_order(make: MakeHost) -> None:
    host = make()
    referred = refer(host, host.add_user())
    for number, metadata in enumerate(NO_METADATA):
        with host.app.app_context():
            host.db.session.add(host.User(name=f"order {number}"))
            with host.statements() as seen, pytest.raises(ReferralError, match="metadata"):
                host.referral.convert(referred, "mem_1", metadata=metadata)
            assert seen == []
            host.db.session.commit()
    with host.app.app_context():
        orders = sa.select(sa.func.count()).where(host.User.name.startswith("order"))
        assert host.db.session.scalar(orders) == len(NO_METADATA)


def test_a_reason_is_stored_without_what_databases_refuse(make: MakeHost) -> None:
    host = make()
    with host.app.app_context():
        host.referral.reverse("mem_1", reason="a\0b\ud800c")
        host.db.session.commit()
        event = host.referral.models.ReferralEvent
        query = sa.select(event.outcome).where(event.kind == "refund")
        assert host.db.session.scalar(query) == "abc"


def test_a_reason_that_is_no_text_is_refused(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    reason: t.Any = None
    with host.app.app_context(), pytest.raises(ReferralError, match="is no text"):
        host.referral.reverse("mem_1", reason=reason)
