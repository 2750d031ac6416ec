"""A page of another site cannot make a browser ask for a code."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf

from ..memory import assert_json_error
from ..memory import GENERATE
from ..memory import Host
from ..memory import start

ALLOWED: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"},
    {"Origin": "http://localhost"},
    {"Origin": "https://localhost"},
    {"Authorization": "Bearer x", "Sec-Fetch-Site": "cross-site"},
    {"Authorization": "token x", "Origin": "https://evil.example"},
]
REFUSED: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "same-origin, cross-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://evil.example/localhost"},
    {"Origin": "http://localhost@evil.example"},
    {"Origin": "http://localhost:8000"},
    {"Origin": "ftp://localhost"},
    {"Origin": "localhost"},
    {"Origin": "//localhost"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://[::1"},
    # A browser sends these to requests of other sites too.
    {"Authorization": "Basic eDp5", "Sec-Fetch-Site": "cross-site"},
    {"Authorization": "digest x", "Origin": "https://evil.example"},
    {"Authorization": "Negotiate x", "Sec-Fetch-Site": "cross-site"},
    {"Authorization": "", "Sec-Fetch-Site": "cross-site"},
]


@pytest.fixture
def host() -> Host:
    return start().finish()


@pytest.mark.parametrize("headers", ALLOWED, ids=str)
def test_request_of_the_site_itself(host: Host, headers: dict[str, str]) -> None:
    assert host.client().post(GENERATE, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_request_of_another_site(host: Host, headers: dict[str, str]) -> None:
    answer = host.client().post(GENERATE, headers=headers)
    assert_json_error(answer, 403)
    assert answer.get_json()["code"] == "cross_site"
    with host.app.app_context():
        db = host.app.extensions["sqlalchemy"]
        assert db.session.scalars(sa.select(host.referral.models.ReferralCode)).all() == []


def test_origin_over_https(host: Host) -> None:
    client = host.client()
    base = "https://example.com"
    for origin, status in ((base, 200), ("http://example.com", 403), ("https://a.example", 403)):
        answer = client.post(GENERATE, base_url=base, headers={"Origin": origin})
        assert answer.status_code == status


def test_front_end_on_another_origin_that_is_trusted() -> None:
    page = "https://app.example.com"
    host = start(REFERRAL_TRUSTED_ORIGINS=(page, "http://localhost:5173")).finish()
    client = host.client()
    for site in ("same-site", "cross-site", None):
        for origin in (page, "http://localhost:5173"):
            headers = {"Origin": origin} | ({"Sec-Fetch-Site": site} if site else {})
            assert client.post(GENERATE, headers=headers).status_code == 200
        for origin in (f"{page}.evil.example", f"{page}:8443", "http://app.example.com", "null"):
            headers = {"Origin": origin} | ({"Sec-Fetch-Site": site} if site else {})
            told = assert_json_error(client.post(GENERATE, headers=headers), 403)
            assert "REFERRAL_TRUSTED_ORIGINS" in told
    assert_json_error(client.post(GENERATE, headers={"Sec-Fetch-Site": "cross-site"}), 403)


# The host's CSRFProtect


@pytest.mark.parametrize("first", [True, False])
def test_csrf_protection_of_the_host(first: bool) -> None:
    csrf = CSRFProtect()
    host = start(before=csrf.init_app if first else None)
    if not first:
        csrf.init_app(host.app)
    host.app.get("/token")(lambda: generate_csrf())
    client = host.finish().app.test_client()
    assert "token" in assert_json_error(client.post(GENERATE), 400)
    token = client.get("/token").text
    assert_json_error(client.post(GENERATE, headers={"X-CSRFToken": "x"}), 400)
    answer = client.post(GENERATE, headers={"X-CSRFToken": token})
    assert answer.status_code == 200
    assert answer.get_json().keys() == {"code"}
    # It does not replace our own check.
    headers = {"X-CSRFToken": token, "Sec-Fetch-Site": "cross-site"}
    assert_json_error(client.post(GENERATE, headers=headers), 403)
