"""The widgets, each alone in a host's own page."""

from __future__ import annotations

import typing as t

import pytest
from flask import render_template_string
from werkzeug.exceptions import Unauthorized

from flask_referral.errors import ConfigurationError

from ..conftest import MakeHost
from ..faces import add_visits
from ..faces import HOSTILE
from ..faces import live
from ..faces import Structure
from ..faces import text_of
from ..hosts import Host
from ..hosts import make_host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import make_code

BASE = {"REFERRAL_BASE_URL": "https://shop.example"}
IMPORTS = (
    '{% import "referral/widgets.html" as referral with context %}',
    '{% import "referral/widgets.html" as referral %}',
)
#: What each shows to who has a past, and how many statements that takes at most.
OWN = {
    "share": ("Copy link", 1),
    "figures": ("Sign-ups 6", 1),
    "chart": ("Day by day", 1),
    "sources": ("newsletter", 1),
    "referrals": ("Nothing bought yet.", 1),
    "wallet": ("Balance $27.00", 1),
    "leaderboard": ("You", 2),
}


def add_page(host: Host, source: str, path: str = "/own") -> None:
    host.app.add_url_rule(path, path, lambda: render_template_string(source))


@pytest.mark.parametrize("imported", IMPORTS)
@pytest.mark.parametrize("widget", OWN)
def test_a_widget_is_one_line_and_reads_only_what_it_shows(
    make_sqlite: MakeHost, widget: str, imported: str
) -> None:
    host = make_sqlite(**BASE)
    add_page(host, imported + "{{ referral." + widget + "() }}")
    host.current_user = host.add_user()
    add_visits(host, host.current_user, 8)
    live(host, host.current_user, 6)
    text, most = OWN[widget]
    with host.statements() as seen:
        shown = host.client().get("/own").text
    assert text in text_of(shown) and len(seen) <= most, seen
    Structure(shown)


@pytest.mark.parametrize("widget", [*OWN, "invited"])
def test_a_visitor_sees_nothing_and_costs_nothing(make_sqlite: MakeHost, widget: str) -> None:
    host = make_sqlite(**BASE)
    add_page(host, IMPORTS[1] + "[{{ referral." + widget + "() }}]")
    with host.statements() as seen:
        assert host.client().get("/own").text == "[]"
    assert seen == []


@pytest.mark.parametrize("widget", ["share", "figures", "chart", "referrals", "wallet"])
def test_a_session_of_a_deleted_account_is_a_visitors(make_sqlite: MakeHost, widget: str) -> None:
    host = make_sqlite(**BASE)
    host.current_user = 4711
    add_page(host, IMPORTS[1] + "[{{ referral." + widget + "() }}]")
    assert host.client().get("/own").text == "[]"


def test_whom_the_hosts_loader_refuses_is_a_visitor(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)

    @host.referral.identity_loader
    def refuse() -> t.Any:
        raise Unauthorized("the token is old")

    add_page(host, IMPORTS[1] + "[{{ referral.share() }}]")
    assert host.client().get("/own").text == "[]"


def test_several_widgets_ask_once(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    host.current_user = host.add_user()
    add_visits(host, host.current_user, 3)
    add_page(
        host, IMPORTS[0] + "{{ referral.share() }}{{ referral.figures() }}{{ referral.chart() }}"
    )
    with host.statements() as seen:
        host.client().get("/own")
    assert len(seen) == 1


def test_two_requests_are_two_users(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    add_page(host, IMPORTS[1] + "{{ referral.share() }}")
    codes = []
    # An application context around both, as tests of hosts have it.
    with host.app.app_context():
        for _ in range(2):
            host.current_user, code = add_referrer(host)
            codes.append(code)
            assert code in host.client().get("/own").text
    assert codes[0] not in host.client().get("/own").text


def test_a_landing_page_says_who_invited(make: MakeHost) -> None:
    host = make(**BASE)
    user, code = add_referrer(host)
    host.referral.display_name_loader(lambda key: "Ada" if key == user else None)
    add_page(host, IMPORTS[1] + "{{ referral.invited('Your first month is free.') }}", "/")
    client = browser(host)
    assert client.get("/").text == ""
    client.get(f"/r/{code}")
    # By the cookie, and in the very request that brings the code.
    for shown in (client.get("/").text, browser(host).get(f"/?ref={code}").text):
        assert text_of(shown) == "Ada invited you. Your first month is free."


def test_a_name_is_only_a_text_and_nobodys_name_is_a_friends(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    _, code = add_referrer(host)
    add_page(host, IMPORTS[1] + "{{ referral.invited() }}", "/")
    assert text_of(browser(host).get(f"/?ref={code}").text) == "A friend invited you."
    host.referral.display_name_loader(lambda key: HOSTILE)
    shown = browser(host).get(f"/?ref={code}").text
    assert "<img" not in shown and text_of(shown) == f"{HOSTILE} invited you."


def test_the_sign_up_forms_field_is_filled_from_the_visit(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE, REFERRAL_COOKIE_SECURE=False)
    _, code = add_referrer(host)
    add_page(host, IMPORTS[1] + "{{ referral.code_field(name='invitation') }}")
    client = browser(host)
    (empty,) = Structure(client.get("/own").text).all("input")
    assert (empty["name"], empty["value"]) == ("invitation", "")
    client.get(f"/r/{code}")
    structure = Structure(client.get("/own").text)
    (field,), (label,) = structure.all("input"), structure.all("label")
    assert field["value"] == code and label["for"] == field["id"]


def test_what_was_typed_stays_in_the_field(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    _, code = add_referrer(host)
    host.app.add_url_rule(
        "/own",
        "own",
        lambda: render_template_string(
            IMPORTS[1] + "{{ referral.code_field(value=typed) }}", typed=HOSTILE
        ),
    )
    (field,) = Structure(browser(host).get(f"/own?ref={code}").text).all("input")
    assert field["value"] == HOSTILE


@pytest.mark.parametrize("is_registered", [False, True])
def test_a_host_registers_the_page_where_it_likes_or_not_at_all(
    sqlite_url: str, is_registered: bool
) -> None:
    host = make_host(sqlite_url, register_blueprint=False, **BASE)
    host.create_tables()
    host.cli("db", "upgrade")
    if is_registered:
        host.app.register_blueprint(host.referral.pages, url_prefix="/me/invite")
    add_page(host, IMPORTS[1] + "{{ referral.stylesheet() }}{{ referral.share() }}")
    host.current_user = host.add_user()
    empty = host.client().get("/own", base_url="http://localhost/shop").text
    assert ('action="/shop/me/invite/code"' in empty) is is_registered
    assert ('rel="stylesheet"' in empty) is is_registered
    code = make_code(host, host.current_user)
    shown = host.client().get("/own").text
    # The setting says where links would be.
    assert f"https://shop.example/r/{code}" in shown
    assert ('src="/me/invite/qr.svg"' in shown) is is_registered
    host.close()


def test_a_mail_that_a_command_sends_has_words_and_nobodys_figures(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    host.current_user, _ = add_referrer(host)
    with host.app.app_context():
        source = IMPORTS[1] + "{{ referral.offer() }}|{{ referral.figures() }}"
        assert render_template_string(source).endswith("you get $10.00.|")


def test_who_has_not_said_who_is_logged_in_is_told_how(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    host.referral.identity_loader(None)
    add_page(host, IMPORTS[1] + "{{ referral.share() }}")
    with pytest.raises(ConfigurationError, match="identity_loader"):
        host.client().get("/own")
