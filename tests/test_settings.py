"""Settings: read once, strict, and silent about secrets."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from flask import Flask

from flask_referral import ConfigurationError
from flask_referral.settings import Settings

from .conftest import MakeHost

DEFAULTS = {
    "REFERRAL_URL_PREFIX": "/api/referral",
    "REFERRAL_LINK_PREFIX": "/r",
    "REFERRAL_PAGE_PREFIX": "/referral",
    "REFERRAL_BASE_URL": None,
    "REFERRAL_LANDING_URL": "/",
    "REFERRAL_QUERY_PARAM": "ref",
    "REFERRAL_COOKIE_NAME": "virtuna_referral",
    "REFERRAL_COOKIE_MAX_AGE": 30 * 24 * 3600,
    "REFERRAL_COOKIE_DOMAIN": None,
    "REFERRAL_COOKIE_SECURE": True,
    "REFERRAL_COOKIE_SAMESITE": "Lax",
    "REFERRAL_TOUCH": "last",
    "REFERRAL_BONUS_CENTS": 1000,
    "REFERRAL_HOLD_DAYS": 0,
    "REFERRAL_DEDUPE_SECONDS": 24 * 3600,
    "REFERRAL_CLICKS_PER_ADDRESS": 64,
    "REFERRAL_LOCK_TIMEOUT_MS": 250,
    "REFERRAL_AUTO_ATTRIBUTE": False,
    "REFERRAL_USER_CREATED_COLUMN": "created_at",
    "REFERRAL_BASE_TEMPLATE": "referral/base.html",
    "REFERRAL_LEADERBOARD": False,
    "REFERRAL_VANITY_CODES": False,
    "REFERRAL_RESERVED_CODES": (),
    "REFERRAL_VELOCITY_LIMIT": None,
    "REFERRAL_IP_KEY": None,
    "REFERRAL_RLS_ROLE": None,
    "REFERRAL_WHOP_WEBHOOK_SECRET": (),
    "REFERRAL_WHOP_COMPANY_ID": (),
    "REFERRAL_STRIPE_WEBHOOK_SECRET": (),
    "REFERRAL_CURRENCY": "usd",
    "REFERRAL_RENEWALS": 0,
    "REFERRAL_MIN_PAYMENT_CENTS": 1,
    "REFERRAL_NET_SHORTFALL": True,
    "REFERRAL_CLICK_DURABILITY": "full",
    "REFERRAL_READ_BIND": None,
    "REFERRAL_TRUSTED_ORIGINS": (),
    "REFERRAL_OUTBOX": False,
    "REFERRAL_WEBHOOK_URLS": (),
    "REFERRAL_WEBHOOK_SECRET": (),
}

#: The value as it is written, and as it is read.
GOOD: dict[str, list[tuple[t.Any, t.Any]]] = {
    "REFERRAL_URL_PREFIX": [("/a", "/a"), ("/v1/refer-a.friend", "/v1/refer-a.friend")],
    "REFERRAL_LINK_PREFIX": [("/go", "/go")],
    "REFERRAL_PAGE_PREFIX": [("/invite", "/invite")],
    "REFERRAL_BASE_URL": [
        (None, None),
        ("https://example.com", "https://example.com"),
        ("http://localhost:5000/app/", "http://localhost:5000/app"),
    ],
    "REFERRAL_LANDING_URL": [("/welcome?x=1#y", "/welcome?x=1#y"), ("https://a.b/c", None)],
    "REFERRAL_QUERY_PARAM": [("via", "via")],
    "REFERRAL_COOKIE_NAME": [("__Host-r", "__Host-r")],
    "REFERRAL_COOKIE_MAX_AGE": [(1, 1), (2**31 - 1, 2**31 - 1)],
    "REFERRAL_COOKIE_DOMAIN": [(None, None), (".example.com", ".example.com")],
    "REFERRAL_COOKIE_SECURE": [(None, True), (True, True), (False, False)],
    "REFERRAL_COOKIE_SAMESITE": [("Strict", "Strict"), ("None", "None"), (None, None)],
    "REFERRAL_TOUCH": [("first", "first")],
    "REFERRAL_BONUS_CENTS": [(0, 0), (2**31 - 1, 2**31 - 1)],
    "REFERRAL_HOLD_DAYS": [(14, 14)],
    "REFERRAL_DEDUPE_SECONDS": [(1, 1)],
    "REFERRAL_CLICKS_PER_ADDRESS": [(1, 1), (2**31 - 1, 2**31 - 1)],
    "REFERRAL_LOCK_TIMEOUT_MS": [(1, 1), (60_000, 60_000)],
    "REFERRAL_AUTO_ATTRIBUTE": [(True, True)],
    "REFERRAL_USER_CREATED_COLUMN": [(None, None), ("joined on", "joined on")],
    "REFERRAL_BASE_TEMPLATE": [("layout.html", "layout.html")],
    "REFERRAL_LEADERBOARD": [(True, True)],
    "REFERRAL_VANITY_CODES": [(True, True)],
    "REFERRAL_RESERVED_CODES": [(["lark-mail", "ADA"], ("LARKMAIL", "ADA")), ("ada", ("ADA",))],
    "REFERRAL_VELOCITY_LIMIT": [(None, None), (0, 0), (25, 25)],
    "REFERRAL_IP_KEY": [(None, None), ("schlüssel", "schlüssel".encode()), (b"\0\xff", b"\0\xff")],
    "REFERRAL_RLS_ROLE": [(None, None), ("app user", "app user")],
    "REFERRAL_WHOP_WEBHOOK_SECRET": [
        (None, ()),
        (" ws_one\n", (b"ws_one",)),
        (["ws_new", "ws_old"], (b"ws_new", b"ws_old")),
        ("whsec_d2hhdA==\n", (b"what",)),
    ],
    "REFERRAL_CURRENCY": [("EUR", "eur"), ("jpy", "jpy")],
    "REFERRAL_RENEWALS": [(None, None), (0, 0), (12, 12)],
    "REFERRAL_MIN_PAYMENT_CENTS": [(0, 0), (500, 500)],
    "REFERRAL_NET_SHORTFALL": [(False, False)],
    "REFERRAL_CLICK_DURABILITY": [("full", "full"), ("async", "async")],
    "REFERRAL_READ_BIND": [(None, None), ("replica", "replica")],
    "REFERRAL_STRIPE_WEBHOOK_SECRET": [
        ("whsec_1", (b"whsec_1",)),
        (["whsec_1", " whsec_2\n"], (b"whsec_1", b"whsec_2")),
        (None, ()),
    ],
    "REFERRAL_TRUSTED_ORIGINS": [
        ([], ()),
        ("https://app.example.com", ("https://app.example.com",)),
        (
            ["HTTPS://App.Example.com:443", "http://localhost:5173", "http://[::1]:80"],
            ("https://app.example.com", "http://localhost:5173", "http://[::1]"),
        ),
    ],
    "REFERRAL_OUTBOX": [(True, True)],
    # With any of its own it needs the other two.
    "REFERRAL_WEBHOOK_URLS": [((), ()), (None, ()), ([], ())],
    "REFERRAL_WEBHOOK_SECRET": [("whsec_d2hhdA==", (b"what",)), (None, ())],
    "REFERRAL_WHOP_COMPANY_ID": [("biz_1", ("biz_1",)), (("biz_1", "biz_2"), ("biz_1", "biz_2"))],
}

NO_PATH = ["", "/", "api", "/api/", "//api", "/a//b", "/a b", "/a/../b", "/.", "/<x>", "/é", 1]
NO_WHOLE_NUMBER = [-1, 2**31, True, 1.0, "1", "", [], object()]
NO_TEXT = [1, True, b"x", [], "\0", "\udc80"]

BAD: dict[str, list[t.Any]] = {
    "REFERRAL_URL_PREFIX": [*NO_PATH, None],
    "REFERRAL_LINK_PREFIX": [*NO_PATH, None],
    "REFERRAL_PAGE_PREFIX": [*NO_PATH, None],
    "REFERRAL_BASE_URL": [
        *NO_TEXT,
        "",
        "example.com",
        "//example.com",
        "ftp://example.com",
        "https://",
        "https://example.com/?a=b",
        "https://example.com/?",
        "https://example.com#a",
        "https://user:word@example.com",
        "https://example.com:port",
        "https://example.com:0",
        "https://example.com:99999",
        "https://exa mple.com",
        "https://[::1",
        "https://example.com\n",
    ],
    "REFERRAL_LANDING_URL": [
        *NO_TEXT,
        None,
        "",
        "welcome",
        "//evil.example",
        "/\\evil.example",
        "/\tevil.example",
        "/a\r\nX: y",
        "javascript:alert(1)",
        "https://",
    ],
    "REFERRAL_QUERY_PARAM": [*NO_TEXT, None, "", "a=b", "a&b", "a b", "ref\n"],
    "REFERRAL_COOKIE_NAME": [*NO_TEXT, None, "", "a b", "a;b", "a=b", "é", "name\n"],
    "REFERRAL_COOKIE_MAX_AGE": [*NO_WHOLE_NUMBER, 0, None],
    "REFERRAL_COOKIE_DOMAIN": [*NO_TEXT, "", "a b", "example.com;", "https://example.com"],
    "REFERRAL_COOKIE_SECURE": [0, 1, "true", "", []],
    "REFERRAL_COOKIE_SAMESITE": ["lax", "", False, 0, []],
    "REFERRAL_TOUCH": ["Last", "", None, 1, []],
    "REFERRAL_BONUS_CENTS": [*NO_WHOLE_NUMBER, None],
    "REFERRAL_HOLD_DAYS": [*NO_WHOLE_NUMBER, None, 3651],
    "REFERRAL_DEDUPE_SECONDS": [*NO_WHOLE_NUMBER, 0, None],
    "REFERRAL_CLICKS_PER_ADDRESS": [*NO_WHOLE_NUMBER, 0, None],
    "REFERRAL_LOCK_TIMEOUT_MS": [*NO_WHOLE_NUMBER, 0, 2**31 // 10 + 1, None],
    "REFERRAL_AUTO_ATTRIBUTE": [0, 1, "yes", None],
    "REFERRAL_USER_CREATED_COLUMN": [*NO_TEXT, ""],
    "REFERRAL_BASE_TEMPLATE": ["", None, 1],
    "REFERRAL_LEADERBOARD": [1, "True", None],
    "REFERRAL_VANITY_CODES": [1, "True", None],
    "REFERRAL_RESERVED_CODES": [7, ["a"], ["ädä"], [7]],
    "REFERRAL_VELOCITY_LIMIT": NO_WHOLE_NUMBER,
    "REFERRAL_IP_KEY": [1, True, [], "", b"", "hush-hush\udc80", ["hush-hush"]],
    "REFERRAL_RLS_ROLE": [*NO_TEXT, "", "r" * 64],
    "REFERRAL_WHOP_WEBHOOK_SECRET": [
        *NO_TEXT,
        "",
        " ",
        {"hush-hush": 1},
        ["hush-hush", ""],
        ["hush-hush", None],
        b"hush-hush",
    ],
    "REFERRAL_CURRENCY": [*NO_TEXT, None, "", "us", "usdt", "us$", "usd\n", "€€€"],
    "REFERRAL_RENEWALS": [*NO_WHOLE_NUMBER, "all"],
    "REFERRAL_MIN_PAYMENT_CENTS": [*NO_WHOLE_NUMBER, None],
    "REFERRAL_NET_SHORTFALL": [0, 1, "yes", None],
    "REFERRAL_CLICK_DURABILITY": ["", "off", "Async", None, True, 0, []],
    "REFERRAL_READ_BIND": [*NO_TEXT, "", "replica\n"],
    "REFERRAL_STRIPE_WEBHOOK_SECRET": ["", [], [""], 5, b"whsec_1", "sk_live_1", "v1,whsec_1"],
    "REFERRAL_TRUSTED_ORIGINS": [
        None,
        1,
        "",
        "*",
        "null",
        "example.com",
        "//example.com",
        "ftp://example.com",
        "https://*.example.com",
        "https://example.com/",
        "https://example.com/app",
        "https://example.com?a=b",
        "https://user@example.com",
        "https://example.com:0",
        "https://example.com:99999",
        "https://bücher.example",
        "https://example.com\n",
        ["https://example.com", "*"],
        [None],
    ],
    "REFERRAL_OUTBOX": [0, "yes", None],
    "REFERRAL_WEBHOOK_URLS": [
        "hush-hush",
        "ftp://hush-hush.example",
        ["https://a.example", "hush-hush"],
        "https://hush-hush.example/a b",
        7,
    ],
    "REFERRAL_WEBHOOK_SECRET": ["", "v1,whsec_hush-hush", ["hush-hush", ""], 5],
    "REFERRAL_WHOP_COMPANY_ID": [*NO_TEXT, "", ["biz_1", 2]],
}

SECRETS = (
    "REFERRAL_IP_KEY",
    "REFERRAL_WHOP_WEBHOOK_SECRET",
    "REFERRAL_STRIPE_WEBHOOK_SECRET",
    "REFERRAL_WEBHOOK_URLS",
    "REFERRAL_WEBHOOK_SECRET",
)


def cases(table: dict[str, list[t.Any]]) -> list[tuple[str, t.Any]]:
    return [(key, value) for key, values in table.items() for value in values]


def attribute(key: str) -> str:
    return key.removeprefix("REFERRAL_").lower()


def test_defaults() -> None:
    settings = Settings.from_config({})
    read = {
        f"REFERRAL_{name.upper()}": value for name, value in dataclasses.asdict(settings).items()
    }
    assert read == DEFAULTS


@pytest.mark.parametrize(("key", "pair"), cases(GOOD))
def test_good_value(key: str, pair: tuple[t.Any, t.Any]) -> None:
    written, read = pair
    if key == "REFERRAL_LANDING_URL" and read is None:
        read = written
    assert getattr(Settings.from_config({key: written}), attribute(key)) == read


@pytest.mark.parametrize(("key", "value"), cases(BAD))
def test_bad_value_names_its_key(key: str, value: t.Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_config({key: value})
    message = str(caught.value)
    assert message.startswith(f"{key} takes ")
    assert "hush-hush" not in message
    if key not in SECRETS:
        assert repr(value) in message


def test_each_key_is_tried() -> None:
    assert GOOD.keys() == BAD.keys() == DEFAULTS.keys()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("REFERRAL_BONUS_CENT", "REFERRAL_BONUS_CENTS"),
        ("REFERRAL_COOKIE_MAXAGE", "REFERRAL_COOKIE_MAX_AGE"),
        ("REFERRAL_WHOP_WEBHOOK_SECRETS", "REFERRAL_WHOP_WEBHOOK_SECRET"),
        ("REFERRAL_URLPREFIX", "REFERRAL_URL_PREFIX"),
    ],
)
def test_misspelt_key(wrong: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{wrong} .* did you mean {right}\\?$") as caught:
        Settings.from_config({wrong: "hush-hush"})
    assert "hush-hush" not in str(caught.value)


def test_key_of_nothing_we_know() -> None:
    with pytest.raises(ConfigurationError, match=r"^REFERRAL_XYZZY .* remove it\.$"):
        Settings.from_config({"REFERRAL_XYZZY": 1})


def test_keys_of_others_are_left_alone() -> None:
    Settings.from_config({"REFERRALS": 1, "MY_REFERRAL_CODE": 2, "SECRET_KEY": "x"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("REFERRAL_IP_KEY", "hush-hush"),
        ("REFERRAL_WHOP_WEBHOOK_SECRET", ["ws_hush-hush", "ws_hush-hush-2"]),
        ("REFERRAL_STRIPE_WEBHOOK_SECRET", ["whsec_hush-hush", "whsec_hush-hush-2"]),
    ],
)
def test_secret_is_not_shown(key: str, value: t.Any) -> None:
    settings = Settings.from_config({key: value})
    assert getattr(settings, attribute(key))
    assert "hush-hush" not in repr(settings)
    assert "hush-hush" not in str(settings)


@pytest.mark.parametrize("value", ["v1,whsec_aHVzaGh1c2g=", ["ws_1", " v1,whsec_aHVzaGh1c2g="]])
def test_a_secret_with_a_signatures_version_in_front_is_refused(value: t.Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_config({"REFERRAL_WHOP_WEBHOOK_SECRET": value})
    assert str(caught.value) == (
        "REFERRAL_WHOP_WEBHOOK_SECRET takes the secret alone, without 'v1,' in front, which is the "
        "version of a signature, not the value given."
    )


@pytest.mark.parametrize("around", [" {}", "{}\n", "\t{}\r\n"])
@pytest.mark.parametrize("secret", ["ws_1", "whsec_aHVzaGh1c2g="])
def test_blanks_around_a_secret_are_none_of_it(secret: str, around: str) -> None:
    key = "REFERRAL_WHOP_WEBHOOK_SECRET"
    expected = Settings.from_config({key: secret}).whop_webhook_secret
    for value in (around.format(secret), [around.format(secret)]):
        assert Settings.from_config({key: value}).whop_webhook_secret == expected


def test_what_is_posted_needs_an_outbox_and_a_signature() -> None:
    config: dict[str, t.Any] = {"REFERRAL_WEBHOOK_URLS": "https://a.example/hook"}
    with pytest.raises(ConfigurationError, match="needs REFERRAL_WEBHOOK_SECRET"):
        Settings.from_config(config)
    config["REFERRAL_WEBHOOK_SECRET"] = "whsec_d2hhdA=="
    with pytest.raises(ConfigurationError, match="needs REFERRAL_OUTBOX = True"):
        Settings.from_config(config)
    config["REFERRAL_OUTBOX"] = True
    config["REFERRAL_WEBHOOK_URLS"] = ["https://a.example/hook"] * 2
    settings = Settings.from_config(config)
    assert settings.webhook_urls == ("https://a.example/hook",)
    assert "a.example" not in repr(settings)


def test_cookies_are_secure_outside_debug() -> None:
    assert Settings.from_config({}, debug=False).cookie_secure is True
    assert Settings.from_config({}, debug=True).cookie_secure is False
    assert Settings.from_config({"REFERRAL_COOKIE_SECURE": True}, debug=True).cookie_secure is True


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigurationError, match=r"REFERRAL_LINK_PREFIX.*must differ"):
        Settings.from_config({"REFERRAL_LINK_PREFIX": "/referral"})
    with pytest.raises(ConfigurationError, match="REFERRAL_COOKIE_SECURE = True"):
        Settings.from_config({"REFERRAL_COOKIE_SAMESITE": "None"}, debug=True)


def test_settings_cannot_be_changed() -> None:
    settings = Settings.from_config({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.bonus_cents = 5  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        settings.bonus = 5  # type: ignore[attr-defined]


def test_read_once(make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_BONUS_CENTS=1, REFERRAL_WHOP_COMPANY_ID=["biz_1"])
    with host.app.app_context():
        before = host.referral.settings
        host.app.config["REFERRAL_BONUS_CENTS"] = 2
        host.app.config["REFERRAL_WHOP_COMPANY_ID"].append("biz_2")
        assert host.referral.settings is before
        assert before.bonus_cents == 1
        assert before.whop_company_id == ("biz_1",)


def test_debug_of_the_application_counts(make_sqlite: MakeHost) -> None:
    assert make_sqlite(DEBUG=True).referral.settings.cookie_secure is False


def test_mapping_without_any_application() -> None:
    app = Flask("host")
    app.config["REFERRAL_HOLD_DAYS"] = 14
    assert Settings.from_config(app.config).hold_days == 14
