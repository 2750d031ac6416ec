"""The whole story in one application with thirteen other extensions."""

from __future__ import annotations

import datetime as dt
import json
import typing as t

import pytest
from flask.testing import FlaskClient
from flask_jwt_extended import create_access_token

from ..hosts import Host
from ..memory import assert_json_error
from ..money import amounts
from ..visiting import browser
from ..visiting import clicks
from ..visiting import cookie_value
from ..visiting import set_cookie
from ..whop import outcome
from ..whop import payment
from ..whop import signed
from ..whop import URL
from .application import DEFAULT_LIMIT
from .application import FRONT_END
from .application import LIMIT

pytestmark = pytest.mark.neighbours

GENERATE = "/api/referral/generate"
STATS = "/api/referral/stats?days=1"
HTTPS = "https://localhost"


def person(host: Host, number: int) -> FlaskClient:
    """Return the browser of somebody at an address of their own."""
    client = browser(host)
    client.environ_base["REMOTE_ADDR"] = f"10.0.0.{number}"
    return client


def post(client: FlaskClient, path: str, **options: t.Any) -> t.Any:
    """Send what a page of the site sends, with its token."""
    headers = {
        "X-CSRFToken": client.get("/token").text,
        "Referer": f"{HTTPS}/",
        "Sec-Fetch-Site": "same-origin",
        **options.pop("headers", {}),
    }
    return client.post(path, headers=headers, **options)


def sign_up(host: Host, client: FlaskClient, name: str) -> int:
    """Register through Flask-Security's own view; return the new user's key."""
    form = {
        "email": f"{name}@example.com",
        "password": "battery-staple-1",
        "password_confirm": "battery-staple-1",
    }
    answer = post(client, "/register", data=form)
    assert answer.status_code == 302, answer.text
    with host.app.app_context():
        user = host.db.session.query(host.User).filter_by(email=form["email"]).one()
        return int(user.id)


def member(host: Host, number: int) -> tuple[int, FlaskClient, str]:
    """Return somebody with a code: the key, the browser, the code."""
    client = person(host, number)
    user = sign_up(host, client, f"member{number}")
    answer = post(client, GENERATE)
    assert answer.status_code == 200, answer.text
    return user, client, answer.get_json()["code"]


def token(host: Host, user: t.Any, **options: t.Any) -> dict[str, str]:
    with host.app.app_context():
        return {"Authorization": f"Bearer {create_access_token(str(user), **options)}"}


def test_from_the_first_code_to_the_operators_figures(host: Host) -> None:
    referrer, owner, code = member(host, 1)
    assert post(owner, GENERATE).get_json() == {"code": code}
    # Without the token of Flask-WTF: not even one's own.
    refused = owner.post(GENERATE, headers={"Referer": HTTPS})
    assert "CSRF" in assert_json_error(refused, 400)

    guest = person(host, 2)
    # Talisman sends plain HTTP on to HTTPS, where the visit counts.
    first = guest.get(f"/r/{code}", base_url="http://localhost")
    assert (first.status_code, first.headers["Location"]) == (302, f"{HTTPS}/r/{code}")
    assert clicks(host) == []
    link = guest.get(f"/r/{code}")
    assert (link.status_code, link.headers["Location"]) == (302, "/")
    assert link.headers["Content-Security-Policy"] == "default-src 'self'"
    assert set_cookie(link) is not None

    buyer = sign_up(host, guest, "guest")
    assert [str(reason) for reason in host.app.extensions["outcomes"]] == ["no_visit", "attributed"]
    # The order fails, and the bonus with it; the next one is stored with it.
    assert post(guest, "/buy?fail=1").status_code == 402
    assert amounts(host, referrer) == []
    assert post(guest, "/buy").text == "converted"
    assert amounts(host, referrer) == [1000]
    # The provider tells of the same membership as another payment: not once more.
    assert outcome(host, payment(buyer)) == "already_converted"

    totals = owner.get(STATS).get_json()["totals"]
    assert totals["clicks"] == totals["signups"] == totals["conversions"] == 1
    assert totals["earned_cents"] == 1000
    shown = json.loads(host.cli("stats", str(referrer), "--json").stdout)
    assert shown["totals"] == totals
    doctor = json.loads(host.cli("doctor", "--json").stdout)
    assert [finding for finding in doctor if finding["level"] == "fault"] == []


def test_cached_page_gives_nobody_anothers_cookie(host: Host) -> None:
    _, _, code = member(host, 1)
    page = f"/pricing?ref={code}"
    answers = [person(host, number).get(page) for number in (2, 3)]
    assert [answer.text for answer in answers] == ["Prices 1"] * 2
    mine, theirs = map(cookie_value, answers)
    assert mine != theirs
    assert len({row.id for row in clicks(host)}) == 2
    for answer in answers:
        assert answer.cache_control.private
    plain = [person(host, 4).get("/pricing") for _ in range(2)]
    assert [set_cookie(answer) for answer in plain] == [None, None]
    assert [answer.text for answer in plain] == ["Prices 2"] * 2


def test_plain_http_and_https_are_one_visit(host: Host) -> None:
    _, _, code = member(host, 1)
    # A browser refuses a Secure cookie that comes over plain HTTP.
    guest = host.app.test_client(use_cookies=False)
    page = f"/pricing?ref={code}"
    first = guest.get(page, base_url="http://localhost")
    assert (first.status_code, first.headers["Location"]) == (302, f"{HTTPS}{page}")
    assert set_cookie(guest.get(page)) is not None
    assert len(clicks(host)) == 1


def test_deliveries_are_never_limited_and_generate_is(host: Host) -> None:
    _, owner, _ = member(host, 1)
    told = [post_with(host, owner).status_code for _ in range(LIMIT)]
    assert told == [200] * (LIMIT - 1) + [429]
    # One has asked in member(), and the limit is one of JSON like every error.
    refused = post_with(host, owner)
    assert assert_json_error(refused, 429)
    assert refused.get_json()["code"] == "too_many_requests"
    for number in range(2 * DEFAULT_LIMIT):
        assert outcome(host, payment("nobody", f"mem_{number}")) == "unknown_user"


def post_with(host: Host, client: FlaskClient) -> t.Any:
    headers = token(host, 1)
    csrf = client.get("/token", environ_overrides={"REMOTE_ADDR": "10.9.9.9"}).text
    return client.post(GENERATE, headers={**headers, "X-CSRFToken": csrf, "Referer": HTTPS})


def test_webhook_needs_a_signature_and_no_csrf_token(host: Host) -> None:
    body = json.dumps(payment("1")).encode()
    refused = host.client().post(URL, data=body, headers={})
    assert assert_json_error(refused, 401)
    assert refused.get_json()["code"] == "invalid_signature"
    assert host.client().post(URL, data=body, headers=signed(body)).status_code == 200


def test_bad_tokens_are_answered_by_the_jwt_extension(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    user, _, code = member(host, 1)
    old = token(host, user, expires_delta=dt.timedelta(seconds=-1))
    client = person(host, 2)
    answers = {
        "old": client.get(STATS, headers=old),
        "garbage": client.get(STATS, headers={"Authorization": "Bearer x.y.z"}),
        "garbled": client.get(STATS, headers={"Authorization": "Bearer x"}),
    }
    caplog.clear()
    assert {name: (a.status_code, a.get_json().keys()) for name, a in answers.items()} == {
        "old": (401, {"msg"}),
        "garbage": (422, {"msg"}),
        "garbled": (422, {"msg"}),
    }
    deleted = client.get(STATS, headers=token(host, 77))
    assert assert_json_error(deleted, 401)
    assert deleted.get_json()["code"] == "unknown_user"
    page = client.get(f"/pricing?ref={code}", headers=old)
    assert (page.status_code, set_cookie(page) is not None) == (200, True)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_front_end_on_a_sibling_origin(host: Host) -> None:
    _, owner, code = member(host, 1)
    asked = {
        "Origin": FRONT_END,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-csrftoken",
    }
    preflight = owner.options(GENERATE, headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == FRONT_END
    assert preflight.headers["Access-Control-Allow-Credentials"] == "true"
    assert "x-csrftoken" in preflight.headers["Access-Control-Allow-Headers"].lower()
    csrf = owner.get("/token").text
    sent = {"Origin": FRONT_END, "Referer": f"{FRONT_END}/", "Sec-Fetch-Site": "same-site"}
    answer = owner.post(GENERATE, headers={**sent, "X-CSRFToken": csrf})
    assert answer.get_json() == {"code": code}
    assert answer.headers["Access-Control-Allow-Origin"] == FRONT_END
    evil = {**sent, "X-CSRFToken": csrf, "Origin": "https://evil.example"}
    refused = owner.post(GENERATE, headers=evil)
    assert "REFERRAL_TRUSTED_ORIGINS" in assert_json_error(refused, 403)
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_link_over_a_socket(host: Host) -> None:
    _, owner, code = member(host, 1)
    sockets = host.app.extensions["sockets"]
    client = sockets.test_client(host.app, flask_test_client=owner)
    client.emit("link")
    assert client.get_received()[0]["args"] == [f"https://example.com/r/{code}"]
    client.disconnect()


def test_neighbours_answer_as_without_us(host: Host) -> None:
    client = person(host, 1)
    shop = client.get("/shop/")
    assert (shop.status_code, shop.get_json()) == (200, {"goods": 1})
    assert client.get("/nowhere").get_json()["code"] == 404
    assert client.get("/openapi.json").status_code == 200
    german = client.get("/pricing", headers={"Accept-Language": "de"})
    assert german.text == "Prices 1"


def test_errors_are_in_the_language_that_the_babel_extension_chooses(host: Host) -> None:
    client = person(host, 1)
    told = {
        language: client.get(STATS, headers={"Accept-Language": language}).get_json()["error"]
        for language in ("de", "en", "it")
    }
    english = "Log in to see your referral statistics."
    german = "Melde dich an, um deine Empfehlungsstatistik zu sehen."
    assert told == {"de": german, "en": english, "it": english}
