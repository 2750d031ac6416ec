"""What is fast stays fast: round trips, statements made once, nothing on pages of the host's."""

from __future__ import annotations

import sys
import typing as t
from pathlib import Path

import pytest
import sqlalchemy as sa

import flask_referral

from .conftest import MakeHost
from .hosts import Host
from .money import refer
from .visiting import add_referrer
from .visiting import browser

PACKAGE = str(Path(flask_referral.__file__).parent)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what SQLAlchemy compiles from now on."""
    made: list[str] = []
    compile_ = sa.sql.compiler.SQLCompiler.__init__

    def counted(
        self: t.Any, dialect: t.Any, statement: t.Any, *rest: t.Any, **named: t.Any
    ) -> None:
        made.append(type(statement).__name__)
        compile_(self, dialect, statement, *rest, **named)

    monkeypatch.setattr(sa.sql.compiler.SQLCompiler, "__init__", counted)
    return made


def generate(host: Host) -> None:
    assert host.client().post("/api/referral/generate").status_code == 200


def generate_anew(host: Host) -> None:
    host.current_user = host.add_user()
    generate(host)


def follow(host: Host) -> None:
    _, code = add_referrer(host)
    assert browser(host).get(f"/r/{code}").headers["Set-Cookie"]


def statistics(host: Host) -> None:
    assert host.client().get("/api/referral/stats").status_code == 200


def sign_up(host: Host) -> None:
    _, code = add_referrer(host)
    user = host.add_user()
    with host.app.app_context():
        assert host.referral.attribute(user, code=code).reason == "attributed"
        host.db.session.commit()


def buy(host: Host) -> None:
    user = refer(host, host.add_user())
    with host.app.app_context():
        assert host.referral.convert(user, f"mem_{user}").reason == "converted"
        host.db.session.commit()


@pytest.mark.parametrize(
    "path",
    [generate, generate_anew, follow, statistics, sign_up, buy],
    ids=lambda path: path.__name__,
)
def test_no_statement_of_a_hot_path_is_made_twice(
    make: MakeHost, compiled: list[str], path: t.Callable[[Host], None]
) -> None:
    host = make()
    host.current_user = host.add_user()
    path(host)
    assert compiled
    compiled.clear()
    path(host)
    assert compiled == []


def calls(path: t.Callable[[], object], below: str = "") -> list[str]:
    """Return the functions of ours that are called, of modules whose path begins so."""
    called: list[str] = []

    def profile(frame: t.Any, event: str, argument: t.Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE + below):
            called.append(frame.f_code.co_qualname)

    sys.setprofile(profile)
    try:
        path()
    finally:
        sys.setprofile(None)
    return called


@pytest.mark.parametrize(("path", "asked"), [(generate, []), (statistics, ["Query.asked"])])
def test_what_declares_a_route_is_not_run_for_a_request(
    make_sqlite: MakeHost, path: t.Callable[[Host], None], asked: list[str]
) -> None:
    host = make_sqlite()
    host.current_user = host.add_user()
    path(host)
    assert calls(lambda: path(host), "/web/openapi.py") == []
    assert calls(lambda: path(host), "/web/routes.py") == asked


@pytest.mark.parametrize("query", ["", "?page=2&sort=name"])
def test_a_page_of_the_hosts_reaches_one_test_of_ours(make_sqlite: MakeHost, query: str) -> None:
    host = make_sqlite()
    host.app.add_url_rule("/page", view_func=lambda: "A page")
    client = browser(host)
    client.get(f"/page{query}")
    called = calls(lambda: client.get(f"/page{query}"))
    # What the parameter is called is a setting.
    asked = ["current_state", "Referral.state"] if query else []
    assert called == ["capture_from_query", *asked]
