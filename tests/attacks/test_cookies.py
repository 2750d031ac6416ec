"""What a neighbouring host, a stranger or a shared cache can do with the visit's cookie."""

from __future__ import annotations

import typing as t

import pytest
from flask import make_response
from flask import Response

from flask_referral.errors import ConfigurationError
from flask_referral.settings import Settings

from ..conftest import MakeHost
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import COOKIE
from ..visiting import cookie_value
from ..visiting import CRAWLER
from ..visiting import set_cookie

JUNK = [
    ["", "x", "1.ZZZZZZZZ.0.0", "y" * 5000],
    [f"1.ZZZZZZZZ.{'0' * 32}.{seconds}.forged" for seconds in (0, 1, 10**11, 10**12 - 1)],
    ['"quoted"', "é", "%00", "a,b"],
]
PREFIXES = ("__Host-", "__host-", "__HOST-", "__Secure-", "__secure-", "__Http-", "__Host-Http-")


def name_of(prefix: str) -> dict[str, t.Any]:
    return {"REFERRAL_COOKIE_NAME": f"{prefix}referral"}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("touch", ["last", "first"])
def test_junk_cookies_of_our_name_suppress_no_visit(
    make: MakeHost, junk: list[str], touch: str
) -> None:
    host = make(REFERRAL_TOUCH=touch)
    _, code = add_referrer(host)
    sent = "; ".join(f"{COOKIE}={value}" for value in junk)
    # A client with a jar of its own drops the header.
    client = host.app.test_client(use_cookies=False)
    headers = {"Cookie": sent.encode().decode("latin-1"), "User-Agent": "A"}
    answer = client.get(f"/r/{code}", headers=headers)
    assert set_cookie(answer)
    assert len(clicks(host)) == 1


def test_a_cookie_that_a_stranger_changed_is_no_visit(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    _, other = add_referrer(host)
    value = cookie_value(browser(host).get(f"/r/{code}"))
    client = browser(host)
    client.set_cookie(COOKIE, value.replace(code, other))
    with client:
        answer = client.get(f"/r/{other}")
        assert set_cookie(answer)
    assert len(clicks(host)) == 2


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_without_secure_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="REFERRAL_COOKIE_SECURE = True"):
        Settings.from_config(name_of(prefix) | {"REFERRAL_COOKIE_SECURE": False})


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_that_is_for_one_host_has_no_domain(prefix: str) -> None:
    config = name_of(prefix) | {"REFERRAL_COOKIE_DOMAIN": "example.com"}
    if prefix.lower().startswith("__host-"):
        with pytest.raises(ConfigurationError, match="remove REFERRAL_COOKIE_DOMAIN"):
            Settings.from_config(config)
    else:
        assert Settings.from_config(config).cookie_domain == "example.com"


@pytest.mark.parametrize("debug", [False, True])
def test_a_prefixed_cookie_is_as_browsers_ask(make_sqlite: MakeHost, debug: bool) -> None:
    """RFC 6265bis: Secure, Path=/ and no Domain; in debug mode, too."""
    assert Settings.from_config(name_of("__Host-"), debug=debug).cookie_secure is True
    host = make_sqlite(**name_of("__Host-"))
    _, code = add_referrer(host)
    header = browser(host).get(f"/r/{code}").headers["Set-Cookie"]
    attributes = {each.strip().partition("=")[0].lower() for each in header.split(";")[1:]}
    assert header.startswith("__Host-referral=")
    assert {"secure", "httponly", "path"} <= attributes and "domain" not in attributes
    assert "; Path=/;" in f"{header};"


def test_other_names_are_as_they_were() -> None:
    settings = Settings.from_config({"REFERRAL_COOKIE_DOMAIN": "example.com"}, debug=True)
    assert (settings.cookie_secure, settings.cookie_domain) == (False, "example.com")


CDN_HEADERS = {
    "CDN-Cache-Control": "max-age=600",
    "Cloudflare-CDN-Cache-Control": "public, s-maxage=600",
    "Vercel-CDN-Cache-Control": "max-age=600",
    "netlify-cdn-cache-control": "public, durable, max-age=600",
    "Akamai-Cache-Control": "max-age=600",
    "Surrogate-Control": 'max-age=600, content="ESI/1.0"',
    "Edge-Control": "!no-store, max-age=600",
    "X-Accel-Expires": "600",
}


@pytest.mark.parametrize("name", CDN_HEADERS)
@pytest.mark.parametrize("cache", ["public, max-age=600", "no-store", None])
def test_no_network_of_caches_keeps_somebodys_cookie(
    make_sqlite: MakeHost, name: str, cache: str | None
) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)

    def page() -> Response:
        response = make_response("page")
        response.headers.add(name, CDN_HEADERS[name])
        # A second line of the same name counts as much.
        response.headers.add(name, CDN_HEADERS[name])
        if cache:
            response.headers["Cache-Control"] = cache
        return response

    host.app.add_url_rule("/page", view_func=page)
    client = browser(host)
    for answer in (
        client.get(f"/page?ref={code}"),
        client.get(f"/page?ref={code}"),
        client.get(f"/page?ref={code}", headers={"User-Agent": CRAWLER}),
    ):
        [value] = answer.headers.getlist(name)
        assert value == "0" or ("no-store" in value and "600" not in value)
        assert "!no-store" not in value
        assert "Cookie" in answer.vary
    assert client.get("/page").headers.getlist(name) == [CDN_HEADERS[name]] * 2


def test_a_page_without_such_headers_gets_none(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    host.app.add_url_rule("/page", view_func=lambda: "page")
    answer = browser(host).get(f"/page?ref={code}")
    assert not {name.lower() for name in CDN_HEADERS} & {name.lower() for name, _ in answer.headers}
