"""A referrer's list: whom the code brought, and what each of them earned."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from flask_referral import ReferralError
from flask_referral.errors import UnknownUser
from flask_referral.results import Purchase
from flask_referral.results import ReferralEntry
from flask_referral.results import Reward
from flask_referral.upkeep import purge

from .conftest import MakeHost
from .hosts import Host
from .hosts import KEYS
from .money import pay
from .money import refer
from .money import refund
from .visiting import Clock
from .visiting import make_code

ROUTE = "/api/referral/referrals"


def listed(host: Host, user: t.Any, **options: t.Any) -> list[ReferralEntry]:
    with host.app.app_context():
        return host.referral.referrals(user, **options)


def date(host: Host, user: t.Any, at: dt.datetime) -> None:
    """Let a user have signed up at a moment."""
    click = host.referral.models.ReferralClick.__table__
    with host.app.app_context(), host.db.engine.begin() as db:
        db.execute(sa.update(click).where(click.c.referred_user_id == user).values(bound_at=at))


def delete(host: Host, user: t.Any) -> None:
    with host.app.app_context():
        host.db.session.delete(host.db.session.get(host.User, user))
        host.db.session.commit()


@pytest.mark.parametrize("key", KEYS)
def test_each_referral_tells_how_far_it_is(make: MakeHost, key: str, clock: Clock) -> None:
    hold: dict[str, int | None] = {"days": None}
    host = make(
        key=key,
        REFERRAL_RENEWALS=None,
        reward_policy=lambda purchase: Reward(1000, hold_days=hold["days"]),
    )
    referrer = host.add_user()
    people = [refer(host, referrer) for _ in range(6)]
    for minutes, person in enumerate(people):
        date(host, person, clock.time + dt.timedelta(minutes=minutes))
    signed_up, earned, renewed, refunded, pending, cancelled = people
    pay(host, earned, "mem_earned")
    pay(host, renewed, "mem_renewed", payment_id="pay_1")
    assert pay(host, renewed, "mem_renewed", payment_id="pay_2") == "renewed"
    refund(host, "mem_renewed", payment_id="pay_2", amount_cents=300)
    pay(host, refunded, "mem_refunded")
    refund(host, "mem_refunded")
    hold["days"] = 14
    assert pay(host, pending, "mem_pending") == "pending"
    pay(host, cancelled, "mem_cancelled")
    refund(host, "mem_cancelled")

    entries = listed(host, referrer)
    assert [
        (e.state, e.reason, e.earned_cents, e.pending_cents, e.reversed_cents, e.payments)
        for e in entries
    ] == [
        ("void", "cancelled", 0, 0, 0, 0),
        ("pending", None, 0, 1000, 0, 1),
        ("reversed", "refunded", 1000, 0, 1000, 1),
        ("earned", "partly_refunded", 2000, 0, 300, 2),
        ("earned", None, 1000, 0, 0, 1),
        ("signed_up", None, 0, 0, 0, 0),
    ]
    due = clock.time + dt.timedelta(days=14)
    assert [e.available_at for e in entries] == [None, due, None, None, None, None]
    assert [e.converted_at is not None for e in entries] == [False, True, True, True, True, False]
    assert entries[-1].signed_up_at == clock.time
    assert {e.name for e in entries} == {None}
    totals = _totals(host, referrer)
    assert totals["signups"] == len(entries)
    assert totals["earned_cents"] == sum(e.earned_cents for e in entries)
    assert totals["pending_cents"] == sum(e.pending_cents for e in entries)
    assert totals["reversed_cents"] == sum(e.reversed_cents for e in entries)
    # Somebody else sees none of it.
    assert listed(host, signed_up) == []


def test_what_waits_for_a_reviewer_says_so(make: MakeHost) -> None:
    host = make(REFERRAL_VELOCITY_LIMIT=0)
    referrer = host.add_user()
    pay(host, refer(host, referrer))
    (entry,) = listed(host, referrer)
    assert (entry.state, entry.reason, entry.pending_cents) == ("held", "review", 1000)


def test_an_account_that_is_gone_stays_in_the_list_and_in_the_figures(make: MakeHost) -> None:
    host = make()
    host.referral.display_name_loader(lambda user: f"Person {user}")
    referrer = host.add_user()
    buyer, other = refer(host, referrer), refer(host, referrer)
    pay(host, buyer)
    delete(host, buyer)
    delete(host, other)
    entries = listed(host, referrer)
    assert sorted(entry.state for entry in entries) == ["earned", "signed_up"]
    assert [entry.name for entry in entries] == [None, None]
    assert _totals(host, referrer)["signups"] == 2
    assert _totals(host, referrer)["earned_cents"] == 1000


def test_an_erased_account_stays_counted_and_nobody_takes_its_visit(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    buyer = refer(host, referrer)
    host.cli("erase", str(buyer), "--yes")
    assert _totals(host, referrer)["signups"] == 1
    assert len(listed(host, referrer)) == 1


def test_pages_neither_repeat_nor_leave_out_while_others_sign_up(
    make: MakeHost, clock: Clock
) -> None:
    host = make()
    referrer = host.add_user()
    people = [refer(host, referrer) for _ in range(25)]
    for number, person in enumerate(people):
        # Of one moment are several.
        date(host, person, clock.time + dt.timedelta(seconds=number // 4))
    client = host.client()
    host.current_user = referrer
    seen: list[str] = []
    query = "?limit=7"
    while True:
        answer: t.Any = client.get(f"{ROUTE}{query}").json
        seen += [entry["cursor"] for entry in answer["referrals"]]
        if answer["next"] is None:
            break
        assert answer["next"] == seen[-1]
        query = f"?limit=7&before={answer['next']}"
        date(host, refer(host, referrer), clock.time + dt.timedelta(hours=1))
    assert len(seen) == len(set(seen)) == 25
    assert [e.cursor for e in listed(host, referrer, limit=100)][-25:] == seen


def test_names_are_the_hosts_to_tell(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    refer(host, referrer)
    known = refer(host, referrer)
    host.referral.display_name_loader(lambda user: "Bob" if user == known else None)
    assert {entry.name for entry in listed(host, referrer)} == {"Bob", None}


def test_the_list_takes_one_statement_and_one_more_with_names(make: MakeHost) -> None:
    host = make(REFERRAL_RENEWALS=None)
    referrer = host.add_user()
    for number in range(5):
        buyer = refer(host, referrer)
        for payment in range(3):
            pay(host, buyer, f"mem_{number}", payment_id=f"pay_{number}_{payment}")
    listed(host, referrer)
    with host.statements() as seen:
        assert len(listed(host, referrer)) == 5
    assert len(seen) == 1
    host.referral.display_name_loader(lambda user: "Bob")
    with host.statements() as seen:
        listed(host, referrer)
    assert len(seen) == 2


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=-1", "limit="])
def test_a_limit_out_of_bounds_is_refused(make: MakeHost, query: str) -> None:
    host = make()
    host.current_user = host.add_user()
    answer = host.client().get(f"{ROUTE}?{query}")
    assert answer.status_code == 400
    assert answer.json == {
        "error": "limit must be a whole number from 1 to 100.",
        "code": "invalid_limit",
    }


@pytest.mark.parametrize("text", ["", "x", "1-2", f"{'9' * 18}-{'0' * 32}", f"-1-{'0' * 32}", "\0"])
def test_a_text_that_is_no_cursor_is_refused(make: MakeHost, text: str) -> None:
    host = make()
    host.current_user = host.add_user()
    answer = host.client().get(ROUTE, query_string={"before": text})
    assert answer.status_code == 400
    assert answer.json is not None and answer.json["code"] == "invalid_cursor"
    with pytest.raises(ReferralError, match="cursor"):
        listed(host, host.current_user, before=text)


def test_nobody_and_a_deleted_account_get_no_list(make: MakeHost) -> None:
    host = make()
    assert host.client().get(ROUTE).status_code == 401
    user = host.add_user()
    delete(host, user)
    host.current_user = user
    answer = host.client().get(ROUTE)
    assert (answer.status_code, answer.json["code"]) == (401, "unknown_user")  # type: ignore[index]
    with pytest.raises(UnknownUser):
        listed(host, user)


def _totals(host: Host, user: t.Any) -> dict[str, int]:
    with host.app.app_context():
        return vars(host.referral.stats(user).totals)


def test_what_somebody_earned_stays_beside_them_when_old_clicks_are_purged(
    make: MakeHost, clock: Clock
) -> None:
    """The id of a click goes with its address, and the rewards go along with the new one."""
    host = make()
    referrer = host.add_user()
    buyer = host.add_user()
    browser = host.client()
    browser.get(f"/r/{make_code(host, referrer)}")
    with host.app.test_request_context(headers={"Cookie": _cookies(browser)}):
        assert host.referral.attribute(buyer).reason == "attributed"
        host.db.session.commit()
    pay(host, buyer)
    before = listed(host, referrer)
    assert [entry.earned_cents for entry in before] == [1000]
    clock.time += dt.timedelta(days=400)
    host.cli("rollup")
    host.cli("purge", "--clicks-older-than", "30", "--delete", "--yes")
    after = listed(host, referrer)
    assert after[0].cursor != before[0].cursor
    assert _without_cursors(after) == _without_cursors(before)


def test_what_somebody_earned_stays_beside_them_when_they_are_erased(make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    buyer = host.add_user()
    browser = host.client()
    browser.get(f"/r/{make_code(host, referrer)}")
    with host.app.test_request_context(headers={"Cookie": _cookies(browser)}):
        host.referral.attribute(buyer)
        host.db.session.commit()
    pay(host, buyer)
    before = listed(host, referrer)
    host.cli("erase", str(buyer), "--yes")
    after = listed(host, referrer)
    assert after[0].cursor != before[0].cursor
    assert _without_cursors(after) == _without_cursors(before)
    assert after[0].earned_cents == 1000


def test_the_next_on_a_computer_is_a_sign_up_beside_one_whose_account_is_gone(
    make: MakeHost,
) -> None:
    host = make()
    referrer = host.add_user()
    browser = host.client()
    browser.get(f"/r/{make_code(host, referrer)}")
    headers = {"Cookie": _cookies(browser)}

    def sign_up() -> tuple[t.Any, int]:
        user = host.add_user()
        with host.app.test_request_context(headers=headers), host.statements() as seen:
            assert host.referral.attribute(user).reason == "attributed"
            sent = len(seen)
            host.db.session.commit()
        return user, sent

    first, _ = sign_up()
    delete(host, first)
    _, sent = sign_up()
    assert sent == 2
    assert len(listed(host, referrer)) == 2
    totals = _totals(host, referrer)
    assert (totals["clicks"], totals["signups"]) == (2, 2)


def _without_cursors(entries: list[ReferralEntry]) -> list[ReferralEntry]:
    return [dataclasses.replace(entry, cursor="") for entry in entries]


def _cookies(browser: FlaskClient) -> str:
    cookie = browser.get_cookie("virtuna_referral")
    assert cookie is not None
    return f"{cookie.key}={cookie.value}"


def test_pages_go_on_after_sign_ups_that_others_stored(make: MakeHost) -> None:
    """The database dated them, in whole seconds; several are of one moment."""
    host = make()
    referrer = host.add_user()
    for _ in range(3):
        refer(host, referrer)
    seen: list[str] = []
    while (page := listed(host, referrer, limit=1, before=seen[-1] if seen else None)) != []:
        assert page[0].cursor not in seen
        seen.append(page[0].cursor)
    assert len(seen) == 3


def test_a_purge_in_the_middle_of_a_purchase_parts_nobody_from_it(
    make_postgresql: MakeHost,
) -> None:
    def purge_now(purchase: Purchase) -> int:
        click = host.referral.models.ReferralClick.__table__
        with host.db.engine.connect() as other, other.begin():
            is_it = click.c.referred_user_id == purchase.referred_id
            assert purge.clear(other, host.referral.models, is_it, sa.true()) == 1
        return 700

    host = make_postgresql(reward_policy=purge_now)
    referrer, buyer = host.add_user(), host.add_user()
    browser = host.client()
    browser.get(f"/r/{make_code(host, referrer)}")
    with host.app.test_request_context(headers={"Cookie": _cookies(browser)}):
        host.referral.attribute(buyer)
        host.db.session.commit()
    assert pay(host, buyer) == "converted"
    assert [entry.earned_cents for entry in listed(host, referrer)] == [700]
