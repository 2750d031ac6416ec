"""The referrer's page: what it shows, to whom, and what it costs."""

from __future__ import annotations

import datetime as dt
import re
import typing as t
from urllib.parse import parse_qs
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask import render_template_string
from flask import Response
from flask_login import LoginManager
from flask_talisman import Talisman
from flask_wtf import CSRFProtect
from jinja2 import DictLoader

from flask_referral.web import widgets

from ..conftest import MakeHost
from ..faces import add_visits
from ..faces import HOSTILE
from ..faces import live
from ..faces import PAGE
from ..faces import Structure
from ..faces import text_of
from ..hosts import Host
from ..hosts import KEYS
from ..money import count
from ..money import pay
from ..money import refer
from ..visiting import browser
from ..visiting import make_code

BASE = {"REFERRAL_BASE_URL": "https://shop.example"}


@pytest.fixture
def host(make: MakeHost) -> Host:
    return make(**BASE)


def log_in(host: Host, **values: t.Any) -> t.Any:
    """Store a user, who is then the current one."""
    host.current_user = host.add_user(**values)
    return host.current_user


def page(host: Host, query: str = "", *, status: int = 200) -> str:
    answer = host.client().get(PAGE + query)
    assert answer.status_code == status, answer.text
    return answer.text


@pytest.mark.parametrize("key", KEYS)
def test_one_press_makes_the_code_and_looking_makes_none(make: MakeHost, key: str) -> None:
    host = make(key=key, **BASE)
    user = log_in(host)
    assert "Get my code" in page(host)
    assert count(host, host.referral.models.ReferralCode) == 0
    answer = host.client().post(f"{PAGE}code", data={"action": "make"})
    assert (answer.status_code, answer.headers["Location"]) == (303, PAGE)
    code = make_code(host, user)
    shown = page(host)
    assert f'value="https://shop.example/r/{code}"' in shown and f'value="{code}"' in shown
    assert "Get my code" not in shown
    again = host.client().post(f"{PAGE}code", data={"action": "make"})
    assert again.status_code == 303 and make_code(host, user) == code


def test_a_form_that_asks_for_anything_else_makes_nothing(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    log_in(host)
    assert host.client().post(f"{PAGE}code", data={"action": "x"}).status_code == 400
    assert host.client().post(f"{PAGE}code").status_code == 400
    assert count(host, host.referral.models.ReferralCode) == 0


def test_another_site_cannot_press_it(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    log_in(host)
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = host.client().post(f"{PAGE}code", data={"action": "make"}, headers=headers)
    assert answer.status_code == 403 and "another site" in answer.text
    assert count(host, host.referral.models.ReferralCode) == 0


def test_the_hosts_csrf_protection_holds_and_the_form_passes_it(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    CSRFProtect(host.app)
    log_in(host)
    client = host.client()
    assert client.post(f"{PAGE}code", data={"action": "make"}).status_code == 400
    (field,) = (
        each
        for each in Structure(client.get(PAGE).text).all("input")
        if each.get("name") == "csrf_token"
    )
    data = {"action": "make", "csrf_token": field["value"]}
    assert client.post(f"{PAGE}code", data=data).status_code == 303


@pytest.mark.parametrize("method", ["get", "post"])
def test_visitors_go_to_the_hosts_log_in(make_sqlite: MakeHost, method: str) -> None:
    host = make_sqlite(**BASE)
    login = LoginManager(host.app)
    login.user_loader(lambda key: None)
    host.app.add_url_rule("/login", "login", lambda: "")
    login.login_view = "login"
    path = PAGE if method == "get" else f"{PAGE}code"
    answer = getattr(host.client(), method)(path)
    assert answer.status_code == 302 and urlsplit(answer.headers["Location"]).path == "/login"


@pytest.mark.parametrize("path", ["", "qr.svg"])
def test_without_a_log_in_visitors_are_told_to(make_sqlite: MakeHost, path: str) -> None:
    answer = make_sqlite(**BASE).client().get(PAGE + path)
    assert answer.status_code == 401 and "Log in to see your referrals." in answer.text


def test_a_session_of_a_deleted_account_is_a_visitors(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    host.current_user = 4711
    assert host.client().get(PAGE).status_code == 401
    assert host.client().post(f"{PAGE}code", data={"action": "make"}).status_code == 401


@pytest.mark.parametrize("leaderboard", [False, True])
def test_a_full_page_takes_six_statements_and_25_kilobytes(
    make: MakeHost, leaderboard: bool
) -> None:
    host = make(**BASE, REFERRAL_LEADERBOARD=leaderboard)
    host.referral.display_name_loader(lambda key: f"Friend {key}")
    user = log_in(host)
    sizes = []
    for visits, friends in ((30, 2), (300, 24)):
        add_visits(host, user, visits)
        live(host, user, friends)
        with host.statements() as seen:
            answer = host.client().get(PAGE)
        assert answer.status_code == 200 and len(seen) <= 6, seen
        sizes.append(len(answer.data))
    assert sizes[0] < sizes[1] <= 25_000, sizes
    Structure(answer.text)


def test_everything_of_the_program_is_shown(host: Host) -> None:
    user = log_in(host)
    host.referral.display_name_loader(lambda key: None if key == user else "Bob")
    add_visits(host, user, 8)
    live(host, user, 6)
    shown = text_of(page(host))
    for text in (
        "For each friend who becomes a customer you get $10.00.",
        "Visits 14 Sign-ups 6 Customers 4",
        "Bob",
        "Nothing bought yet.",
        "$10.00 is yours.",
        "$10.00 was taken back, since the purchase was refunded or is disputed.",
        "$3.00 was taken back, since a purchase was refunded or is disputed.",
        "Where visitors came from",
        "newsletter",
        "In your wallet",
        "-$10.00",
        "Balance $27.00",
    ):
        assert text in shown, text
    assert "Who brings the most" not in shown


def test_a_bonus_that_waits_says_when_it_comes(make: MakeHost) -> None:
    host = make(**BASE, REFERRAL_HOLD_DAYS=14)
    pay(host, refer(host, log_in(host)))
    shown = text_of(page(host))
    assert "It is yours 14 days after the purchase." in shown
    assert re.search(r"Bought on \d+ \w{3}( \d{4})?\. \$10\.00 is yours on \d+ \w{3}", shown)
    assert "On the way $10.00" in shown


def test_a_bonus_that_is_reviewed_says_so(make: MakeHost) -> None:
    host = make(**BASE, REFERRAL_VELOCITY_LIMIT=0)
    pay(host, refer(host, log_in(host)))
    assert "We look at this purchase before $10.00 is yours." in text_of(page(host))


def test_the_offer_promises_no_amount_that_the_host_decides_by_itself(
    make_sqlite: MakeHost,
) -> None:
    host = make_sqlite(**BASE, reward_policy=lambda purchase: 1)
    log_in(host)
    shown = text_of(page(host))
    assert "$10.00" not in shown and "earn when they become customers" in shown


def test_older_referrals_are_a_page_away(host: Host) -> None:
    user = log_in(host)
    for minute in range(13):
        bind(host, refer(host, user), minute)
    first = page(host)
    assert first.count("<li><p>A friend of yours") == 10
    (link,) = re.findall(r'href="(\?before=[^"#]+)', first)
    older = page(host, link)
    assert older.count("<li><p>A friend of yours") == 3 and "?before=" not in older
    assert page(host, "?before=junk").count("<li><p>A friend of yours") == 10


def bind(host: Host, friend: t.Any, minute: int) -> None:
    """Date a sign-up, as the sign-up view does, with all its digits."""
    click = host.referral.models.ReferralClick
    with host.app.app_context():
        (row,) = host.db.session.query(click).filter_by(referred_user_id=friend)
        row.bound_at = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minute)
        host.db.session.commit()


@pytest.mark.parametrize(
    ("query", "days"), [("", 30), ("?days=90", 90), ("?days=365", 365), ("?days=7", 30)]
)
def test_the_period_is_chosen_by_a_link(make_sqlite: MakeHost, query: str, days: int) -> None:
    host = make_sqlite(**BASE)
    add_visits(host, log_in(host), 3)
    links = Structure(page(host, query)).all("a")
    (current,) = (each for each in links if each.get("aria-current"))
    assert current["href"] == f"?days={days}#referral-chart"


def test_each_place_to_share_at_has_a_source_of_its_own(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    code = make_code(host, log_in(host))
    found = {}
    for link in Structure(page(host)).all("a"):
        if link.get("target") == "_blank":
            assert link["rel"] == "noopener noreferrer"
            parts = urlsplit(link["href"])
            texts = " ".join(value for values in parse_qs(parts.query).values() for value in values)
            (found[parts.netloc],) = re.findall(
                rf"https://shop\.example/r/{code}\?utm_source=(\w+)", texts
            )
    assert found == {
        "": "email",
        "wa.me": "whatsapp",
        "t.me": "telegram",
        "x.com": "x",
        "www.linkedin.com": "linkedin",
    }


def test_a_shared_link_is_counted_as_of_its_place(host: Host) -> None:
    user = log_in(host)
    code = make_code(host, user)
    host.current_user = None
    browser(host).get(f"/r/{code}?utm_source=whatsapp")
    host.current_user = user
    assert "<bdi>whatsapp</bdi>" in page(host)


def test_texts_from_outside_are_only_texts(host: Host) -> None:
    user = log_in(host)
    host.referral.display_name_loader(lambda key: HOSTILE)
    add_visits(host, user, 8)
    live(host, user, 3)
    with host.app.app_context():
        row = host.db.session.query(host.Wallet).first()
        row.description = HOSTILE
        host.db.session.commit()
    shown = page(host)
    assert "<img src=x" not in shown
    assert shown.count("&lt;img src=x onerror") >= 3 + 1 + 1
    Structure(shown)


def test_the_qr_code_is_the_users_own_link(host: Host) -> None:
    user = log_in(host)
    assert host.client().get(f"{PAGE}qr.svg").status_code == 404
    make_code(host, user)
    assert 'src="/referral/qr.svg"' in page(host)
    answer = host.client().get(f"{PAGE}qr.svg")
    assert (answer.status_code, answer.mimetype) == (200, "image/svg+xml")
    assert answer.headers["Cache-Control"] == "no-store" and answer.text.startswith("<svg")
    log_in(host)
    make_code(host, host.current_user)
    assert host.client().get(f"{PAGE}qr.svg").data != answer.data


def test_without_segno_there_is_no_qr_code(
    make_sqlite: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widgets, "has_segno", lambda: False)
    host = make_sqlite(**BASE)
    make_code(host, log_in(host))
    assert "qr.svg" not in page(host)
    assert host.client().get(f"{PAGE}qr.svg").status_code == 404


def test_without_an_address_of_links_the_code_is_shown(make_sqlite: MakeHost) -> None:
    host = make_sqlite(TESTING=False, REFERRAL_COOKIE_SECURE=True)
    code = make_code(host, log_in(host))
    shown = page(host)
    assert f'value="{code}"' in shown and "wa.me" not in shown


@pytest.mark.parametrize(("name", "most"), [("referral.css", 8_192), ("referral.js", 6_000)])
def test_assets_are_small_and_kept_for_a_year(make_sqlite: MakeHost, name: str, most: int) -> None:
    host = make_sqlite(**BASE)
    log_in(host)
    (address,) = re.findall(rf'"(/referral/assets/\w+/{re.escape(name)})"', page(host))
    answer = host.client().get(address)
    assert answer.status_code == 200 and 0 < len(answer.data) <= most
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "Set-Cookie" not in answer.headers
    # An older page's address leads to what there is now, which is not kept under it.
    old = host.client().get(f"/referral/assets/0123456789ab/{name}")
    assert old.data == answer.data and "max-age=31536000" not in old.headers["Cache-Control"]
    assert host.client().get("/referral/assets/x/..%2f..%2fpy.typed").status_code == 404
    answer.close()
    old.close()


def test_the_page_has_nothing_inline_and_nothing_of_another_host(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    Talisman(host.app, force_https=False, content_security_policy={"default-src": "'self'"})
    user = log_in(host)
    add_visits(host, user, 8)
    live(host, user, 6)
    answer = host.client().get(PAGE)
    assert answer.headers["Content-Security-Policy"] == "default-src 'self'"
    for tag, attributes in Structure(answer.text).elements:
        assert not any(name == "style" or name.startswith("on") for name in attributes), tag
        if tag in ("script", "link", "img"):
            assert (attributes.get("src") or attributes.get("href") or "").startswith("/referral/")
        assert tag != "style"


def test_ids_are_unique_and_labels_lead_to_their_fields(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE, REFERRAL_LEADERBOARD=True)
    user = log_in(host)
    add_visits(host, user, 8)
    live(host, user, 6)
    structure = Structure(page(host))
    ids = [attributes["id"] for _, attributes in structure.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    named = {label["for"] for label in structure.all("label")}
    fields = {each["id"] for each in structure.all("input") if each["type"] != "hidden"}
    assert fields <= named
    assert {section.get("aria-labelledby") for section in structure.all("section")} <= {None, *ids}


def test_the_page_lives_below_a_path_and_at_another_prefix(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE, REFERRAL_PAGE_PREFIX="/invite")
    log_in(host)
    answer = host.client().get("/invite/", base_url="http://localhost/shop")
    assert 'action="/shop/invite/code"' in answer.text
    assert 'href="/shop/invite/assets/' in answer.text
    made = host.client().post(
        "/invite/code", base_url="http://localhost/shop", data={"action": "make"}
    )
    assert made.headers["Location"] == "/shop/invite/"


@pytest.mark.parametrize("language", ["ar", "de"])
def test_the_page_says_its_language_and_direction(make_sqlite: MakeHost, language: str) -> None:
    from flask_babel import Babel

    host = make_sqlite(**BASE)
    Babel(host.app, locale_selector=lambda: language)
    log_in(host)
    (root,) = Structure(page(host)).all("html")
    assert root == {"lang": language, "dir": "rtl" if language == "ar" else "ltr"}


def test_the_page_is_put_into_the_hosts_layout(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE, REFERRAL_BASE_TEMPLATE="layout.html")
    override(
        host.app,
        {
            "layout.html": "<title>{% block title %}{% endblock %} - Shop</title>"
            "<nav>Shop</nav><main>{% block content %}{% endblock %}</main>"
        },
    )
    log_in(host)
    shown = page(host)
    assert "<title>Invite friends - Shop</title>" in shown and "<nav>Shop</nav>" in shown
    # The layout has no block for the head.
    assert shown.count('rel="stylesheet"') == shown.count("<script ") == 1


def test_a_layout_with_a_head_gets_the_stylesheet_there_once(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE, REFERRAL_BASE_TEMPLATE="layout.html")
    layout = "<head>{% block referral_head %}{% endblock %}</head>{% block content %}{% endblock %}"
    override(host.app, {"layout.html": layout})
    log_in(host)
    head, _, body = page(host).partition("</head>")
    assert 'rel="stylesheet"' in head and 'rel="stylesheet"' not in body
    assert "<script " in head and "<script " not in body


def override(app: Flask, templates: dict[str, str]) -> None:
    """Give the host templates of its own."""
    app.jinja_loader = DictLoader(templates)


def test_one_block_of_the_page_is_replaced(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    own = (
        '{% extends "referral/default_page.html" %}'
        "{% block referral_offer %}A month free for both of you.{% endblock %}"
    )
    override(host.app, {"referral/page.html": own})
    log_in(host)
    shown = page(host)
    assert "A month free for both of you." in shown and "$10.00" not in shown
    assert "Get my code" in shown


def test_one_widget_is_replaced_and_the_others_stay(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    own = (
        "{% macro figures(level=2) %}<p>"
        "{{ flask_referral.shown().stats().totals.clicks }} visits</p>{% endmacro %}"
    )
    override(host.app, {"referral/widgets/figures.html": own})
    log_in(host)
    shown = page(host)
    assert "<p>0 visits</p>" in shown and "Sign-ups</dt>" not in shown and "Day by day" in shown


def test_the_hosts_own_error_page_is_shown_to_visitors(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    host.app.register_error_handler(401, lambda error: Response("please log in", 401))
    assert page(host, status=401) == "please log in"


def test_a_replica_is_read_from(new_sqlite_url: t.Callable[[], str], host_on: t.Any) -> None:
    urls = new_sqlite_url(), new_sqlite_url()
    copy = host_on(urls[1], **BASE)
    user = copy.add_user()
    add_visits(copy, user, 5)
    binds = {"SQLALCHEMY_BINDS": {"replica": urls[1]}, "REFERRAL_READ_BIND": "replica"}
    host = host_on(urls[0], **BASE, **binds)
    host.current_user = host.add_user()
    assert "Visits 5" in text_of(page(host))


def test_render_template_string_knows_the_words(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    with host.app.test_request_context():
        assert render_template_string("{{ flask_referral.money(1000) }}") == "$10.00"
