"""What was kept of deliveries that wait goes with the person, and with time."""

from __future__ import annotations

import datetime as dt
import json
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.payments.known import DELIVERY

from .. import stripe
from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS
from ..money import refer
from ..whop import CONFIG
from ..whop import outcome
from ..whop import payment


def kept(host: Host) -> set[str]:
    """Return the deliveries of which something is kept."""
    event = host.referral.models.ReferralEvent.__table__.c
    query = sa.select(event.event_id, event.user_id).where(
        event.kind == DELIVERY, event.details.is_not(None)
    )
    with host.app.app_context(), host.db.engine.connect() as connection:
        return {id for id, _ in connection.execute(query)}


def age(host: Host, id: str, **amount: float) -> None:
    """Let a delivery have come so long ago."""
    event = host.referral.models.ReferralEvent.__table__
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(**amount)
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(
            sa.update(event).where(event.c.event_id == id).values(received_at=moment)
        )


def says(host: Host, *args: str) -> t.Any:
    return json.loads(host.cli(*args, "--json").stdout)


@pytest.mark.parametrize("key", KEYS)
def test_erase_forgets_the_deliveries_of_the_users_purchases(make: MakeHost, key: str) -> None:
    """Whom the delivery was found to be of, or named; and what else belongs to the payment."""
    host = make(key=key, **CONFIG)
    user, other = host.add_user(), host.add_user()
    foreign = payment(user, "mem_2")
    foreign["company_id"] = "biz_2"
    assert outcome(host, payment(user, "mem_1"), id="own") == "not_referred"
    assert outcome(host, foreign, id="named") == "other_company"
    assert outcome(host, payment(other, "mem_3"), id="other") == "not_referred"
    assert outcome(host, payment("nobody", "mem_4"), id="nobody") == "unknown_user"
    (told,) = (row for row in says(host, "export", str(user))["events"])
    assert (told["event_id"], told["details"]["payload"]["data"]["id"]) == ("own", "pay_mem_1")
    assert says(host, "erase", str(user), "--yes")["deliveries"] == 2
    assert kept(host) == {"other", "nobody"}
    assert says(host, "export", str(user))["events"] == []
    # What came stays known, and nothing happens when it is asked for.
    assert "is not kept any more" in host.failure("events", "retry", "own")


def test_a_users_id_that_is_an_address_is_not_kept_in_the_details(make: MakeHost) -> None:
    host = make(key="str", **CONFIG)
    user = host.add_user(id="ada@example.com")
    assert outcome(host, payment(user), id="own") == "not_referred"
    event = host.referral.models.ReferralEvent.__table__.c
    with host.app.app_context(), host.db.engine.connect() as connection:
        details = connection.scalar(sa.select(event.details).where(event.event_id == "own"))
    assert "@" not in json.dumps(details)
    assert says(host, "erase", user, "--yes")["deliveries"] == 1
    assert kept(host) == set()


def test_erase_forgets_deliveries_of_memberships_that_earned(make: MakeHost) -> None:
    host = make(REFERRAL_RENEWALS=None, **CONFIG)
    user = refer(host, host.add_user())
    assert outcome(host, payment(user, "mem_1"), id="paid") == "converted"
    nobody = payment("nobody", "mem_1", id="pay_2")
    assert outcome(host, nobody, id="second") == "unknown_user"
    assert kept(host) == {"second"}
    assert host.cli("erase", str(user), "--yes").stdout.endswith(", 1 delivery forgotten.\n")
    assert kept(host) == set()


def test_erase_and_export_know_a_payment_by_each_of_its_ids(make: MakeHost) -> None:
    """The intent waits, and the invoice that it turns out to have paid earned."""
    host = make(**stripe.CONFIG)
    user = refer(host, host.add_user())
    told = stripe.session(None)
    assert stripe.outcome(host, told) == "unknown_user"
    assert stripe.outcome(host, stripe.invoice(buyer=user)) == "converted"
    assert stripe.outcome(host, stripe.invoice_payment()) == "linked"
    assert kept(host) == {told["id"]}
    events = says(host, "export", str(user))["events"]
    assert told["id"] in {each["event_id"] for each in events}
    assert says(host, "erase", str(user), "--yes")["deliveries"] == 1
    assert kept(host) == set()


def test_a_retry_on_its_way_brings_nothing_back(make: MakeHost) -> None:
    """It was read before the user was erased, and is written afterwards."""
    host = make(**CONFIG)
    user = host.add_user()
    assert outcome(host, payment(user), id="own") == "not_referred"

    @host.referral.whop_user_loader
    def find(payload: dict[str, t.Any]) -> t.Any:
        host.cli("erase", str(user), "--yes")
        return user

    event = host.referral.models.ReferralEvent.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        # Whose buyer is not known yet, so that the loader is asked.
        changed = sa.update(event).where(event.c.event_id == "own")
        connection.execute(changed.values(user_id=None, outcome="unknown_user"))
    report = says(host, "events", "retry", "own")
    assert report["outcomes"] == {"duplicate": 1}
    assert kept(host) == set()


def test_purge_forgets_what_nobody_will_mend(make: MakeHost) -> None:
    host = make(**CONFIG)
    referrer = host.add_user()
    referred, stranger = host.add_user(), host.add_user()
    waiting = {
        # By the window of 30 days nobody can have referred the buyer any more.
        "late": (payment(stranger, "mem_1"), {"days": 30, "minutes": 1}),
        "young": (payment(stranger, "mem_2"), {"days": 29, "hours": 23}),
        "bound": (payment(referred, "mem_3"), {"days": 31}),
        "unknown": (payment("nobody", "mem_4"), {"days": 179}),
        "forgotten": (payment("nobody", "mem_5"), {"days": 180, "minutes": 1}),
    }
    for id, (event, amount) in waiting.items():
        outcome(host, event, id=id)
        age(host, id, **amount)
    click = host.referral.models.ReferralClick
    with host.app.app_context():
        code = host.referral.get_or_create_code(referrer).code
        values = {"referral_code": code, "referrer_user_id": referrer}
        host.db.session.add(click(referred_user_id=referred, **values))
        host.db.session.commit()
    report = says(host, "purge", "--clicks-older-than", "9999", "--yes")
    assert report == {"cleared": 0, "deleted": 0, "deliveries": 2}
    assert kept(host) == {"young", "bound", "unknown"}
    age(host, "bound", days=181)
    age(host, "unknown", days=181)
    text = host.cli("purge", "--clicks-older-than", "9999", "--yes").stdout
    assert text == "Cleared 0 clicks, forgot 2 deliveries.\n"
    assert kept(host) == {"young"}


def test_purge_forgets_in_batches(make: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make(**CONFIG)
    for number in range(5):
        id = f"evt_{number}"
        outcome(host, payment("nobody", f"mem_{number}"), id=id)
        age(host, id, days=200)
    monkeypatch.setattr("flask_referral.upkeep.deliveries.forget_old.__kwdefaults__", {"size": 2})
    assert says(host, "purge", "--clicks-older-than", "9", "--yes")["deliveries"] == 5
    assert kept(host) == set()
