"""``REFERRAL_AUTO_ATTRIBUTE`` binds visitors who sign up, nobody else, and each visit once."""

from __future__ import annotations

import concurrent.futures
import threading
import typing as t

import pytest
import sqlalchemy as sa
from flask import abort
from flask import request
from flask.testing import FlaskClient

from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks

PATIENCE = 20


@pytest.fixture(params=["int", "str"])
def host(make: MakeHost, request: pytest.FixtureRequest) -> Host:
    host = make(REFERRAL_AUTO_ATTRIBUTE=True, key=request.param)
    add_sign_up(host)
    return host


def add_sign_up(host: Host) -> None:
    def sign_up() -> str:
        users = [host.User(name="new") for _ in range(int(request.args.get("users", 1)))]
        if "at_once" in request.args:
            # As login_user() before the commit.
            host.current_user = users[0]
        host.db.session.add_all(users)
        host.db.session.commit()
        return "welcome"

    host.app.add_url_rule("/signup", view_func=sign_up, methods=["GET", "POST"])


def bound(host: Host) -> int:
    return sum(row.referred_user_id is not None for row in clicks(host))


def users(host: Host) -> int:
    with host.app.app_context():
        return len(host.db.session.scalars(sa.select(host.User).filter_by(name="new")).all())


def visitor(host: Host) -> FlaskClient:
    """Return the client of somebody who followed a link."""
    _, code = add_referrer(host)
    client = browser(host)
    client.get(f"/r/{code}")
    return client


def test_an_admin_who_followed_a_link_binds_nobody(host: Host) -> None:
    client = visitor(host)
    host.current_user = host.add_user(name="admin")
    for _ in range(20):
        client.post("/signup")
    client.post("/signup?users=20")
    assert (users(host), bound(host)) == (40, 0)


def test_a_code_in_the_admins_own_request_binds_nobody(host: Host) -> None:
    _, code = add_referrer(host)
    host.current_user = host.add_user(name="admin")
    browser(host).post(f"/signup?ref={code}&users=3")
    assert (users(host), bound(host)) == (3, 0)


def test_one_visit_binds_one_user(host: Host) -> None:
    client = visitor(host)
    assert client.post("/signup?users=5").text == "welcome"
    for _ in range(5):
        client.post("/signup")
    assert (users(host), bound(host)) == (10, 1)
    # Nor does one that was carried off to other browsers.
    cookie = client.get_cookie("virtuna_referral")
    assert cookie is not None
    other = browser(host)
    other.set_cookie("virtuna_referral", cookie.value)
    other.post("/signup")
    assert bound(host) == 1


@pytest.mark.parametrize("form", ["/signup?ref={}", "/signup?ref={}&users=4"])
def test_one_request_that_brings_its_own_code_binds_one_user(host: Host, form: str) -> None:
    _, code = add_referrer(host)
    client = host.client()
    for _ in range(3):
        client.post(form.format(code), headers={"User-Agent": "A"})
    assert bound(host) == 1


def test_a_visit_whose_click_is_gone_binds_one_user(host: Host) -> None:
    client = visitor(host)
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(sa.delete(host.referral.models.ReferralClick.__table__))
    for _ in range(3):
        client.post("/signup?users=2")
    assert bound(host) == 1


def test_many_sign_ups_of_one_visit_at_once_bind_one(make_postgresql: MakeHost) -> None:
    host = make_postgresql(REFERRAL_AUTO_ATTRIBUTE=True)
    add_sign_up(host)
    cookie = visitor(host).get_cookie("virtuna_referral")
    assert cookie is not None
    barrier = threading.Barrier(8, timeout=PATIENCE)

    def sign_up(_: int) -> int:
        client = browser(host)
        client.set_cookie("virtuna_referral", cookie.value)
        barrier.wait()
        return client.post("/signup").status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(sign_up, range(8), timeout=PATIENCE)) == [200] * 8
    assert (users(host), bound(host)) == (8, 1)


def test_whoever_is_logged_in_as_the_new_user_already_is_bound(host: Host) -> None:
    visitor(host).post("/signup?at_once=1")
    assert bound(host) == 1


@pytest.mark.parametrize("anonymous", [None, "abort"])
def test_a_visitor_is_bound_however_the_host_says_that_nobody_is_logged_in(
    host: Host, anonymous: t.Any
) -> None:
    @host.referral.identity_loader
    def identity() -> t.Any:
        return abort(401) if anonymous == "abort" else None

    visitor(host).post("/signup")
    assert bound(host) == 1


def test_a_loader_that_fails_costs_the_binding_and_not_the_sign_up(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    @host.referral.identity_loader
    def identity() -> t.Any:
        return host.db.session.execute(sa.text("SELECT * FROM nowhere")).scalar()

    assert visitor(host).post("/signup").text == "welcome"
    assert (users(host), bound(host)) == (1, 0)
    assert "was not bound" in caplog.text
