"""Codes that users choose, and new ones in place of old."""

from __future__ import annotations

import concurrent.futures
import threading
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import normalize_code
from flask_referral.errors import CodeNotAllowed
from flask_referral.errors import CodeTaken
from flask_referral.errors import UnknownUser
from flask_referral.signals import code_created

from .conftest import MakeHost
from .hosts import Host
from .hosts import KEYS
from .money import PATIENCE
from .money import pay
from .visiting import add_referrer
from .visiting import browser
from .visiting import clicks
from .visiting import make_code

API = "/api/referral/code"
VANITY: dict[str, t.Any] = {"REFERRAL_VANITY_CODES": True}


def choose(host: Host, user: t.Any, code: str) -> str:
    with host.app.app_context():
        chosen = host.referral.set_code(user, code)
        host.db.session.commit()
        return chosen


def rotate(host: Host, user: t.Any) -> str:
    with host.app.app_context():
        code = host.referral.rotate_code(user)
        host.db.session.commit()
        return code


def stats(host: Host, user: t.Any) -> t.Any:
    with host.app.app_context():
        return host.referral.stats(user)


def put(host: Host, code: t.Any) -> tuple[int, t.Any]:
    answer = host.client().put(API, json={"code": code})
    return answer.status_code, answer.json


@pytest.mark.parametrize("key", KEYS)
def test_every_code_of_a_user_leads_to_the_user(make: MakeHost, key: str) -> None:
    host = make(key=key, REFERRAL_BASE_URL="https://shop.example", **VANITY)
    referrer, generated = add_referrer(host)
    assert choose(host, referrer, "ada-lovelace") == "ADALOVELACE"
    second = rotate(host, referrer)
    assert len({generated, "ADALOVELACE", second}) == 3
    shown = stats(host, referrer)
    assert (shown.code, shown.link) == (second, f"https://shop.example/r/{second}")
    with host.app.app_context():
        assert host.referral.link_for(referrer) == shown.link
        assert host.referral.get_or_create_code(referrer).code == generated
    for number, code in enumerate((generated, "ADALOVELACE", "ada-lovelace", second)):
        client = browser(host)
        assert client.get(f"/r/{code}", headers={"User-Agent": f"Firefox {number}"}).headers[
            "Set-Cookie"
        ]
        buyer = host.add_user()
        with host.app.test_request_context(headers=_cookie(client)):
            outcome = host.referral.attribute(buyer)
            host.db.session.commit()
        assert outcome.reason == "attributed"
        assert outcome.referrer_id == referrer
        assert pay(host, buyer, f"mem_{number}") == "converted"
    # Clicks and conversions refer to the generated one.
    assert {row.referral_code for row in clicks(host)} == {generated}
    assert stats(host, referrer).totals.conversions == 4
    answer: t.Any = host.client().get("/api/referral/codes/adalovelace").json
    assert answer == {"code": "ADALOVELACE", "valid": True}


def _cookie(client: t.Any) -> dict[str, str]:
    cookie = client.get_cookie("virtuna_referral")
    return {"Cookie": f"virtuna_referral={cookie.value}"}


def test_a_visit_through_a_chosen_code_is_bound_and_not_doubled(make: MakeHost) -> None:
    host = make(**VANITY)
    referrer, _ = add_referrer(host)
    choose(host, referrer, "ADA")
    client = browser(host)
    client.get("/?ref=ada")
    client.get("/r/ADA")
    assert len(clicks(host)) == 1
    with host.app.test_request_context(headers=_cookie(client)):
        assert host.referral.attribute(host.add_user()).reason == "attributed"
        host.db.session.commit()
    (click,) = clicks(host)
    assert click.bound_at is not None


def test_a_typed_code_may_be_a_chosen_one(make: MakeHost) -> None:
    host = make(**VANITY)
    referrer, _ = add_referrer(host)
    choose(host, referrer, "ADA")
    friend, stranger = host.add_user(), host.add_user()
    with host.app.app_context():
        assert host.referral.attribute(friend, code=" ada ").referrer_id == referrer
        assert host.referral.attribute(referrer, code="ADA").reason == "self_referral"
        assert host.referral.attribute(stranger, code="EVE").reason == "unknown_code"
        host.db.session.rollback()


def test_a_click_through_any_code_takes_one_statement(make_postgresql: MakeHost) -> None:
    host = make_postgresql(**VANITY)
    referrer, generated = add_referrer(host)
    choose(host, referrer, "ADA")
    for number, code in enumerate((generated, "ADA", "NOBODY")):
        client = browser(host)
        with host.statements() as seen:
            client.get(f"/r/{code}", headers={"User-Agent": f"Firefox {number}"})
        assert len(seen) == 1, code


@pytest.mark.parametrize(
    "code", ["", "ab", "a" * 33, "ünïcode", "a/b", "ADMIN", "admin1", "Fuck", "SHOP2", "fuck 99"]
)
def test_what_is_no_code_or_reserved_is_not_allowed(make_sqlite: MakeHost, code: str) -> None:
    host = make_sqlite(**VANITY, REFERRAL_RESERVED_CODES=["shop-2", "larkmail"])
    host.current_user, generated = add_referrer(host)
    with pytest.raises(CodeNotAllowed):
        choose(host, host.current_user, code)
    status, answer = put(host, code)
    assert (status, answer["code"]) == (422, "code_not_allowed")
    assert stats(host, host.current_user).code == generated
    # A word in another is nobody's fault.
    assert choose(host, host.current_user, "SCUNTHORPE") == "SCUNTHORPE"


def test_the_hosts_own_check_may_refuse(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**VANITY)
    host.current_user, _ = add_referrer(host)
    host.referral.code_checker(lambda code, user: code != "RIVAL" and user == host.current_user)
    assert put(host, "RIVAL")[0] == 422
    assert put(host, "FRIEND") == (200, {"code": "FRIEND"})


@pytest.mark.parametrize("gone", ["rotated", "erased", "deleted", "there"])
def test_a_code_that_somebody_had_is_taken_for_ever(make: MakeHost, gone: str) -> None:
    host = make(**VANITY)
    ada, generated = add_referrer(host)
    bob = host.add_user()
    choose(host, ada, "ADA")
    if gone == "rotated":
        rotate(host, ada)
    if gone == "erased":
        host.cli("erase", str(ada), "--yes")
    if gone == "deleted":
        with host.app.app_context():
            host.db.session.delete(host.db.session.get(host.User, ada))
            host.db.session.commit()
    for code in ("ADA", generated):
        with pytest.raises(CodeTaken):
            choose(host, bob, code)
    host.current_user = bob
    assert put(host, "ada")[0] == 409
    leads_on = host.client().get("/api/referral/codes/ADA").json
    assert leads_on == {"code": "ADA", "valid": gone in ("rotated", "there")}
    if gone in ("rotated", "there"):
        assert choose(host, ada, "ADA") == "ADA"
        assert stats(host, ada).code == "ADA"


def test_a_generated_code_is_never_one_that_was_chosen(
    make: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make(**VANITY)
    ada, _ = add_referrer(host)
    choose(host, ada, "K7M2PQ9X")
    draws = iter(["K7M2PQ9X", "FREE2222", "K7M2PQ9X", "FREE3333"])
    monkeypatch.setattr("flask_referral.codes.generate_referral_code", lambda: next(draws))
    assert make_code(host, host.add_user()) == "FREE2222"
    assert rotate(host, ada) == "FREE3333"


def test_without_the_setting_nobody_chooses(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    host.current_user, _ = add_referrer(host)
    assert put(host, "ADA")[0] == 404
    page = host.client().get("/referral/").text
    assert "Choose this code" not in page and "Get a new code" in page
    answer = host.client().post("/referral/code", data={"action": "choose", "code": "ADA"})
    assert answer.status_code == 400


def test_bodies_that_name_no_code_are_refused(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**VANITY)
    assert put(host, "ADA")[0] == 401
    host.current_user = host.add_user()
    client = host.client()
    for body in ([], "ADA", {}, {"code": 7}, {"code": None}):
        answer = client.put(API, json=body)
        assert (answer.status_code, answer.json.keys()) == (400, {"error", "code"})  # type: ignore[union-attr]
    assert client.put(API, data="{", content_type="application/json").status_code == 400
    assert client.put(API, data="code=ADA").status_code == 415
    other = client.put(API, json={"code": "ADA"}, headers={"Origin": "https://evil.example"})
    assert other.status_code == 403


def test_the_page_chooses_and_says_what_is_wrong(make: MakeHost) -> None:
    host = make(**VANITY)
    bob, _ = add_referrer(host)
    choose(host, bob, "BOB")
    host.current_user = host.add_user()
    make_code(host, host.current_user)
    client = host.client()
    answer = client.post("/referral/code", data={"action": "choose", "code": "bob"})
    assert answer.status_code == 422
    assert "Somebody else has this code" in answer.text
    assert 'value="bob"' in answer.text and 'aria-invalid="true"' in answer.text
    answer = client.post("/referral/code", data={"action": "choose", "code": "ada"})
    assert answer.status_code == 303
    assert "/r/ADA" in client.get("/referral/").text
    client.post("/referral/code", data={"action": "rotate"})
    assert "/r/ADA" not in client.get("/referral/").text


def test_unknown_users_choose_nothing(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**VANITY)
    for call in (lambda: choose(host, 999, "ADA"), lambda: rotate(host, 999)):
        with pytest.raises(UnknownUser):
            call()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ada", "ADA"),
        (" Ada Lovelace ", "ADALOVELACE"),
        ("“ada-99”", "ADA99"),
        ("https://shop.example/r/ada", "ADA"),
        ("https://shop.example/?ref=ada&utm_source=x", "ADA"),
        ("look: https://shop.example/r/ada", "ADA"),
        ("https://shop.example/r/K7M2PQ9X", "K7M2PQ9X"),
        ("my code is K7M2PQ9X.", "MYCODEISK7M2PQ9X"),
        ("ad", None),
        ("a" * 33, None),
        ("ädä", None),
        ("https://shop.example/r/ada https://shop.example/r/bob", None),
        ("https://shop.example/", None),
    ],
)
def test_chosen_codes_are_found_in_texts_and_links(text: str, code: str | None) -> None:
    assert normalize_code(text, is_vanity=True) == code
    # Without the setting a chosen code is none.
    assert normalize_code(text) in (None, "K7M2PQ9X")


def test_of_two_users_who_want_a_word_at_once_one_gets_it(make_postgresql: MakeHost) -> None:
    host = make_postgresql(**VANITY)
    users = [add_referrer(host)[0] for _ in range(2)]
    for number in range(10):
        gate = threading.Barrier(2, timeout=PATIENCE)

        def ask(user: t.Any, word: str = f"WORD{number}", gate: t.Any = gate) -> str:
            gate.wait()
            try:
                return choose(host, user, word)
            except CodeTaken:
                return "taken"

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(ask, users, timeout=PATIENCE))
        assert sorted(answers) == sorted([f"WORD{number}", "taken"])


def test_two_presses_at_once_leave_one_code_to_share(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    user, _ = add_referrer(host)
    gate = threading.Barrier(8, timeout=PATIENCE)

    def press(_: int) -> str:
        gate.wait()
        return rotate(host, user)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(press, range(8), timeout=PATIENCE))
    issued = host.referral.models.ReferralIssuedCode.__table__
    with host.app.app_context():
        current = host.db.session.scalars(sa.select(issued.c.code).where(issued.c.is_current)).all()
    assert len(current) == 1 and current[0] in made
    assert stats(host, user).code == current[0]


@pytest.mark.parametrize("where", ["page", "api"])
def test_presses_at_once_in_browsers_leave_one_code_to_share(
    make_postgresql: MakeHost, where: str
) -> None:
    host = make_postgresql(**VANITY, SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 8})
    host.current_user, _ = add_referrer(host)
    issued = host.referral.models.ReferralIssuedCode.__table__
    for round_ in range(10):
        gate = threading.Barrier(8, timeout=PATIENCE)

        def press(number: int, round_: int = round_, gate: t.Any = gate) -> int:
            client = host.client()
            gate.wait()
            if where == "api":
                return client.put(API, json={"code": f"WORD{round_}X{number}"}).status_code
            return client.post("/referral/code", data={"action": "rotate"}).status_code

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            statuses = set(pool.map(press, range(8), timeout=PATIENCE))
        assert statuses == {303 if where == "page" else 200}
        with host.app.app_context():
            current = host.db.session.scalars(sa.select(issued.c.code).where(issued.c.is_current))
            assert len(current.all()) == 1


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"code": "ada", "code": "eve"}', b'{"code": NaN}', b"\xff", b"", b"[]"],
    ids=["deep", "twice", "no number", "no UTF-8", "empty", "a list"],
)
def test_json_that_is_none_is_refused(make_sqlite: MakeHost, body: bytes) -> None:
    host = make_sqlite(**VANITY)
    host.current_user, _ = add_referrer(host)
    answer = host.client().put(API, data=body, content_type="application/json")
    assert answer.status_code == (413 if len(body) > 16_384 else 400)
    small = host.client().put(API, data=body[:16_000], content_type="application/json")
    assert small.status_code == 400


def test_the_page_behind_a_refusal_is_the_page(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**VANITY)
    host.current_user, _ = add_referrer(host)
    client = host.client()
    answer = client.get("/referral/code?days=90&_scheme=evil&_external=1&_anchor=x&next=//evil")
    assert (answer.status_code, answer.location) == (302, "/referral/?days=90")
    assert client.get("/referral/code", follow_redirects=True).status_code == 200


def test_an_operator_moves_nobody_to_another_code_of_the_same_referrer(make: MakeHost) -> None:
    host = make(**VANITY)
    referrer, _ = add_referrer(host)
    choose(host, referrer, "ADA")
    friend = host.add_user()
    host.cli("reattribute", str(friend), "ada", "--yes")
    assert "already" in host.failure("reattribute", str(friend), "ada", "--yes")
    assert len(clicks(host)) == 1


def test_each_new_code_is_told_of_once(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**VANITY)
    user = host.add_user()
    told: list[str] = []

    def hear(app: t.Any, user_id: t.Any, code: str) -> None:
        told.append(code)

    with code_created.connected_to(hear, host.app):
        choose(host, user, "ADA")
        choose(host, user, "ada")
        rotated = rotate(host, user)
    generated = host.cli("code", str(user)).stdout.strip()
    assert told == [generated, "ADA", rotated]


def test_two_people_of_one_browser_come_from_one_place(make: MakeHost) -> None:
    host = make(**VANITY)
    referrer, _ = add_referrer(host)
    choose(host, referrer, "ADA")
    client = browser(host)
    client.get("/r/ADA?utm_source=news")
    for _ in range(2):
        user = host.add_user()
        with host.app.test_request_context(headers=_cookie(client)):
            assert host.referral.attribute(user).reason == "attributed"
            host.db.session.commit()
    assert [row.source for row in clicks(host)] == ["news", "news"]
