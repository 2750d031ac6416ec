"""``GET /r/<code>``: the redirect is always the same; a visit leaves one row and a cookie."""

from __future__ import annotations

import importlib.metadata
import logging
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies as st
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_referral import ConfigurationError

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import Clock
from ..visiting import CRAWLER
from ..visiting import make_code
from ..visiting import set_cookie

UNKNOWN = "ZZZZZZZZ"


@pytest.mark.parametrize("key", KEYS)
def test_visit(make: MakeHost, clock: Clock, key: str) -> None:
    host = make(key=key, REFERRAL_LANDING_URL="/welcome")
    referrer, code = add_referrer(host)
    answer = browser(host).get(f"/r/{code}", headers={"Referer": "https://blog.example/post?q=1"})
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/welcome"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    assert answer.headers["X-Robots-Tag"] == "noindex"
    assert "Cookie" in answer.vary
    assert set_cookie(answer) is not None
    [row] = clicks(host)
    assert (row.referral_code, row.referrer_user_id, row.referred_user_id) == (code, referrer, None)
    assert row.clicked_at.replace(tzinfo=clock.time.tzinfo) == clock.time
    assert row.referrer_url == "https://blog.example/post"
    assert "Firefox" in row.user_agent
    assert row.ip_hash is None


def test_unknown_code_looks_the_same(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    known = browser(host).get(f"/r/{code}?utm_source=x")
    unknown = browser(host).get(f"/r/{UNKNOWN}?utm_source=x")
    no_code = browser(host).get("/r/no-code-at-all?utm_source=x")
    assert set_cookie(unknown) is set_cookie(no_code) is None
    del known.headers["Set-Cookie"]
    assert known.status == unknown.status == no_code.status
    assert known.data == unknown.data == no_code.data
    assert list(known.headers) == list(unknown.headers) == list(no_code.headers)
    assert len(clicks(host)) == 1


MANGLED = [
    "{}",
    "{}/",
    "{}.",
    "{})",
    " {} ",
    "{}&utm_source=x",
    "{}%3Futm_source=x",
    "{}%E3%80%82",
    "{}%EF%BC%89",
    "{}%E2%80%9D",
    "{}%E2%80%A6",
    "{}%E2%80%8B",
    "%E2%80%8F{}",
    "%EF%BB%BF{}",
    "%F0%9F%8E%81%20{}",
    "{}%0A",
]


@pytest.mark.parametrize("form", MANGLED)
@pytest.mark.parametrize("entrance", ["/r/{}", "/page?ref={}", "/page?utm_source=x&amp;ref={}"])
def test_mangled_links(make_sqlite: MakeHost, entrance: str, form: str) -> None:
    host = make_sqlite()
    host.app.add_url_rule("/page", view_func=lambda: "page")
    _, code = add_referrer(host)
    for text in (code.lower(), f"{code[:4]}-{code[4:]}"):
        answer = browser(host).get(entrance.format(form.format(text)))
        assert set_cookie(answer) is not None
    assert len(clicks(host)) == 1
    # The check of sign-up forms reads it alike.
    checked = host.client().get(f"/api/referral/codes/{form.format(code)}")
    assert checked.get_json() == {"code": code, "valid": True}


@pytest.mark.parametrize(
    "query", ["ref=producthunt&ref={}", "ref={}&ref=" + UNKNOWN, "a=b?ref={}", "ref={}?a=b"]
)
def test_of_several_values_the_first_code_counts(make_sqlite: MakeHost, query: str) -> None:
    host = make_sqlite()
    host.app.add_url_rule("/page", view_func=lambda: "page")
    _, code = add_referrer(host)
    assert set_cookie(browser(host).get(f"/page?{query.format(code)}")) is not None
    assert [row.referral_code for row in clicks(host)] == [code]


def test_a_pasted_link_can_be_checked(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    for link in (f"https%3A%2F%2Fx.example%2Fr%2F{code}", f"x.example%2F%3Fref={code}"):
        answer = host.client().get(f"/api/referral/codes/{link}", follow_redirects=True)
        assert answer.get_json() == {"code": code, "valid": True}


def test_one_row_per_visitor_code_and_window(make: MakeHost, clock: Clock) -> None:
    host = make()
    _, code = add_referrer(host)
    _, other = add_referrer(host)

    def visit(code: str = code, address: str = "192.0.2.1", agent: str = "A") -> None:
        headers = {"User-Agent": agent}
        answer = host.client().get(
            f"/r/{code}", headers=headers, environ_base={"REMOTE_ADDR": address}
        )
        # Also a repetition without a cookie is answered with one.
        assert set_cookie(answer) is not None

    for _ in range(3):
        visit()
    assert len(clicks(host)) == 1
    visit(address="192.0.2.2")
    visit(agent="B")
    visit(code=other)
    assert len(clicks(host)) == 4
    clock.turn(days=1)
    visit()
    visit()
    assert len(clicks(host)) == 5


def test_statement_budget(make: MakeHost, clock: Clock) -> None:
    host = make()
    _, code = add_referrer(host)
    client = browser(host)
    with host.statements() as first:
        client.get(f"/r/{code}")
    assert len(first) == 1
    with host.statements() as again:
        answer = client.get(f"/r/{code}")
    assert again == []
    assert set_cookie(answer) is None
    # A phone that changes its network is still the same visitor.
    with host.statements() as elsewhere:
        client.get(f"/r/{code}", environ_base={"REMOTE_ADDR": "198.51.100.7"})
    assert elsewhere == []
    clock.turn(days=1)
    with host.statements() as tomorrow:
        client.get(f"/r/{code}")
    assert len(tomorrow) == 1
    assert len(clicks(host)) == 2


NO_VISITS: dict[str, dict[str, str]] = {
    "prefetch": {"Sec-Purpose": "prefetch"},
    "prerender": {"Sec-Purpose": "prefetch;prerender"},
    "old Chrome": {"Purpose": "prefetch"},
    "old Safari": {"X-Purpose": "preview"},
    "old Firefox": {"X-Moz": "prefetch"},
    "image": {"Sec-Fetch-Dest": "image"},
    "frame": {"Sec-Fetch-Dest": "iframe"},
    "fetch": {"Sec-Fetch-Dest": "empty"},
    "fetch, newer": {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors"},
    "image, newer": {"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"},
    "frame, newer": {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Mode": "navigate"},
    "crawler": {"User-Agent": CRAWLER},
    "preview": {"User-Agent": "WhatsApp/2.23.20.0 A"},
}


@pytest.mark.parametrize("headers", NO_VISITS.values(), ids=NO_VISITS)
def test_what_is_no_visit(make_sqlite: MakeHost, headers: dict[str, str]) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    answer = browser(host).get(f"/r/{code}", headers=headers)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert set_cookie(answer) is None
    assert clicks(host) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-User": "?1"},
        # A service worker that passes the request on.
        {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_a_page_that_was_navigated_to_is_a_visit(
    make_sqlite: MakeHost, headers: dict[str, str]
) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    browser(host).get(f"/r/{code}", headers=headers)
    assert len(clicks(host)) == 1


class TestWhyNot:
    """A visit that is not counted says why, at debug level."""

    @pytest.fixture
    def host(self, make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture) -> Host:
        host = make_sqlite()
        caplog.set_level(logging.DEBUG)
        host.app.add_url_rule("/page", view_func=lambda: "page", methods=["GET", "POST"])
        host.app.add_url_rule("/broken", "broken", view_func=lambda: ("broken", 500))
        return host

    @pytest.mark.parametrize(
        ("headers", "words"),
        [
            ({"Sec-Purpose": "prefetch"}, "ahead of time"),
            ({"User-Agent": CRAWLER}, "program"),
            ({"Sec-Fetch-Dest": "image"}, "Sec-Fetch-Dest"),
        ],
    )
    @pytest.mark.parametrize("entrance", ["/r/{}", "/page?ref={}"])
    def test_headers(
        self,
        host: Host,
        caplog: pytest.LogCaptureFixture,
        entrance: str,
        headers: dict[str, str],
        words: str,
    ) -> None:
        _, code = add_referrer(host)
        browser(host).get(entrance.format(code), headers=headers)
        [record] = caplog.records
        assert record.levelname == "DEBUG"
        assert words in record.message and code in record.message

    def test_everything_else(self, host: Host, caplog: pytest.LogCaptureFixture) -> None:
        referrer, code = add_referrer(host)
        client = browser(host)
        client.get(f"/r/{code}")
        assert caplog.records == []

        def why(url: str, method: str = "GET", visitor: t.Any = client) -> str:
            caplog.clear()
            visitor.open(url, method=method)
            [record] = caplog.records
            return str(record.message)

        assert "before" in why(f"/r/{code}")
        assert "before" in why(f"/r/{code}", visitor=browser(host))
        assert "no code" in why("/r/producthunt")
        assert "no code" in why("/page?ref=producthunt")
        assert "nobody's" in why(f"/r/{UNKNOWN}")
        assert "GET" in why(f"/page?ref={code}", "POST")
        assert "GET" in why(f"/r/{code}", "HEAD")
        assert "500" in why(f"/broken?ref={code}")
        assert "404" in why(f"/static/style.css?ref={code}")
        assert "route" in why(f"/api/referral/codes/{code}?ref={code}")
        host.referral.consent_loader(lambda: False)
        assert "agreed" in why(f"/r/{code}")
        host.referral.consent_loader(lambda: True)
        host.current_user = referrer
        assert "own" in why(f"/r/{code}", visitor=browser(host))

    def test_what_is_no_text_for_a_log(self, host: Host, caplog: pytest.LogCaptureFixture) -> None:
        browser(host).get("/page?ref=a%0Ab" + "c" * 5000)
        [record] = caplog.records
        assert record.message.isprintable()
        assert len(record.message) < 200


def test_head_is_no_visit(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    answer = browser(host).head(f"/r/{code}")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert set_cookie(answer) is None
    assert clicks(host) == []


def test_bot_detector(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    asked: list[str] = []

    @host.referral.bot_detector
    def is_ours(user_agent: str) -> bool:
        asked.append(user_agent)
        return user_agent == "Our monitor"

    host.client().get(f"/r/{code}", headers={"User-Agent": "Our monitor"})
    assert clicks(host) == []
    host.client().get(f"/r/{code}", headers={"User-Agent": CRAWLER})
    assert len(clicks(host)) == 1
    assert asked == ["Our monitor", CRAWLER]


def test_consent(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    agreed: list[bool] = [False, True]
    host.referral.consent_loader(lambda: agreed.pop(0))
    client = browser(host)
    refused = client.get(f"/r/{code}")
    assert refused.status_code == 302
    assert set_cookie(refused) is None
    assert clicks(host) == []
    assert set_cookie(client.get(f"/r/{code}")) is not None
    assert len(clicks(host)) == 1


def test_own_visit(make: MakeHost) -> None:
    host = make()
    referrer, code = add_referrer(host)
    host.current_user = referrer
    answer = browser(host).get(f"/r/{code}")
    assert answer.status_code == 302
    assert set_cookie(answer) is None
    assert clicks(host) == []
    # Not by the back door of a row that was made before the log-in, either.
    host.current_user = None
    browser(host).get(f"/r/{code}")
    host.current_user = referrer
    assert set_cookie(browser(host).get(f"/r/{code}")) is None
    host.current_user = host.add_user()
    assert set_cookie(browser(host).get(f"/r/{code}")) is not None
    assert len(clicks(host)) == 1


def test_host_without_identity(make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    host.referral._loaders.identity = None
    assert set_cookie(browser(host).get(f"/r/{code}")) is not None
    assert len(clicks(host)) == 1
    assert caplog.records == []


def test_broken_identity(make: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    host = make()
    _, code = add_referrer(host)

    @host.referral.identity_loader
    def broken() -> t.Any:
        return host.db.session.execute(sa.text("SELECT no_such_column FROM users"))

    assert set_cookie(browser(host).get(f"/r/{code}")) is not None
    assert len(clicks(host)) == 1
    assert "identity" in caplog.text


@pytest.mark.parametrize("hook", ["consent_loader", "bot_detector"])
def test_broken_hook(make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture, hook: str) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)

    def broken(*args: t.Any) -> bool:
        raise LookupError("broken hook")

    getattr(host.referral, hook)(broken)
    answer = browser(host).get(f"/r/{code}")
    assert answer.status_code == 302
    assert set_cookie(answer) is None
    assert clicks(host) == []
    assert "broken hook" in caplog.text


def test_failing_database(make: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    host = make()
    _, code = add_referrer(host)
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE referral_clicks RENAME TO away")
    with caplog.at_level(logging.ERROR):
        answer = browser(host).get(f"/r/{code}")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert set_cookie(answer) is None
    assert code in caplog.text


def test_unreachable_database(host_on: t.Callable[..., Host]) -> None:
    host = host_on("postgresql+psycopg2://nobody@127.0.0.1:1/none", migrate=False)
    answer = browser(host).get(f"/r/{UNKNOWN}")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")


def test_missing_secret_key(make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    host.app.secret_key = None
    answer = browser(host).get(f"/r/{code}")
    assert answer.status_code == 302
    assert clicks(host) == []
    assert "SECRET_KEY" in caplog.text


@pytest.mark.parametrize(
    ("landing", "query", "location"),
    [
        ("/", "", "/"),
        ("/", "utm_source=a&utm_medium=b", "/?utm_source=a&utm_medium=b"),
        ("/w?plan=pro", "utm_source=a", "/w?plan=pro&utm_source=a"),
        ("/w?plan=pro#top", "plan=free&x=1", "/w?plan=pro&x=1#top"),
        ("https://shop.example/w", "x=1&x=2", "https://shop.example/w?x=1&x=2"),
        ("/", "ref=ABCDEFGH&x=1", "/?x=1"),
        ("/", "x=%0d%0aSet-Cookie:a", "/?x=%0D%0ASet-Cookie%3Aa"),
        ("/", "next=//evil.example", "/?next=%2F%2Fevil.example"),
        ("/", "x=" + "y" * 100_000, "/"),
        ("/", "utm_source=a&amp;utm_medium=b&amp;ref=ABCDEFGH", "/?utm_source=a&utm_medium=b"),
    ],
)
def test_landing_page(make_sqlite: MakeHost, landing: str, query: str, location: str) -> None:
    host = make_sqlite(REFERRAL_LANDING_URL=landing)
    _, code = add_referrer(host)
    assert browser(host).get(f"/r/{code}?{query}").headers["Location"] == location


hostile = st.one_of(
    st.text(min_size=1, max_size=60),
    st.sampled_from(
        [
            "\0",
            "K7M2PQ9\0",
            "\u202eK7M2PQ9X",
            "\uff2b\uff17\uff2d\uff12\uff30\uff31\uff19\uff38",
            "//evil.example",
            "/evil.example/..",
            "\\\\evil.example",
            "\tevil",
            "%0d%0aLocation: //evil.example",
            "\r\nSet-Cookie: a=b",
            "K" * 100_000,
            "' OR 1=1 --",
            "..",
            "\U0001f600" * 8,
        ]
    ),
)


@pytest.fixture
def quiet_host(make_sqlite: MakeHost) -> Host:
    host = make_sqlite(REFERRAL_LANDING_URL="/welcome")
    add_referrer(host)
    host.app.add_url_rule("/page", view_func=lambda: "page")
    return host


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(code=hostile, header=hostile)
def test_hostile_requests(quiet_host: Host, code: str, header: str) -> None:
    # A lone surrogate or a line break cannot be sent in a header; bytes as latin-1 can.
    text = header.encode(errors="surrogatepass").decode("latin-1").replace("\r", "")
    environ = {
        "HTTP_USER_AGENT": text,
        "HTTP_REFERER": text,
        "HTTP_COOKIE": f"virtuna_referral={text}",
        "REMOTE_ADDR": text,
        "HTTP_SEC_FETCH_DEST": "document",
    }
    client = quiet_host.client()
    raw = code.encode(errors="surrogatepass")
    path = "/r/" + raw.decode("latin-1")
    answer = client.get("/r/x", environ_overrides={**environ, "PATH_INFO": path})
    assert answer.status_code in (302, 308, 404)
    if answer.status_code != 404:
        location = answer.headers["Location"]
        own = ("/welcome", "http://localhost/")
        assert location.startswith(own), location
    assert set_cookie(answer) is None
    page = client.get("/page", query_string={"ref": raw}, environ_overrides=environ)
    assert (page.status_code, page.data) == (200, b"page")
    assert set_cookie(page) is None
    assert client.get("/page?ref=%ED%A0%80%00").status_code == 200
    assert clicks(quiet_host) == []


def test_hostile_headers_of_a_real_visit(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    client = host.client()
    nasty = "a\0b\u202e\udc80\x1b[0m\t" + "x" * 100_000
    environ = {"HTTP_USER_AGENT": nasty, "HTTP_REFERER": f"https://e.example/{nasty}"}
    answer = client.get(f"/r/{code}", environ_overrides=environ)
    assert set_cookie(answer) is not None
    [row] = clicks(host)
    assert row.user_agent.isprintable()
    assert row.user_agent.startswith("ab")
    assert len(row.user_agent) <= 256
    assert row.referrer_url.isprintable()
    assert len(row.referrer_url) <= 512


def test_register_blueprint_false(make_sqlite: MakeHost) -> None:
    host = make_sqlite(register_blueprint=False, REFERRAL_BASE_URL="https://x.example")
    _, code = add_referrer(host)
    assert host.client().get(f"/r/{code}").status_code == 404
    host.app._got_first_request = False
    host.app.register_blueprint(host.referral.links, url_prefix="/join")
    assert set_cookie(browser(host).get(f"/join/{code}")) is not None
    with host.app.app_context():
        assert host.referral.link_for(1) == f"https://x.example/join/{code}"


class TestLinkFor:
    def test_base_url(self, make: MakeHost) -> None:
        host = make(REFERRAL_BASE_URL="https://virtuna.example/app/", REFERRAL_LINK_PREFIX="/go")
        user = host.add_user()
        with host.app.app_context():
            link = host.referral.link_for(user)
            host.db.session.rollback()
            assert link.startswith("https://virtuna.example/app/go/")
            # Flushed and not committed.
            assert make_code(host, user) not in link

    def test_server_name(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(SERVER_NAME="virtuna.example", PREFERRED_URL_SCHEME="https")
        user, code = add_referrer(host)
        with host.app.app_context():
            assert host.referral.link_for(user) == f"https://virtuna.example/r/{code}"

    def test_trusted_host(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(TRUSTED_HOSTS=["virtuna.example"])
        user, code = add_referrer(host)
        with host.app.test_request_context(base_url="https://virtuna.example/app"):
            if importlib.metadata.version("flask") < "3.1":
                # Flask does not know the setting, so nobody checks the header.
                with pytest.raises(ConfigurationError, match=r"Flask 3\.1"):
                    host.referral.link_for(user)
            else:
                assert host.referral.link_for(user) == f"https://virtuna.example/app/r/{code}"

    @pytest.mark.parametrize("host_header", ["evil.example", "virtuna.example", "localhost.evil"])
    def test_any_other_host(self, make_sqlite: MakeHost, host_header: str) -> None:
        host = make_sqlite()
        user = host.add_user()
        with (
            host.app.test_request_context(base_url=f"http://{host_header}/"),
            pytest.raises(ConfigurationError, match="REFERRAL_BASE_URL"),
            host.statements() as sent,
        ):
            host.referral.link_for(user)
        assert sent == []

    def test_outside_a_request(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        user = host.add_user()
        with host.app.app_context(), pytest.raises(ConfigurationError, match="REFERRAL_BASE_URL"):
            host.referral.link_for(user)

    @pytest.mark.parametrize("address", ["localhost:5000", "127.0.0.1", "[::1]:80"])
    def test_this_machine_while_testing(self, make_sqlite: MakeHost, address: str) -> None:
        host = make_sqlite()
        user, code = add_referrer(host)
        with host.app.test_request_context(base_url=f"http://{address}/"):
            link = host.referral.link_for(user)
            assert link.endswith(f"/r/{code}")
            assert browser(host).get(link).status_code == 302
        host.app.config["TESTING"] = False
        with (
            host.app.test_request_context(base_url=f"http://{address}/"),
            pytest.raises(ConfigurationError),
        ):
            host.referral.link_for(user)


class TestMountedBelowAPath:
    """A host that is not at the root of its site."""

    def mounted(self, host: Host) -> Client:
        return Client(DispatcherMiddleware(NotFound(), {"/shop": host.app}))

    @pytest.mark.parametrize(
        ("landing", "query", "location"),
        [
            ("/", "", "/shop/"),
            ("/welcome", "?utm_source=a", "/shop/welcome?utm_source=a"),
            ("https://www.example/w", "", "https://www.example/w"),
        ],
    )
    def test_a_link_leads_below_it(
        self, make_sqlite: MakeHost, landing: str, query: str, location: str
    ) -> None:
        host = make_sqlite(REFERRAL_LANDING_URL=landing)
        _, code = add_referrer(host)
        answer = self.mounted(host).get(f"/shop/r/{code}{query}")
        assert (answer.status_code, answer.headers["Location"]) == (302, location)
        assert len(clicks(host)) == 1

    @pytest.mark.parametrize(
        ("config", "site"),
        [({"SERVER_NAME": "virtuna.example"}, "http://virtuna.example"), ({}, "http://localhost")],
    )
    def test_share_links_are_below_it(
        self, make_sqlite: MakeHost, config: dict[str, t.Any], site: str
    ) -> None:
        host = make_sqlite(**config)
        host.current_user, code = add_referrer(host)
        answer = self.mounted(host).get("/shop/api/referral/stats", site)
        assert answer.json is not None
        assert answer.json["link"] == f"{site}/shop/r/{code}"

    def test_a_path_that_only_flask_knows(self, make_sqlite: MakeHost) -> None:
        # A proxy has cut it off.
        host = make_sqlite(
            APPLICATION_ROOT="/shop", SERVER_NAME="virtuna.example", REFERRAL_LANDING_URL="/welcome"
        )
        referrer, code = add_referrer(host)
        answer = Client(host.app).get(f"/r/{code}", "http://virtuna.example")
        assert answer.headers["Location"] == "/shop/welcome"
        with host.app.app_context():
            assert host.referral.link_for(referrer) == f"http://virtuna.example/shop/r/{code}"

    def test_a_script_name_is_no_other_site(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        answer = browser(host).get(f"/r/{UNKNOWN}", environ_overrides={"SCRIPT_NAME": "//evil.x"})
        assert answer.headers["Location"] == "/evil.x/"

    def test_our_routes_are_no_visits(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        _, code = add_referrer(host)
        self.mounted(host).get(f"/shop/api/referral/codes/{code}?ref={code}")
        assert clicks(host) == []


def test_our_routes_are_no_visits_wherever_they_are(make_sqlite: MakeHost) -> None:
    host = make_sqlite(register_blueprint=False)
    host.app.register_blueprint(host.referral.blueprint, url_prefix="/my/api")
    host.app.register_blueprint(host.referral.links, url_prefix="/join")
    host.app.add_url_rule("/api/referral/page", view_func=lambda: "page")
    _, code = add_referrer(host)
    browser(host).get(f"/my/api/codes/{code}?ref={code}")
    assert clicks(host) == []
    browser(host).get(f"/api/referral/page?ref={code}")
    assert len(clicks(host)) == 1


class TestCodeCheck:
    URL = "/api/referral/codes/"

    def test_valid(self, make: MakeHost) -> None:
        host = make()
        _, code = add_referrer(host)
        with host.statements() as sent:
            answer = host.client().get(self.URL + f"{code[:4]}-{code[4:].lower()}")
        assert answer.status_code == 200
        assert answer.get_json() == {"code": code, "valid": True}
        assert len(sent) == 1

    @pytest.mark.parametrize(
        ("text", "shown"),
        [(UNKNOWN, UNKNOWN), ("nonsense!", "nonsense!"), ("%00%0d%0a", ""), ("x" * 999, "x" * 64)],
    )
    def test_not_valid(self, make_sqlite: MakeHost, text: str, shown: str) -> None:
        answer = make_sqlite().client().get(self.URL + text)
        assert answer.status_code == 200
        assert answer.get_json() == {"code": shown, "valid": False}


def test_two_applications_with_links(make_sqlite: MakeHost) -> None:
    # Without the extension the blueprint's hook has nothing to say.
    host = make_sqlite()
    other = Flask("other")
    other.register_blueprint(host.referral.links, url_prefix="/r")
    other.add_url_rule("/page", view_func=lambda: "page")
    assert other.test_client().get("/page?ref=ABCDEFGH").data == b"page"
