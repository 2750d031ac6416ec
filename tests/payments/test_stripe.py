"""``POST /api/referral/webhooks/stripe``: one payment pays once, whatever id it is told by."""

from __future__ import annotations

import itertools
import threading
import typing as t

import pytest
import sqlalchemy as sa

from ..conftest import MakeHost
from ..hosts import Host
from ..money import amounts
from ..money import balance
from ..money import PATIENCE
from ..money import pay
from ..money import refer
from ..stripe import charge
from ..stripe import CONFIG
from ..stripe import deliver
from ..stripe import dispute
from ..stripe import event
from ..stripe import intent
from ..stripe import invoice
from ..stripe import invoice_payment
from ..stripe import outcome
from ..stripe import refund
from ..stripe import SECRET
from ..stripe import session
from ..stripe import subscribed
from ..stripe import URL

#: Without a limit, so that a payment that was told of twice would be paid twice.
ALL = CONFIG | {"REFERRAL_RENEWALS": None}

Events = t.Callable[[t.Any, str], list[dict[str, t.Any]]]


@pytest.mark.parametrize("key", ["int", "uuid", "str"])
def test_a_paid_checkout_pays_once(make: MakeHost, key: str) -> None:
    host = make(key=key, **CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    first = session(referred)
    assert outcome(host, first) == "converted"
    assert outcome(host, first) == "duplicate"
    assert outcome(host, session(referred)) == "already_converted"
    assert amounts(host, referrer) == [1000]
    with host.app.app_context():
        conversion = host.db.session.scalars(
            sa.select(host.referral.models.ReferralConversion)
        ).one()
        assert conversion.metadata_ == {"payment_id": "pi_1", "paid_cents": 3000, "currency": "usd"}


def test_a_checkout_pays_when_its_money_is_there(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    waiting = session(refer(host, referrer), payment_status="unpaid")
    assert outcome(host, waiting) == "not_paid"
    assert amounts(host, referrer) == []
    arrived = waiting["data"]["object"] | {"payment_status": "paid"}
    assert outcome(host, event("checkout.session.async_payment_succeeded", arrived)) == "converted"
    assert amounts(host, referrer) == [1000]


def test_a_trial_pays_nothing_and_the_invoice_after_it_does(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    free = {"payment_status": "no_payment_required", "amount_total": 0}
    assert outcome(host, subscribed(referred, **free)) == "no_money"
    assert outcome(host, invoice(buyer=referred, amount_paid=0)) == "no_money"
    assert outcome(host, invoice("2", buyer=referred)) == "converted"
    assert amounts(host, referrer) == [1000]


def of_basil(referred: t.Any, key: str) -> list[dict[str, t.Any]]:
    return [
        subscribed(referred, key, subscription=f"sub_{key}"),
        invoice(key, buyer=referred, subscription=f"sub_{key}"),
        invoice_payment(key),
        charge(1500, key),
    ]


def of_basil_without_metadata(referred: t.Any, key: str) -> list[dict[str, t.Any]]:
    of_invoice = {"payment_details": {"order_reference": f"in_{key}"}}
    return [
        subscribed(referred, key, subscription=f"sub_{key}"),
        invoice(key, subscription=f"sub_{key}"),
        intent(key, **of_invoice),
        refund(f"re_{key}", 1500, key),
    ]


def of_before(referred: t.Any, key: str) -> list[dict[str, t.Any]]:
    return [
        subscribed(referred, key, subscription=f"sub_{key}"),
        invoice(key, basil=False, buyer=referred, subscription=f"sub_{key}"),
        charge(1500, key, invoice=f"in_{key}"),
    ]


def of_a_receipt(referred: t.Any, key: str) -> list[dict[str, t.Any]]:
    """A single sale whose invoice is made afterwards, and is linked to it last."""
    owner = {"user_id": str(referred)}
    return [
        session(referred, key),
        invoice(key, parent=None, metadata=owner, billing_reason="manual"),
        invoice_payment(key),
        charge(1500, key),
    ]


def of_elements(referred: t.Any, key: str) -> list[dict[str, t.Any]]:
    owner = {"user_id": str(referred)}
    return [
        intent(key, metadata=owner),
        session(referred, key, metadata=owner),
        refund(f"re_{key}", 1500, key),
        charge(1500, key),
    ]


@pytest.mark.parametrize(
    "events", [of_basil, of_basil_without_metadata, of_before, of_a_receipt, of_elements]
)
def test_every_order_of_arrival_ends_in_one_payment_half_refunded(
    make: MakeHost, events: Events
) -> None:
    host = make(**ALL)
    for number in itertools.count():
        referrer = host.add_user()
        all_of_one = events(refer(host, referrer), f"{number}x")
        orders = list(itertools.permutations(range(len(all_of_one))))
        for place in orders[number]:
            assert deliver(host, all_of_one[place]).status_code == 200
        assert balance(host, referrer) == 500, orders[number]
        if number + 1 == len(orders):
            break


def test_renewals_are_payments_of_their_own(make: MakeHost) -> None:
    host = make(**CONFIG | {"REFERRAL_RENEWALS": 1})
    referrer = host.add_user()
    referred = refer(host, referrer)
    assert outcome(host, subscribed(referred)) == "converted"
    assert outcome(host, invoice()) == "already_converted"
    # It names nobody: the subscription's buyer is known.
    assert outcome(host, invoice("2")) == "renewed"
    assert outcome(host, invoice("3")) == "already_converted"
    assert amounts(host, referrer) == [1000, 1000]
    assert outcome(host, invoice_payment("2")) == "linked"
    assert outcome(host, charge(3000, "2")) == "reversed"
    assert amounts(host, referrer) == [1000, 1000, -1000]


def test_a_payment_that_was_paid_under_two_ids_is_taken_back_once(make: MakeHost) -> None:
    host = make(**ALL)
    referrer = host.add_user()
    referred = refer(host, referrer)
    sale, receipt, link, refunded = of_a_receipt(referred, "1")
    assert [outcome(host, each) for each in (sale, receipt)] == ["converted", "renewed"]
    assert outcome(host, link) == "linked"
    assert amounts(host, referrer) == [1000, 1000, -1000]
    assert outcome(host, invoice_payment()) == "linked"
    assert outcome(host, refunded) == "reversed"
    assert amounts(host, referrer) == [1000, 1000, -1000, -500]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_sums_and_single_refunds_count_once(make_sqlite: MakeHost, order: tuple[int, ...]) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    outcome(host, session(refer(host, referrer)))
    events = [
        refund("re_1", 1000, hour=1),
        charge(1000, hour=1),
        refund("re_2", 500, hour=2),
        charge(1500, hour=2),
    ]
    for place in order:
        outcome(host, events[place])
    assert balance(host, referrer) == 500


@pytest.mark.parametrize("told", [(0,), (1,), (0, 1)])
def test_a_refund_that_fails_is_given_back(make: MakeHost, told: tuple[int, ...]) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    outcome(host, session(refer(host, referrer)))
    events = [refund("re_1", 3000, hour=1), charge(3000, hour=1)]
    for place in told:
        outcome(host, events[place])
    assert balance(host, referrer) == 0
    failed = refund("re_1", 3000, type="refund.failed", status="failed", hour=2)
    outcome(host, failed)
    assert balance(host, referrer) == 1000
    # The next sum knows that the first did not go through.
    outcome(host, charge(1500, hour=3))
    assert balance(host, referrer) == 500


@pytest.mark.parametrize("sums", [(750, 1500), (1500, 750)])
def test_two_refunds_of_one_second_are_two(make: MakeHost, sums: tuple[int, int]) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    outcome(host, session(refer(host, referrer)))
    for refunded in sums:
        outcome(host, charge(refunded))
    assert balance(host, referrer) == 500


@pytest.mark.parametrize("status", ["pending", "requires_action", None, "new"])
def test_a_refund_on_its_way_takes_nothing(make_sqlite: MakeHost, status: str | None) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    outcome(host, session(refer(host, referrer)))
    assert outcome(host, refund("re_1", 3000, status=status)) == "not_refunded"
    assert amounts(host, referrer) == [1000]


def test_a_dispute_takes_everything_until_it_is_won(make: MakeHost) -> None:
    host = make(**CONFIG)
    for number, order in enumerate(itertools.permutations(range(3))):
        key = f"{number}x"
        referrer = host.add_user()
        outcome(host, session(refer(host, referrer), key))
        events = [
            dispute("needs_response", key, type="charge.dispute.created"),
            dispute("under_review", key, hour=1),
            dispute("won", key, hour=2, type="charge.dispute.closed"),
        ]
        for place in order:
            outcome(host, events[place])
        assert balance(host, referrer) == 1000, order
        outcome(host, dispute("lost", key, hour=3))
        assert balance(host, referrer) == 0


def test_an_inquiry_moves_no_money(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    outcome(host, session(refer(host, referrer)))
    for status in ("warning_needs_response", "warning_under_review", "warning_closed"):
        assert outcome(host, dispute(status)) == "inquiry"
    assert outcome(host, dispute("something_new")) == "unknown_status"
    assert amounts(host, referrer) == [1000]


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        # Blocked: nothing moved, or a refund tells of it.
        ({"payment_method_details": {"card": {"case_type": "block"}}}, 1000),
        ({"payment_method_details": None, "balance_transactions": None}, 1000),
        # Resolved, which refunds the customer.
        ({"payment_method_details": {"card": {"case_type": "resolution"}}}, 0),
        ({"balance_transactions": [{"id": "txn_1", "amount": -3000}]}, 0),
    ],
)
def test_a_prevented_dispute_takes_what_it_gave_back(
    make_sqlite: MakeHost, fields: dict[str, t.Any], left: int
) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    outcome(host, session(refer(host, referrer)))
    outcome(host, dispute("needs_response"))
    outcome(host, dispute("prevented", hour=1, **fields))
    assert balance(host, referrer) == left


def test_metadata_goes_before_the_reference_of_the_checkout(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    for number, fields in enumerate(
        (
            {"client_reference_id": "cart-7"},
            {"client_reference_id": None},
            {"client_reference_id": "cart-7", "metadata": {"user_id": str(referred)}},
        )
    ):
        told = outcome(host, session(None, f"{number}", **fields))
        assert told == ("converted" if "metadata" in fields else "unknown_user")
    assert amounts(host, referrer) == [1000]


def test_a_host_may_find_the_buyer(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    asked: list[str] = []

    @host.referral.stripe_user_loader
    def find_buyer(payload: dict[str, t.Any]) -> t.Any:
        asked.append(payload["type"])
        return referred if payload["data"]["object"]["customer"] == "cus_1" else None

    assert outcome(host, invoice(customer="cus_2")) == "unknown_user"
    # It is not asked whose an intent is: the invoice is the purchase.
    assert outcome(host, intent("2")) == "linked"
    assert outcome(host, intent("3", metadata={"user_id": str(referrer)})) == "not_referred"
    assert outcome(host, invoice("2")) == "converted"
    outcome(host, charge(3000, "2"))
    assert asked == ["invoice.paid", "invoice.paid"]


def test_host_and_webhook_are_one_where_the_host_names_stripes_payment(make: MakeHost) -> None:
    host = make(**ALL)
    cases = itertools.product(("pi", "in", "cs"), (True, False))
    for number, (told, is_host_first) in enumerate(cases):
        key = f"{number}x"
        referrer = host.add_user()
        referred = refer(host, referrer)
        both = subscribed(referred, key, payment_intent=f"pi_{key}", subscription=f"sub_{key}")
        by_host = {"payment_id": f"{told}_{key}", "provider": "stripe", "membership": f"sub_{key}"}
        if is_host_first:
            assert pay(host, referred, **by_host) == "converted"
            assert outcome(host, both) == "already_converted"
        else:
            assert outcome(host, both) == "converted"
            assert pay(host, referred, **by_host) == "already_converted"
        with host.app.app_context():
            host.referral.reverse(
                "sub_1", reason="x", provider="stripe", payment_id=f"pi_{key}", refund_id="re"
            )
            host.db.session.commit()
        assert amounts(host, referrer) == [1000, -1000]


def test_threads_pay_a_checkout_and_its_invoice_once(make: MakeHost) -> None:
    host = make(**ALL)
    referrer = host.add_user()
    referred = refer(host, referrer)
    events = [each(referred, "1") for each in (of_basil, of_before, of_basil)]
    barrier = threading.Barrier(len(events) * 2)
    failed: list[t.Any] = []

    def work(each: dict[str, t.Any]) -> None:
        barrier.wait(PATIENCE)
        for _ in range(50):
            answer = deliver(host, each)
            if answer.status_code == 200:
                return
        failed.append(answer.text)

    threads = [
        threading.Thread(target=work, args=(each,), daemon=True)
        for some in events
        for each in some[:2]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert failed == []
    assert amounts(host, referrer) == [1000]


def test_without_a_secret_there_is_no_webhook(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    assert deliver(host, session(1)).status_code == 404


def test_what_is_not_signed_by_one_of_the_secrets_is_refused(make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_STRIPE_WEBHOOK_SECRET=[SECRET, "whsec_other"])
    referrer = host.add_user()
    paid = session(refer(host, referrer))
    assert deliver(host, paid, secret="whsec_foreign").status_code == 401
    assert deliver(host, paid, moment=1).status_code == 401
    assert host.client().post(URL, json=paid).status_code == 401
    assert amounts(host, referrer) == []
    assert outcome(host, paid, secret="whsec_other") == "converted"


def test_what_is_not_stripes_is_refused(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    for payload in (b"", b"[]", b"{}", {"id": "evt_1"}, {"id": 1, "type": "invoice.paid"}):
        answer = deliver(host, payload)
        assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_event"), payload


def test_what_we_have_no_use_for_is_taken(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    assert outcome(host, event("customer.created", {"id": "cus_1"})) == "unknown_type"
    assert outcome(host, {"id": "evt_x", "type": "invoice.paid"}) == "no_data"
    nameless = refund("re_1", 1, charge=None, payment_intent=None)
    assert outcome(host, nameless) == "no_payment"
    assert outcome(host, charge(0)) == "no_money"


def total_of(host: Host) -> int:
    with host.app.app_context():
        reward = host.referral.models.ReferralReward
        return int(host.db.session.scalar(sa.select(sa.func.count()).select_from(reward)) or 0)


@pytest.mark.parametrize(
    ("currency", "amount", "units"),
    [
        *(("jpy", 3000, "3000"), ("krw", 500, "500"), ("usd", 3000, "30.00")),
        *(("kwd", 5120, "5.120"), ("huf", 1000, "10.00"), ("twd", 1000, "10.00")),
        # Stripe keeps two decimals for these, always 00, and none for the ariary.
        *(("isk", 500, "5"), ("ugx", 500, "5"), ("mga", 5, "5.00")),
    ],
)
def test_amounts_are_read_as_stripe_writes_them(
    make_sqlite: MakeHost, currency: str, amount: int, units: str
) -> None:
    seen: list[tuple[str, str]] = []

    def policy(purchase: t.Any) -> int:
        seen.append((purchase.currency, str(purchase.paid_amount)))
        return 1000

    host = make_sqlite(reward_policy=policy, **CONFIG)
    referrer = host.add_user()
    outcome(host, session(refer(host, referrer), amount_total=amount, currency=currency))
    assert seen == [(currency, units)]
    outcome(host, refund("re_1", amount, currency=currency))
    assert balance(host, referrer) == 0
    assert total_of(host) == 1


def test_a_localised_checkout_counts_as_what_stripe_converted(make_sqlite: MakeHost) -> None:
    seen: list[t.Any] = []
    host = make_sqlite(reward_policy=lambda purchase: seen.append(purchase.paid_cents), **CONFIG)
    referred = refer(host, host.add_user())
    conversion = {"amount_total": 2500, "source_currency": "usd", "fx_rate": "0.9"}
    outcome(host, session(referred, currency="eur", currency_conversion=conversion))
    assert seen == [2500]
