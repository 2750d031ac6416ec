"""Station 2: who is the same visitor, and what is kept of him."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
import typing as t
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_referral import clicks
from flask_referral.clicks import Visit
from flask_referral.settings import Settings
from flask_referral.web import bots

from .conftest import MakeHost
from .hosts import Host
from .visiting import add_referrer
from .visiting import BROWSER
from .visiting import browser
from .visiting import clicks as rows
from .visiting import Clock
from .visiting import CRAWLER

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
SECRET = b"secret"
DAY = 86_400
VISIT = Visit("K7M2PQ9X", NOON, "192.0.2.1", "Browser")


def derive(seconds: int = DAY, secret: bytes = SECRET, **changes: t.Any) -> uuid.UUID:
    settings = Settings(dedupe_seconds=seconds)
    return clicks.derive_id(dataclasses.replace(VISIT, **changes), secret, settings)


class TestDerivedId:
    def test_same_visitor_in_the_window(self) -> None:
        assert derive() == derive(at=NOON.replace(hour=0)) == derive(at=NOON.replace(hour=23))
        assert derive() == derive(referrer_url="https://e.example/", visitor_id=7)

    @pytest.mark.parametrize(
        "changes",
        [
            {"code": "K7M2PQ9Y"},
            {"address": "192.0.2.2"},
            {"address": None},
            {"user_agent": "Other"},
            {"user_agent": None},
            {"at": NOON + dt.timedelta(hours=12)},
            {"seconds": 3600},
            {"secret": b"another"},
        ],
    )
    def test_everything_else_is_another(self, changes: dict[str, t.Any]) -> None:
        assert derive(**changes) != derive()

    def test_fields_do_not_run_into_each_other(self) -> None:
        assert derive(address="49.50.51.52", user_agent="x") != derive(
            address=None, user_agent="1234x"
        )

    def test_form(self) -> None:
        found = derive()
        assert (found.version, found.variant) == (8, uuid.RFC_4122)
        # The window's beginning in milliseconds comes first, so index inserts stay local.
        midnight = NOON.replace(hour=0)
        assert found.int >> 80 == int(midnight.timestamp() * 1000)
        assert (
            derive(at=NOON - dt.timedelta(days=1)) < found < derive(at=NOON + dt.timedelta(days=1))
        )

    def test_new_id(self) -> None:
        made = {clicks.new_id(NOON) for _ in range(1000)}
        assert len(made) == 1000
        assert {(item.version, item.int >> 80) for item in made} == {
            (7, int(NOON.timestamp() * 1000))
        }


class TestAddress:
    def hash(
        self, address: str | None, key: bytes | None = b"key", at: dt.datetime = NOON
    ) -> t.Any:
        return clicks.hash_address(address, key, at)

    def test_form(self) -> None:
        found = self.hash("192.0.2.1")
        label, _, digest = found.partition(":")
        assert label == "2026-11"
        assert len(bytes.fromhex(digest)) == 16
        assert found == self.hash("192.0.2.1", at=NOON.replace(day=1))

    def test_no_key_no_hash(self) -> None:
        assert self.hash("192.0.2.1", None) is None

    @pytest.mark.parametrize("address", [None, "", "unix:", "192.0.2.1, 10.0.0.1", "\0", "x" * 999])
    def test_what_is_no_address(self, address: str | None) -> None:
        assert self.hash(address) is None

    def test_keys_and_months_differ(self) -> None:
        digests = {
            found.partition(":")[2]
            for found in (
                self.hash("192.0.2.1"),
                self.hash("192.0.2.1", b"another"),
                self.hash("192.0.2.1", at=NOON + dt.timedelta(days=31)),
                self.hash("192.0.2.2"),
            )
        }
        assert len(digests) == 4

    def test_ipv6_counts_by_its_64(self) -> None:
        assert self.hash("2001:db8:1:2::1") == self.hash("2001:db8:1:2:ffff:ffff:ffff:ffff")
        assert self.hash("2001:db8:1:2::1") != self.hash("2001:db8:1:3::1")
        assert self.hash("fe80::1%eth0") == self.hash("fe80::2")

    def test_mapped_ipv4_is_ipv4(self) -> None:
        assert self.hash("::ffff:192.0.2.1") == self.hash("192.0.2.1")

    def test_only_remote_addr_counts(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(REFERRAL_IP_KEY="key")
        _, code = add_referrer(host)
        for forwarded in ("203.0.113.1", "203.0.113.2"):
            browser(host).get(
                f"/r/{code}",
                headers={"X-Forwarded-For": forwarded, "Forwarded": f"for={forwarded}"},
                environ_base={"REMOTE_ADDR": "192.0.2.1"},
            )
        [row] = rows(host)
        assert row.ip_hash == clicks.hash_address("192.0.2.1", b"key", row.clicked_at)
        assert "192.0.2" not in str(row)


class TestCleaning:
    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            (BROWSER, BROWSER),
            ("a\0b\r\nc\x1bd\x7f", "abcd"),
            ("\u202eevil\u200b", "evil"),
            ("\ud800x\udfff", "x"),
            ("  x  ", "x"),
            ("", None),
            (None, None),
            ("\0", None),
            ("é" * 999, "é" * 256),
        ],
    )
    def test_text(self, text: str | None, kept: str | None) -> None:
        assert clicks.clean_text(text, 256) == kept

    @given(st.text())
    def test_any_text_can_be_stored(self, text: str) -> None:
        kept = clicks.clean_text(text, 256) or ""
        assert kept.isprintable() and len(kept) <= 256
        kept.encode()

    @pytest.mark.parametrize(
        ("url", "kept"),
        [
            ("https://blog.example/a/b?token=1#x", "https://blog.example/a/b"),
            ("https://user:pass@blog.example:8443/a", "https://blog.example:8443/a"),
            ("HTTPS://Blog.Example", "https://blog.example"),
            ("http://[2001:db8::1]:80/a", "http://[2001:db8::1]:80/a"),
            ("android-app://com.example.mail/", "android-app://com.example.mail/"),
            ("https://virtuna.example/page", None),
            ("https://virtuna.example:443/page", None),
            ("javascript:alert(1)", None),
            ("file:///etc/passwd", None),
            ("//blog.example/a", None),
            ("http://[::1", None),
            ("http://a:port/", None),
            ("", None),
            (None, None),
            ("https://e.example/\u202e\0a\r\n", "https://e.example/a"),
            ("https://e.example/" + "x" * 999, "https://e.example/" + "x" * 494),
        ],
    )
    def test_referrer(self, url: str | None, kept: str | None) -> None:
        assert clicks.clean_referrer(url, "virtuna.example") == kept

    @given(st.text())
    def test_any_referrer(self, text: str) -> None:
        for url in (text, f"https://{text}", f"https://e.example/{text}"):
            kept = clicks.clean_referrer(url, "virtuna.example")
            assert kept is None or (kept.isprintable() and len(kept) <= 512 and "?" not in kept)


@pytest.mark.parametrize(
    "user_agent",
    [
        CRAWLER,
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        "WhatsApp/2.23.20.0 A",
        "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        "TelegramBot (like TwitterBot)",
        "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
        "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient)",
        "Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)",
        "Mozilla/5.0 (compatible; Baiduspider/2.0)",
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2)",
        "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
    ],
)
def test_bots(user_agent: str) -> None:
    assert bots.is_bot(user_agent)


@pytest.mark.parametrize(
    "user_agent",
    [
        BROWSER,
        "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 Chrome/120.0 Mobile",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) [FBAN/FBIOS;FBAV/440.0]",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Instagram 300.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) [Pinterest/iOS]",
        "curl/8.5.0",
        "",
    ],
)
def test_people(user_agent: str) -> None:
    assert not bots.is_bot(user_agent)


def test_visits_at_once(make: MakeHost, clock: Clock) -> None:
    host = make()
    _, code = add_referrer(host)
    barrier = threading.Barrier(16)
    answers: list[int] = []

    def run(number: int) -> None:
        client = host.client()
        barrier.wait()
        agent = "one visitor" if number % 2 else f"visitor {number}"
        address = {"REMOTE_ADDR": "192.0.2.1" if number % 2 else f"192.0.2.{number}"}
        answer = client.get(f"/r/{code}", headers={"User-Agent": agent}, environ_base=address)
        answers.append(answer.status_code)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [302] * 16
    agents = sorted(row.user_agent for row in rows(host))
    assert agents == sorted(["one visitor", *(f"visitor {number}" for number in range(0, 16, 2))])


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_drivers(host_on: t.Callable[..., Host], postgresql_url: str, driver: str) -> None:
    host = host_on(postgresql_url.replace("psycopg2", driver), REFERRAL_IP_KEY="key")
    referrer, code = add_referrer(host)
    host.current_user = host.add_user()
    browser(host).get(f"/r/{code}", headers={"Referer": "https://e.example/"})
    host.current_user = None
    browser(host).get(f"/r/{code}")
    [row] = rows(host)
    assert row.referrer_user_id == referrer
