"""The visit cookie: signed, opaque, and worth no more than the server says."""

from __future__ import annotations

import datetime as dt
import re
import typing as t
import uuid

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from flask_referral.clicks import Touch
from flask_referral.web import cookies

from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import Clock
from ..visiting import COOKIE
from ..visiting import cookie_value
from ..visiting import set_cookie


def visit(host: Host, code: str, client: FlaskClient | None = None) -> str | None:
    return set_cookie((client or browser(host)).get(f"/r/{code}"))


def attributes(line: str | None) -> dict[str, str]:
    assert line is not None
    parts = [part.strip().partition("=") for part in line.split(";")[1:]]
    return {name: value for name, _, value in parts if name != "Expires"}


class TestAttributes:
    def test_defaults(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        line = visit(host, add_referrer(host)[1])
        assert line is not None and line.startswith("virtuna_referral=")
        assert attributes(line) == {
            "Max-Age": "2592000",
            "Secure": "",
            "HttpOnly": "",
            "Path": "/",
            "SameSite": "Lax",
        }

    def test_settings(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(
            REFERRAL_COOKIE_NAME="came_by",
            REFERRAL_COOKIE_MAX_AGE=3600,
            REFERRAL_COOKIE_DOMAIN="virtuna.example",
            REFERRAL_COOKIE_SECURE=False,
            REFERRAL_COOKIE_SAMESITE="Strict",
        )
        answer = browser(host).get(f"/r/{add_referrer(host)[1]}")
        line = answer.headers["Set-Cookie"]
        assert line.startswith("came_by=")
        assert attributes(line) == {
            "Max-Age": "3600",
            "Domain": "virtuna.example",
            "HttpOnly": "",
            "Path": "/",
            "SameSite": "Strict",
        }

    def test_content_is_opaque(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(REFERRAL_IP_KEY="key")
        _, code = add_referrer(host)
        answer = browser(host).get(f"/r/{code}", environ_base={"REMOTE_ADDR": "192.0.2.33"})
        [row] = clicks(host)
        value = cookie_value(answer)
        assert value.split(".")[:3] == ["1", code, row.id.hex]
        assert len(value) < 128
        assert row.ip_hash.partition(":")[2] not in value

    def test_cookie_ends_with_the_window(self, make_sqlite: MakeHost, clock: Clock) -> None:
        host = make_sqlite()
        _, code = add_referrer(host)
        visit(host, code)
        clock.turn(hours=5)
        # Another browser, same visitor: the click and its time are those of the first.
        assert attributes(visit(host, code))["Max-Age"] == str(2_592_000 - 5 * 3600)


class TestTouch:
    @pytest.fixture
    def codes_of_two(self, make_sqlite: MakeHost) -> t.Callable[..., tuple[Host, str, str]]:
        def build(**config: t.Any) -> tuple[Host, str, str]:
            host = make_sqlite(**config)
            return host, add_referrer(host)[1], add_referrer(host)[1]

        return build

    def remembered(self, client: FlaskClient) -> str:
        cookie = client.get_cookie(COOKIE)
        assert cookie is not None
        return cookie.value.split(".")[1]

    def test_last(self, codes_of_two: t.Callable[..., tuple[Host, str, str]]) -> None:
        host, first, second = codes_of_two()
        client = browser(host)
        for code in (first, second, first):
            client.get(f"/r/{code}")
            assert self.remembered(client) == code
        assert [row.referral_code for row in clicks(host)] == [first, second]

    def test_first(
        self, codes_of_two: t.Callable[..., tuple[Host, str, str]], clock: Clock
    ) -> None:
        host, first, second = codes_of_two(REFERRAL_TOUCH="first")
        client = browser(host)
        client.get(f"/r/{first}")
        client.get(f"/r/{second}")
        assert self.remembered(client) == first
        # The second click is counted all the same.
        assert len(clicks(host)) == 2
        clock.turn(days=31)
        client.get(f"/r/{second}")
        assert self.remembered(client) == second

    def test_first_does_not_keep_what_is_no_visit(
        self, codes_of_two: t.Callable[..., tuple[Host, str, str]]
    ) -> None:
        host, first, _ = codes_of_two(REFERRAL_TOUCH="first")
        client = browser(host)
        client.set_cookie(COOKIE, "1.ABCDEFGH.junk")
        client.get(f"/r/{first}")
        assert self.remembered(client) == first


@pytest.fixture
def app() -> Flask:
    app = Flask("host")
    app.secret_key = "for tests only"
    return app


TOUCH = Touch(uuid.UUID(int=7), "K7M2PQ9X", dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC))


class TestSignature:
    def test_round_trip(self, app: Flask) -> None:
        with app.app_context():
            assert cookies.verify(cookies.sign(TOUCH, cookies.COOKIE), cookies.COOKIE) == TOUCH

    def test_every_changed_character_is_seen(self, app: Flask) -> None:
        with app.app_context():
            signed = cookies.sign(TOUCH, cookies.COOKIE)
            for index, character in enumerate(signed):
                changed = signed[:index] + ("A" if character != "A" else "B") + signed[index + 1 :]
                # The last character of base64 holds two bits that say nothing.
                if index < len(signed) - 1:
                    assert cookies.verify(changed, cookies.COOKIE) is None
            assert cookies.verify(signed[:-1], cookies.COOKIE) is None
            assert cookies.verify(signed + "x", cookies.COOKIE) is None

    def test_purposes_do_not_mix(self, app: Flask) -> None:
        with app.app_context():
            signed = cookies.sign(TOUCH, cookies.COOKIE)
            assert cookies.verify(signed, cookies.CARRIED) is None

    def test_another_key(self, app: Flask) -> None:
        with app.app_context():
            signed = cookies.sign(TOUCH, cookies.COOKIE)
            app.secret_key = "another"
            assert cookies.verify(signed, cookies.COOKIE) is None

    def test_key_rotation(self, app: Flask) -> None:
        with app.app_context():
            old = cookies.sign(TOUCH, cookies.COOKIE)
            app.config["SECRET_KEY_FALLBACKS"] = [app.secret_key]
            app.secret_key = "new"
            assert cookies.verify(old, cookies.COOKIE) == TOUCH
            new = cookies.sign(TOUCH, cookies.COOKIE)
            app.config["SECRET_KEY_FALLBACKS"] = None
            assert cookies.verify(new, cookies.COOKIE) == TOUCH
            assert cookies.verify(old, cookies.COOKIE) is None

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "1.K7M2PQ9X",
            "2.K7M2PQ9X.00000000000000000000000000000007.1",
            "1.k7m2pq9x.00000000000000000000000000000007.1",
            "1.K7M2PQ9X.00000000000000000000000000000007.-1",
            "1.K7M2PQ9X.00000000000000000000000000000007.999999999999",
            "1.K7M2PQ9X.00000000000000000000000000000007.1\n",
            "1.K7M2PQ9X.00000000000000000000000000000007.1.1",
        ],
    )
    def test_strict_form_even_when_signed(self, app: Flask, value: str) -> None:
        with app.app_context():
            signed = cookies._signer(cookies.COOKIE).sign(value).decode()
            assert cookies.verify(signed, cookies.COOKIE) is None

    @given(st.text(max_size=300) | st.from_regex(re.compile(r"1\.[2-9A-Z]{8}\..+\..+")))
    def test_anything_else(self, text: str) -> None:
        app = Flask("host")
        app.secret_key = "for tests only"
        with app.app_context():
            assert cookies.verify(text, cookies.COOKIE) is None

    def test_long_text_is_not_looked_at(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(cookies, "_signer")
        with app.app_context():
            assert cookies.verify("1." * 50_000, cookies.COOKIE) is None


class TestSeveralCookies:
    """Of one name, as when REFERRAL_COOKIE_DOMAIN is set later; browsers send them in any order."""

    def visits(self, host: Host, clock: Clock, days: int = 2) -> list[tuple[str, str]]:
        """Return the codes and cookies of two visits, the older one first."""
        found = []
        for _ in range(2):
            _, code = add_referrer(host)
            found.append((code, cookie_value(browser(host).get(f"/r/{code}"))))
            clock.turn(days=days)
        return found

    def read(self, host: Host, cookies_sent: list[str]) -> str | None:
        header = "; ".join(f"{COOKIE}={value}" for value in cookies_sent)
        with host.app.test_request_context(headers={"Cookie": header}):
            touch = cookies.current_touch(host.referral.settings)
        return touch.code if touch is not None else None

    @pytest.mark.parametrize(("touch", "index"), [("last", 1), ("first", 0)])
    @pytest.mark.parametrize("order", [1, -1])
    def test_order_does_not_matter(
        self, make_sqlite: MakeHost, clock: Clock, touch: str, index: int, order: int
    ) -> None:
        host = make_sqlite(REFERRAL_TOUCH=touch)
        visits = self.visits(host, clock)
        sent = [value for _, value in visits][::order]
        assert self.read(host, sent) == visits[index][0]
        # The sign-up sees the same.
        user = host.add_user()
        headers = {"Cookie": "; ".join(f"{COOKIE}={value}" for value in sent)}
        with host.app.test_request_context(headers=headers):
            assert host.referral.attribute(user).code == visits[index][0]

    @pytest.mark.parametrize("touch", ["last", "first"])
    def test_one_that_is_over_does_not_hide_the_other(
        self, make_sqlite: MakeHost, clock: Clock, touch: str
    ) -> None:
        host = make_sqlite(REFERRAL_TOUCH=touch)
        visits = self.visits(host, clock, days=20)
        sent = [value for _, value in visits]
        assert self.read(host, sent) == self.read(host, sent[::-1]) == visits[1][0]

    def test_one_from_the_future_does_not_hide_the_other(
        self, make_sqlite: MakeHost, clock: Clock
    ) -> None:
        host = make_sqlite()
        visits = self.visits(host, clock, days=20)
        clock.turn(days=-40)
        sent = [value for _, value in visits]
        assert self.read(host, sent) == self.read(host, sent[::-1]) == visits[0][0]

    def test_junk_does_not_hide_it(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        _, code = add_referrer(host)
        value = cookie_value(browser(host).get(f"/r/{code}"))
        junk = ["junk", *(f"{value[:-4]}{number:04}" for number in range(60))]
        assert self.read(host, [*junk, value]) == code


@pytest.mark.parametrize(("age", "counts"), [(0, True), (2_591_999, True), (2_592_000, False)])
def test_window_is_the_servers(make_sqlite: MakeHost, clock: Clock, age: int, counts: bool) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    clock.time = clock.time.replace(microsecond=0)
    value = cookie_value(browser(host).get(f"/r/{code}"))
    clock.turn(seconds=age)
    # The browser was told to drop it; this one did not.
    with host.app.test_request_context(headers={"Cookie": f"{COOKIE}={value}"}):
        assert (cookies.current_touch(host.referral.settings) is not None) is counts
        assert bool(host.referral.carry()) is counts


def test_cookie_from_the_future(make_sqlite: MakeHost, clock: Clock) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    clock.turn(days=400)
    value = cookie_value(browser(host).get(f"/r/{code}"))
    clock.turn(days=-400)
    with host.app.test_request_context(headers={"Cookie": f"{COOKIE}={value}"}):
        assert cookies.current_touch(host.referral.settings) is None
