"""The lists: found by user, code, payment and membership, page by page, and exported whole."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import typing as t
import uuid

import pytest
import sqlalchemy as sa

from flask_referral.contrib.admin import listing
from flask_referral.contrib.admin.csv_export import cell

from ..hosts import Host
from ..hosts import KEYS
from ..money import pay
from ..money import refer
from ..visiting import make_code
from .conftest import MakeDesk


def page(host: Host, view: str, **query: t.Any) -> str:
    answer = host.client().get(f"/admin/referral_{view}/", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.text


def rows(text: str) -> int:
    return text.count("<tr>") - 1 if "<tbody>" in text else 0


def exported(host: Host, view: str, **query: t.Any) -> list[list[str]]:
    answer = host.client().get(f"/admin/referral_{view}/export.csv", query_string=query)
    assert answer.status_code == 200 and answer.mimetype == "text/csv"
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    name = f'attachment; filename="referral_{view}.csv"'
    assert answer.headers["Content-Disposition"] == name
    return list(csv.reader(io.StringIO(answer.get_data(as_text=True))))[1:]


@pytest.mark.parametrize("key", KEYS)
def test_one_search_finds_users_codes_payments_and_memberships(
    make_desk: MakeDesk, key: str
) -> None:
    host = make_desk(key=key)
    referrer, other = host.add_user(name="one"), host.add_user(name="other")
    friend, stranger = refer(host, referrer), refer(host, other)
    pay(host, friend, "mem_a", payment_id="pay_a")
    pay(host, stranger, "mem_b", payment_id="pay_b", provider="acme")
    code = make_code(host, referrer)
    with host.app.app_context():
        chosen = host.referral.set_code(referrer, "WELCOME2U")
        host.db.session.commit()
    written = f"{code[:4]}-{code[4:]}".lower()
    for query in (str(referrer), str(friend), code, written, chosen, "pay_a", " mem_a "):
        for view in ("referrals", "rewards"):
            assert rows(page(host, view, q=query)) == 1, (view, query)
    for query in (str(referrer), code, chosen, "pay_a", "mem_a"):
        (found,) = exported(host, "codes", q=query)
        assert found[:3] == [str(referrer), code, chosen]
    for query in ("pay_b", "mem_b", str(stranger)):
        (found,) = exported(host, "rewards", q=query)
        assert found[1] == str(other)
    for view in ("codes", "referrals", "rewards", "deliveries", "disabled", "history"):
        assert "Nothing was found." in page(host, view, q="nobody\0here = 1")


def test_every_row_is_on_one_page_newest_first(make_desk: MakeDesk) -> None:
    """Also where many rows are of one moment."""
    host = make_desk()
    code = host.referral.models.ReferralCode.__table__
    moment = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
    users = [host.add_user() for _ in range(2 * listing.PAGE + 7)]
    with host.app.app_context(), host.db.engine.begin() as db:
        for number, user in enumerate(users):
            at = moment + dt.timedelta(seconds=number // 10)
            values = {
                "id": uuid.uuid4(),
                "user_id": user,
                "code": f"CODE{number}",
                "created_at": at,
            }
            db.execute(sa.insert(code).values(values))
    seen: list[str] = []
    query: dict[str, str] = {}
    for expected in (listing.PAGE, listing.PAGE, 7):
        text = page(host, "codes", **query)
        found = re.findall(r"<td><code>(CODE\d+)</code></td><td><code>CODE", text)
        assert len(found) == expected
        seen += found
        link = re.search(r'rel="next" href="[^"]*before=([\w-]+)"', text)
        query = {"before": link[1]} if link else {}
    assert not query and len(set(seen)) == len(users)
    ages = [int(each.removeprefix("CODE")) // 10 for each in seen]
    assert ages == sorted(ages, reverse=True)
    assert [row[1] for row in exported(host, "codes")] == seen


@pytest.mark.parametrize("before", ["x", "W10", "WzEsMl0", "ééé", "WyJub3ciLCAibm93Il0"])
def test_a_place_that_is_none_is_a_sentence(make_desk: MakeDesk, before: str) -> None:
    host = make_desk()
    answer = host.client().get("/admin/referral_codes/", query_string={"before": before})
    assert answer.status_code == 400 and "no place in the list" in answer.text
    answer = host.client().get("/admin/referral_codes/export.csv", query_string={"before": before})
    assert answer.status_code == 200


def test_exports_hold_no_formula(make_desk: MakeDesk) -> None:
    host = make_desk()
    friend = refer(host, host.add_user())
    pay(host, friend, '=HYPERLINK("https://example.com")', payment_id="@SUM(A1)")
    (found,) = exported(host, "rewards")
    assert found[-2:] == ["'@SUM(A1)", '\'=HYPERLINK("https://example.com")']
    assert found[4] == "1000"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\ta", "\ra", "\na"])
def test_a_text_that_looks_like_a_formula_is_quoted(text: str) -> None:
    assert cell(text) == f"'{text}"
    assert (cell(-1), cell(None), cell("a=1")) == (-1, "", "a=1")


def test_an_export_is_read_in_batches_and_sent_as_it_is_read(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "BATCH", 2)
    host = make_desk()
    codes = [make_code(host, host.add_user()) for _ in range(5)]
    with host.statements() as seen:
        answer = host.client().get("/admin/referral_codes/export.csv", buffered=False)
        parts = iter(answer.response)
        begun = [next(parts), next(parts)]
        assert len(seen) == 1
        text = b"".join([*begun, *parts]).decode()
        answer.close()
    assert len(seen) == 3 and all(code in text for code in codes)


def test_codes_are_switched_off_and_on_with_a_reason(make_desk: MakeDesk) -> None:
    host = make_desk()
    user = host.add_user()
    client = host.client()
    form = {"user": str(user), "reason": "his own cards"}
    refused = client.post("/admin/referral_disabled/disable", data=form | {"reason": ""})
    assert refused.status_code == 422 and "Say why" in refused.text
    unknown = client.post("/admin/referral_disabled/disable", data=form | {"user": "999"})
    assert unknown.status_code == 422 and "There is no user" in unknown.text
    assert client.post("/admin/referral_disabled/disable", data=form).status_code == 303
    assert "his own cards" in page(host, "disabled")
    assert exported(host, "history")[0][2:4] == ["disable", "his own cards"]
    back = client.post("/admin/referral_disabled/enable", data=form | {"reason": "explained"})
    assert back.status_code == 303 and rows(page(host, "disabled")) == 0
    assert [row[2] for row in exported(host, "history")] == ["enable", "disable"]
    assert client.get("/admin/referral_disabled/erase").status_code == 404
