"""The review queue: what will happen is shown, happens once, and is kept with who and why."""

from __future__ import annotations

import re
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import signals

from ..hosts import Host
from ..money import pay
from ..money import refer
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
