"""What ``flask referral doctor`` says about the configuration."""

from __future__ import annotations

import json
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_login import LoginManager
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader

from flask_referral import Referral

from ..hosts import Host
from ..hosts import make_host
from .conftest import examine
from .conftest import finding
from .conftest import HEALTHY
from .conftest import ill

Configured = t.Callable[..., Host]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a database for the whole module: nothing here changes it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('doctor') / 'host.db'}"
    host = make_host(url, **HEALTHY)
    host.create_tables()
    host.cli("db", "upgrade")
    host.close()
    return url


@pytest.fixture
def configured(migrated: str, host_on: t.Callable[..., Host]) -> Configured:
    """Return a function that builds a healthy host with other settings."""
    return lambda **config: host_on(migrated, migrate=False, **{**HEALTHY, **config})


def test_healthy(host: Host) -> None:
    assert ill(host) == {}
    assert "Healthy: nothing is wrong." in host.cli("doctor").stdout


def test_warnings_alone_end_with_0(configured: Configured) -> None:
    host = configured(REFERRAL_IP_KEY=None)
    output = host.cli("doctor", status=0).stdout
    assert "Found 1 warning." in output


def test_a_fault_ends_with_1(configured: Configured) -> None:
    host = configured(SECRET_KEY=None, REFERRAL_IP_KEY=None)
    assert "Found 1 fault and 1 warning." in host.cli("doctor", status=1).stdout


def test_accounts_without_a_date_are_a_fault(new_sqlite_url: t.Callable[[], str]) -> None:
    db = SQLAlchemy()
    users = sa.Table("users", db.metadata, sa.Column("id", sa.Integer, primary_key=True))
    app = Flask("host")
    app.config.update(HEALTHY, SQLALCHEMY_DATABASE_URI=new_sqlite_url())
    db.init_app(app)
    Referral(app, db, user_model=users)
    result = app.test_cli_runner().invoke(args=["referral", "doctor", "--json"])
    [found] = [each for each in json.loads(result.stdout) if each["check"] == "account-age"]
    assert (found["level"], result.exit_code) == ("fault", 1)
    assert "'created_at'" in found["message"]
    assert "REFERRAL_USER_CREATED_COLUMN" in found["cure"] and "sa.Column(" in found["cure"]


def test_a_host_that_wants_no_dates_is_warned(configured: Configured) -> None:
    host = configured(REFERRAL_USER_CREATED_COLUMN=None)
    assert "accounts of any age" in finding(host, "account-age", "warning")


def test_nobody_says_who_is_logged_in(configured: Configured) -> None:
    host = configured()
    host.referral._loaders.identity = None
    assert "@referral.identity_loader" in finding(host, "identity", "fault")
    LoginManager(host.app)
    assert ill(host) == {}


SECRET = "SECRET_KEY"
IP_KEY = "REFERRAL_IP_KEY"
BASE_URL = "REFERRAL_BASE_URL"
DOMAIN = "REFERRAL_COOKIE_DOMAIN"
COMPANY = "REFERRAL_WHOP_COMPANY_ID"
WHOP_SECRET = "REFERRAL_WHOP_WEBHOOK_SECRET"


@pytest.mark.parametrize(
    ("config", "check", "level", "words"),
    [
        ({SECRET: None}, "secret-key", "fault", "SECRET_KEY is not set"),
        ({SECRET: "s" * 15, "TESTING": False}, "secret-key", "warning", "15 characters"),
        ({IP_KEY: None}, "ip-key", "warning", "without ip_hash"),
        ({IP_KEY: "k" * 15}, "ip-key", "warning", "15 bytes"),
        ({"REFERRAL_COOKIE_SECURE": False, "TESTING": False}, "cookies", "warning", "plain HTTP"),
        ({BASE_URL: "http://example.com"}, "cookies", "warning", "without HTTPS"),
        ({DOMAIN: "example.org"}, "cookies", "fault", "Browsers refuse"),
        ({DOMAIN: "le.com"}, "cookies", "fault", "Browsers refuse"),
        ({DOMAIN: "www.example.com"}, "cookies", "fault", "Browsers refuse"),
        ({BASE_URL: None}, "share-links", "warning", "REFERRAL_BASE_URL"),
        ({WHOP_SECRET: "ws_1"}, "whop", "warning", "payments of any company"),
        ({COMPANY: "biz_1"}, "whop", "warning", "answers 404"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_setting_is_wrong(
    configured: Configured, config: dict[str, t.Any], check: str, level: str, words: str
) -> None:
    assert words in finding(configured(**config), check, level)


@pytest.mark.parametrize(
    "config",
    [
        {SECRET: "short"},
        {SECRET: b"s" * 16, "TESTING": False},
        {IP_KEY: "k" * 16},
        {"REFERRAL_COOKIE_SECURE": False},
        {BASE_URL: "http://localhost:5000"},
        {DOMAIN: ".example.com"},
        {DOMAIN: "example.com", BASE_URL: "https://www.example.com"},
        {BASE_URL: None, "SERVER_NAME": "example.com"},
        {BASE_URL: None, "TRUSTED_HOSTS": ["example.com"]},
        {WHOP_SECRET: "ws_1", COMPANY: "biz_1"},
    ],
    ids=str,
)
def test_a_setting_is_right(configured: Configured, config: dict[str, t.Any]) -> None:
    assert ill(configured(**config)) == {}


def test_a_debug_session(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    host = configured(TESTING=False)
    assert not host.referral.settings.cookie_secure
    said = {each["check"]: each for each in examine(host)}["cookies"]
    assert said["level"] == "ok"
    assert "debug" in said["message"]
    # The same settings in a process that is not a debug session.
    monkeypatch.delenv("FLASK_DEBUG")
    assert "plain HTTP" in finding(host, "cookies", "warning")


def test_secrets_are_not_shown(configured: Configured) -> None:
    config = {SECRET: "hush1", IP_KEY: "hush2", WHOP_SECRET: "hush3", "TESTING": False}
    host = configured(**config)
    assert set(ill(host)) == {"secret-key", "ip-key", "whop"}
    assert "hush" not in host.cli("doctor").output


@pytest.mark.parametrize(
    ("templates", "told"),
    [
        ({}, "there is no template 'layout.html'"),
        ({"layout.html": '{% extends "gone.html" %}'}, "there is no template 'gone.html'"),
        ({"layout.html": "{% block content %}"}, "cannot be used"),
        ({"layout.html": "<main></main>"}, "no block named 'content'"),
        (
            {
                "layout.html": '{% extends "site.html" %}',
                "site.html": "{% block body %}{% endblock %}",
            },
            "no block named 'content'",
        ),
    ],
)
def test_a_layout_that_cannot_show_the_page(
    configured: Configured, templates: dict[str, str], told: str
) -> None:
    host = configured(REFERRAL_BASE_TEMPLATE="layout.html")
    host.app.jinja_loader = DictLoader(templates)
    assert told in finding(host, "layout", "fault")


def test_a_layout_whose_own_layout_has_the_block(configured: Configured) -> None:
    host = configured(REFERRAL_BASE_TEMPLATE="layout.html")
    site = "<main>{% block content %}{% endblock %}</main>"
    host.app.jinja_loader = DictLoader(
        {"layout.html": '{% extends "site.html" %}', "site.html": site}
    )
    assert ill(host) == {}
