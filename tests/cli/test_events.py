"""``flask referral events``: what waits, why, and once more."""

from __future__ import annotations

import json
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import WebhookEvent
from flask_referral.payments.handling import MENDABLE
from flask_referral.payments.retries import WHY

from ..conftest import MakeHost
from ..hosts import Host
from ..money import amounts
from ..money import balance
from ..money import refer
from ..visiting import make_code
from ..whop import CONFIG
from ..whop import outcome
from ..whop import payment


def says(host: Host, *args: str, status: int = 0) -> t.Any:
    """Run a command with ``--json`` and return what it reports."""
    return json.loads(host.cli("events", *args, "--json", status=status).stdout)


def refused(host: Host, *args: str) -> str:
    """Run a command that has to fail with one line, and return it."""
    result = host.cli("events", *args, status=1)
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    return result.stderr


@pytest.fixture
def host(make: MakeHost) -> Host:
    """A host that has heard of an unknown buyer, of another company, and of a stranger."""
    host = make(**CONFIG)
    foreign = payment("nobody", "mem_2")
    foreign["company_id"] = "biz_2"
    assert outcome(host, payment("nobody", "mem_1"), id="evt_1") == "unknown_user"
    assert outcome(host, foreign, id="evt_2") == "other_company"
    assert outcome(host, payment(host.add_user(), "mem_3"), id="evt_3") == "not_referred"
    assert outcome(host, payment(1, "mem_4", total=0.0), id="evt_4") == "no_money"
    return host


def refer_stranger(host: Host) -> t.Any:
    """Let an operator say who had brought the stranger, and return that."""
    referrer = host.add_user()
    host.cli("reattribute", "1", make_code(host, referrer), "--yes")
    return referrer


def test_what_waits_is_listed(host: Host) -> None:
    rows = says(host, "list")
    assert [(row["event"], row["outcome"]) for row in rows] == [
        ("evt_1", "unknown_user"),
        ("evt_2", "other_company"),
        ("evt_3", "not_referred"),
    ]
    assert (rows[0]["payment"], rows[0]["membership"]) == ("pay_mem_1", "mem_1")
    assert (rows[0]["amount_cents"], rows[2]["user"]) == (3000, 1)
    lines = host.cli("events", "list").stdout.splitlines()
    assert [line.split("  ")[2:] for line in lines[:2]] == [
        ["evt_1", "purchase", "unknown_user", "pay_mem_1"],
        ["evt_2", "purchase", "other_company", "pay_mem_2"],
    ]
    assert lines[3].startswith(
        "3 deliveries: 1 not_referred, 1 other_company, 1 unknown_user. See why with flask referral"
    )


def test_the_list_can_be_narrowed(host: Host) -> None:
    assert [row["event"] for row in says(host, "list", "--outcome", "other_company")] == ["evt_2"]
    assert says(host, "list", "--provider", "stripe") == []
    assert host.cli("events", "list", "--provider", "stripe").stdout == "No delivery waits.\n"
    assert "unknown_user" in host.failure("events", "list", "--outcome", "converted", status=2)


def test_a_long_list_is_read_in_pages(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_referral.payments.retries.waiting.__kwdefaults__", {"size": 2})
    for number in range(5, 10):
        outcome(host, payment("nobody", f"mem_{number}"), id=f"evt_{number}")
    with host.statements() as seen:
        rows = says(host, "list")
    assert [row["event"] for row in rows] == [
        f"evt_{number}" for number in (1, 2, 3, *range(5, 10))
    ]
    assert len([sql for sql in seen if "LIMIT" in sql]) == 5


@pytest.mark.parametrize(
    ("id", "why"),
    [
        ("evt_1", "The buyer was not found among the users."),
        ("evt_2", "REFERRAL_WHOP_COMPANY_ID"),
        ("evt_3", "Nobody had referred the buyer."),
    ],
)
def test_a_delivery_is_shown_with_what_was_kept_and_why(host: Host, id: str, why: str) -> None:
    text = host.cli("events", "show", id).stdout
    assert why in text
    assert f"event         {id}" in text
    data = says(host, "show", id)
    assert data["waits"] is True
    assert data["kept"]["payload"]["data"]["user"] == {"id": "user_1"}


def test_a_delivery_that_was_dealt_with_is_shown_too(host: Host) -> None:
    data = says(host, "show", "evt_4")
    assert (data["outcome"], data["waits"], data["kept"]) == ("no_money", False, {})
    assert host.cli("events", "show", "evt_4").stdout.endswith("outcome       no_money\n")


def test_each_outcome_that_can_be_mended_says_how() -> None:
    assert WHY.keys() == set(MENDABLE)


def test_what_is_not_there_cannot_be_shown_or_retried(host: Host) -> None:
    for command in ("show", "retry"):
        assert "No delivery 'evt_9' has come." in refused(host, command, "evt_9")
        of_stripe = refused(host, command, "evt_1", "--provider", "stripe")
        assert "No delivery 'evt_1' of 'stripe' has come." in of_stripe
    dealt_with = refused(host, "retry", "evt_1", "evt_4")
    assert "Delivery 'evt_4' ended in no_money and does not wait." in dealt_with


def test_equal_ids_of_two_providers_are_told_apart(host: Host) -> None:
    host.referral.webhook("shop")(
        lambda body, headers: WebhookEvent(id="evt_1", kind="purchase", payment_id="p")
    )
    assert host.client().post("/api/referral/webhooks/shop").status_code == 200
    assert "say which with --provider" in refused(host, "show", "evt_1")
    assert says(host, "show", "evt_1", "--provider", "shop")["payment"] == "p"
    report = says(host, "retry", "evt_1", "--provider", "shop")
    assert report["outcomes"] == {"unknown_user": 1}


def test_all_that_may_end_differently_is_retried(host: Host) -> None:
    """A buyer who is still referred by nobody is not asked about again and again."""
    report = says(host, "retry", "--all", "--yes")
    assert report == {
        "outcomes": {"unknown_user": 1, "other_company": 1},
        "failed": [],
        "waiting": {"not_referred": 1, "other_company": 1, "unknown_user": 1},
    }
    referrer = refer_stranger(host)
    referred = refer(host, referrer)
    host.referral.whop_user_loader(lambda payload: referred)
    result = host.cli("events", "retry", "--all", "--yes")
    assert result.stdout == (
        "Handled 3 deliveries once more: 2 converted, 1 other_company. "
        "Still waiting: 1 other_company.\n"
    )
    assert "Retrying" in result.stderr
    assert amounts(host, referrer) == [1000, 1000]
    report = says(host, "retry", "--all", "--yes")
    assert report["outcomes"] == {"other_company": 1}
    assert balance(host, referrer) == 2000


def test_those_that_are_named_are_retried(host: Host) -> None:
    referrer = refer_stranger(host)
    # Without asking: they were named.
    assert says(host, "retry", "evt_3", "evt_3", "evt_1")["outcomes"] == {
        "converted": 1,
        "unknown_user": 1,
    }
    assert balance(host, referrer) == 1000
    assert "does not wait. It was dealt with." in refused(host, "retry", "evt_3")


def test_those_of_one_outcome_are_retried(host: Host) -> None:
    referrer = refer_stranger(host)
    report = says(host, "retry", "--all", "--outcome", "not_referred", "--yes")
    assert report["outcomes"] == {"converted": 1}
    assert balance(host, referrer) == 1000


def test_all_are_asked_about_first(host: Host) -> None:
    referrer = refer_stranger(host)
    result = host.cli("events", "retry", "--all", status=1, input="n\n")
    assert "Handle 3 deliveries once more? What they earn is credited." in result.stderr
    assert "--yes" in host.failure("events", "retry", "--all")
    assert amounts(host, referrer) == []
    host.cli("events", "retry", "--all", input="y\n")
    assert balance(host, referrer) == 1000


@pytest.mark.parametrize(
    "args", [(), ("evt_1", "--all"), ("evt_1", "--outcome", "unknown_user")], ids=" ".join
)
def test_deliveries_are_named_or_all_are_meant(host: Host, args: tuple[str, ...]) -> None:
    assert "Usage:" in host.failure("events", "retry", *args, status=2)


def test_where_nothing_waits_nothing_is_asked(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**CONFIG)
    told = host.cli("events", "retry", "--all").stdout
    assert told == "Nothing waits that may end differently now.\n"


def test_one_that_fails_does_not_keep_the_others_from_it(host: Host) -> None:
    referrer = refer_stranger(host)

    @host.referral.whop_user_loader
    def find(payload: dict[str, t.Any]) -> t.Any:
        return payload["data"]["user"]["email"]

    result = host.cli("events", "retry", "--all", "--yes", "--json", status=1)
    report = json.loads(result.stdout)
    assert report["outcomes"] == {"failed": 1, "other_company": 1, "converted": 1}
    assert report["failed"] == [
        "evt_1 of whop: KeyError: 'email'. A user loader gets what was kept here, ids and "
        "metadata; let it read all else with .get()."
    ]
    assert "1 delivery could not be handled and will wait for the next retry" in result.stderr
    assert balance(host, referrer) == 1000
    assert [row["event"] for row in says(host, "list")] == ["evt_1", "evt_2"]


def test_an_interrupted_retry_keeps_what_it_did(host: Host) -> None:
    referrer = refer_stranger(host)
    outcome(host, payment("nobody", "mem_5"), id="evt_5")

    @host.referral.whop_user_loader
    def find(payload: dict[str, t.Any]) -> t.Any:
        if payload["data"]["id"] == "pay_mem_5":
            raise KeyboardInterrupt
        return None

    message = host.failure("events", "retry", "--all", "--yes")
    assert "Interrupted; handled 3 deliveries so far, which stays." in message
    assert balance(host, referrer) == 1000
    event = host.referral.models.ReferralEvent.__table__
    with host.app.app_context(), host.db.engine.connect() as connection:
        query = sa.select(event.c.outcome).where(event.c.event_id == "evt_5")
        assert connection.scalar(query) == "unknown_user"
