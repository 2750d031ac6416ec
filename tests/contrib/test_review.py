"""The review queue: what will happen is shown, happens once, and is kept with who and why."""

from __future__ import annotations

import functools
import re
import typing as t

import pytest
import sqlalchemy as sa
from flask_wtf import CSRFProtect

from flask_referral import signals

from ..hosts import Host
from ..money import at_once
from ..money import pay
from ..money import refer
from ..money import withdraw
from .conftest import MakeDesk


def hold(host: Host, number: int = 1, **options: t.Any) -> t.Any:
    """Return the referrer of some purchases, all but the first of which wait for a reviewer."""
    referrer = host.add_user(name="referrer")
    for each in range(number + 1):
        pay(host, refer(host, referrer), f"mem_{each}", **options)
    return referrer


def rewards(host: Host) -> list[t.Any]:
    table = host.referral.models.ReferralReward.__table__
    with host.app.app_context(), host.db.engine.connect() as db:
        return list(db.execute(sa.select(table).order_by(table.c.membership_id)))


def ledger(host: Host) -> list[int]:
    with host.app.app_context():
        return [row.amount_cents for row in host.db.session.scalars(sa.select(host.Wallet))]


def history(host: Host) -> list[t.Any]:
    table = host.referral.models.ReferralEvent.__table__
    with host.app.app_context(), host.db.engine.connect() as db:
        return list(db.execute(sa.select(table).where(table.c.kind == "operator")))


def address(reward: t.Any, act: str = "") -> str:
    return f"/admin/referral_rewards/{reward.id}{f'/{act}' if act else ''}"


def form_of(page: str) -> dict[str, str]:
    """Return the hidden fields of the form that does it."""
    form = page.split('<form method="post">')[1]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))


def send(host: Host, reward: t.Any, act: str, query: str = "", **values: str) -> t.Any:
    client = host.client()
    page = client.get(address(reward, act) + query)
    assert page.status_code == 200, page.text
    return client.post(address(reward, act), data={**form_of(page.text), **values})


@pytest.fixture
def host(make_desk: MakeDesk) -> Host:
    return make_desk(REFERRAL_VELOCITY_LIMIT=1)


def test_held_rewards_are_found_and_released_once(host: Host) -> None:
    hold(host)
    _, held = rewards(host)
    assert held.status == "held"
    client = host.client()
    page = client.get("/admin/referral_rewards/?status=held").text
    assert str(held.id) in page and page.count("<tr>") == 2
    shown = client.get(address(held, "release")).text
    assert "+$10.00" in shown and "$10.00 → $20.00" in shown
    form = form_of(shown) | {"reason": "a known customer"}
    done = client.post(address(held, "release"), data=form)
    assert done.status_code == 303 and ledger(host) == [1000, 1000]
    detail = client.get(done.headers["Location"]).text
    # One hold, this reward's own; and nothing of how the payment is remembered.
    assert detail.count("over REFERRAL_VELOCITY_LIMIT") == 1 and "rewarded:" not in detail
    assert "Released." in detail and "a known customer" in detail and "ada@example.com" in detail
    again = client.post(address(held, "release"), data=form)
    assert again.status_code == 422 and "is credited, not held" in again.text
    assert ledger(host) == [1000, 1000]
    (kept,) = history(host)
    assert (kept.type, kept.outcome) == ("release", "a known customer")
    assert kept.details["by"] == "ada@example.com"
    assert kept.details["before"]["status"] == "held"
    assert kept.details["after"]["status"] == "credited"


@pytest.mark.parametrize("act", ["release", "void", "take-back"])
def test_what_is_shown_first_stores_nothing_and_tells_nobody(host: Host, act: str) -> None:
    hold(host)
    before = rewards(host), ledger(host), history(host)
    told: list[t.Any] = []

    def receive(sender: t.Any, **values: t.Any) -> None:
        told.append(values)

    heard = (
        signals.conversion_credited,
        signals.conversion_released,
        signals.conversion_voided,
        signals.conversion_reversed,
    )
    for signal in heard:
        signal.connect(receive)
    try:
        page = host.client().get(address(rewards(host)[1], act))
    finally:
        for signal in heard:
            signal.disconnect(receive)
    assert page.status_code == 200 and "What will happen" in page.text
    assert (rewards(host), ledger(host), history(host)) == before and told == []


def test_a_refusal_is_a_sentence_on_the_page(host: Host) -> None:
    hold(host)
    credited, held = rewards(host)
    refused = host.client().get(address(credited, "release"))
    assert refused.status_code == 422 and "is credited, not held" in refused.text
    for reason in ("", "  ", "x" * 501):
        page = send(host, held, "release", reason=reason)
        assert page.status_code == 422 and "Say why, for the record" in page.text
    assert ledger(host) == [1000] and history(host) == []


def test_a_reward_is_given_up_once(host: Host) -> None:
    hold(host)
    held = rewards(host)[1]
    client = host.client()
    form = form_of(client.get(address(held, "void")).text) | {"reason": "his own cards"}
    assert [client.post(address(held, "void"), data=form).status_code for _ in range(2)] == [
        303,
        422,
    ]
    assert rewards(host)[1].status == "void" and ledger(host) == [1000]
    assert [row.type for row in history(host)] == ["void"]


def test_forms_that_are_sent_at_once_do_it_once(make_desk: MakeDesk) -> None:
    host = make_desk(REFERRAL_VELOCITY_LIMIT=1)
    hold(host)
    credited, held = rewards(host)
    client = host.client()
    sent = []
    for reward, act in ((held, "release"), (credited, "take-back")):
        form = form_of(client.get(address(reward, act)).text) | {"reason": "known"}
        sent += [(address(reward, act), form)] * 4
    answers: list[int] = []

    def send_one(path: str, form: dict[str, str]) -> None:
        answers.append(host.client().post(path, data=form).status_code)

    at_once([functools.partial(send_one, *each) for each in sent])
    assert sorted(ledger(host)) == [-1000, 1000, 1000]
    assert sorted(row.type for row in history(host)) == ["release", "reverse"]
    assert set(answers) == {303, 422}


def test_a_part_is_taken_back_once_and_another_part_after_it(host: Host) -> None:
    hold(host)
    credited = rewards(host)[0]
    client = host.client()
    shown = client.get(address(credited, "take-back") + "?amount_cents=300").text
    assert "-$3.00" in shown and "$10.00 → $7.00" in shown
    form = form_of(shown) | {"reason": "a part refunded"}
    assert form["amount_cents"] == "300"
    first, second = (client.post(address(credited, "take-back"), data=form) for _ in range(2))
    assert "Taken back." in client.get(first.headers["Location"]).text
    assert "done before" in client.get(second.headers["Location"]).text
    assert ledger(host) == [1000, -300]
    # Another form is another refund.
    other = send(host, credited, "take-back", "?amount_cents=300", reason="one more")
    assert other.status_code == 303 and ledger(host) == [1000, -300, -300]
    assert [row.outcome for row in history(host)] == ["a part refunded", "one more"]


@pytest.mark.parametrize("amount", ["0", "-5", "1.50", "ten", "99999999999"])
def test_no_other_amount_is_taken_back(host: Host, amount: str) -> None:
    hold(host)
    page = host.client().get(f"{address(rewards(host)[0], 'take-back')}?amount_cents={amount}")
    assert page.status_code == 422 and "a whole number of cents" in page.text
    assert ledger(host) == [1000]


def test_what_is_missing_in_the_wallet_is_shown_first(make_desk: MakeDesk) -> None:
    host = make_desk(positive_wallet=True)
    referrer = hold(host)
    withdraw(host, referrer, 1500)
    credited = rewards(host)[0]
    shown = host.client().get(address(credited, "take-back")).text
    assert "$5.00 → $0.00" in shown and "$5.00 is not in the wallet" in shown
    assert send(host, credited, "take-back", reason="refunded").status_code == 303
    assert rewards(host)[0].shortfall_cents == 500


def test_without_a_wallet_it_is_recorded_only(make_desk: MakeDesk) -> None:
    host = make_desk(wallet=False, REFERRAL_VELOCITY_LIMIT=1)
    hold(host)
    assert (
        "The application has none" in host.client().get(address(rewards(host)[1], "release")).text
    )
    assert send(host, rewards(host)[1], "release", reason="known").status_code == 303
    assert rewards(host)[1].status == "credited"


def test_what_other_sites_send_is_refused(host: Host) -> None:
    hold(host)
    held = rewards(host)[1]
    client = host.client()
    form = form_of(client.get(address(held, "release")).text) | {"reason": "known"}
    for path, values in {
        address(held, "release"): form,
        "/admin/referral_disabled/disable": {"user": str(held.user_id), "reason": "known"},
        "/admin/referral_overview/": {},
    }.items():
        sent = client.post(path, data=values, headers={"Sec-Fetch-Site": "cross-site"})
        assert sent.status_code == 403
    assert ledger(host) == [1000] and history(host) == []


def test_forms_carry_the_token_of_the_host(host: Host) -> None:
    CSRFProtect(host.app)
    hold(host)
    held = rewards(host)[1]
    assert host.client().post(address(held, "release"), data={"reason": "known"}).status_code == 400
    assert send(host, held, "release", reason="known").status_code == 303
