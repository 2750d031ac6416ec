"""Stripe's events are read for what they mean, and nothing in a body is another exception."""

from __future__ import annotations

import copy
import json
import typing as t

import pytest

from flask_referral import EventKind
from flask_referral import InvalidEvent
from flask_referral import WebhookEvent
from flask_referral.payments import stripe_events
from flask_referral.payments.strict_json import load_object

from .. import stripe

EVENTS = {
    "session": stripe.session(7),
    "localised": stripe.session(
        7, currency_conversion={"amount_total": 2500, "source_currency": "usd"}
    ),
    "subscribed": stripe.subscribed(7),
    "invoice": stripe.invoice(buyer=7),
    "old invoice": stripe.invoice(basil=False, buyer=7),
    "invoice payment": stripe.invoice_payment(),
    "intent": stripe.intent(metadata={"user_id": "7"}),
    "charge": stripe.charge(1500),
    "refund": stripe.refund("re_1", 1500),
    "dispute": stripe.dispute("needs_response"),
}
JUNK = [None, "", " ", "a b", "x" * 256, "\ud800", 5, -1, 10**15, 1.5, True, [], [1], {}, {"id": 5}]


def read(payload: t.Any) -> WebhookEvent:
    return stripe_events.read(load_object(json.dumps(payload).encode()))


def paths(value: t.Any, above: tuple[str, ...] = ()) -> t.Iterator[tuple[str, ...]]:
    for key, inside in value.items():
        yield (*above, key)
        if isinstance(inside, dict):
            yield from paths(inside, (*above, key))


@pytest.mark.parametrize("name", EVENTS)
def test_whatever_stands_in_a_field_is_read_or_refused(name: str) -> None:
    for path in paths(EVENTS[name]):
        for junk in JUNK:
            changed = copy.deepcopy(EVENTS[name])
            inside: t.Any = changed
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = junk
            try:
                event = read(changed)
            except InvalidEvent:
                continue
            assert isinstance(event, WebhookEvent)
            if event.kind is not EventKind.ignored:
                assert event.payment_id


def test_an_event_tells_every_id_of_its_payment() -> None:
    told = {name: read(event) for name, event in EVENTS.items()}
    assert {name: (each.payment_id, each.aliases) for name, each in told.items()} == {
        "session": ("pi_1", ("cs_1",)),
        "localised": ("pi_1", ("cs_1",)),
        "subscribed": ("in_1", ("cs_1",)),
        "invoice": ("in_1", ()),
        "old invoice": ("in_1", ("pi_1", "ch_1")),
        "invoice payment": ("in_1", ("pi_1",)),
        "intent": ("pi_1", ("ch_1",)),
        "charge": ("pi_1", ("ch_1",)),
        "refund": ("pi_1", ("ch_1",)),
        "dispute": ("pi_1", ("ch_1",)),
    }


@pytest.mark.parametrize("name", ["subscribed", "invoice", "old invoice"])
def test_a_subscription_is_the_membership(name: str) -> None:
    event = read(EVENTS[name])
    assert (event.membership_id, event.user) == ("sub_1", "7")


def test_an_expanded_object_is_its_id() -> None:
    expanded = stripe.session(7, payment_intent={"id": "pi_9"}, invoice={"id": "in_9"})
    event = read(expanded)
    assert (event.payment_id, event.aliases) == ("in_9", ("pi_9", "cs_1"))


def test_payments_that_an_invoice_tells_are_ids_of_it() -> None:
    paid = {"payment": {"type": "payment_intent", "payment_intent": "pi_9"}}
    event = read(stripe.invoice(payments={"object": "list", "data": [paid, None, 5]}))
    assert (event.payment_id, event.aliases) == ("in_1", ("pi_9",))


def test_the_buyer_may_stand_in_the_lines_of_an_old_invoice() -> None:
    lines = {"object": "list", "data": [{"id": "il_1", "metadata": {"user_id": "8"}}]}
    assert read(stripe.invoice(basil=False, lines=lines)).user == "8"


@pytest.mark.parametrize("reference", ["order-7", "cs_1", None, 5])
def test_only_an_invoice_is_an_intents_invoice(reference: t.Any) -> None:
    event = read(stripe.intent(payment_details={"order_reference": reference}))
    assert (event.kind, event.payment_id) == (EventKind.ignored, "pi_1")
