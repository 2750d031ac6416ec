"""Nobody sees the desk whom the host does not let, and every act has a name."""

from __future__ import annotations

import subprocess
import sys
import types
import typing as t

import pytest
from flask_admin import Admin
from flask_admin import BaseView
from flask_admin import expose
from flask_login import LoginManager
from flask_login import UserMixin

from flask_referral.contrib.admin import add_views
from flask_referral.errors import ConfigurationError

from ..hosts import Host
from .conftest import MakeDesk
from .conftest import Secure

VIEWS = ("overview", "codes", "referrals", "rewards", "deliveries", "disabled", "history")


class Unnamed:
    """Who may see the desk, and nothing else."""

    def is_accessible(self) -> bool:
        return True


class Closed(Secure):
    is_open = False


class Bare:
    """A class that says nothing."""


class Default(BaseView):  # type: ignore[misc]
    """One whose answer is Flask-Admin's: everybody."""


class WithViews(BaseView):  # type: ignore[misc]
    @expose("/")  # type: ignore[untyped-decorator]
    def index(self) -> str:
        return "mine"

    def is_accessible(self) -> bool:
        return True


def test_without_flask_admin_the_cure_is_named() -> None:
    program = "import sys; sys.modules['flask_admin'] = None; import flask_referral.contrib.admin"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1 and 'pip install "flask-referral[admin]"' in run.stderr


@pytest.mark.parametrize("base", [Bare, Default, object, None])
def test_a_desk_that_is_open_to_everybody_does_not_start(make_desk: MakeDesk, base: t.Any) -> None:
    with pytest.raises(ConfigurationError, match="Everybody could work at the desk"):
        make_desk(base)


def test_views_of_the_base_do_not_take_the_place_of_the_desks(make_desk: MakeDesk) -> None:
    with pytest.raises(ConfigurationError, match="WithViews has views of its own"):
        make_desk(WithViews)


def test_the_base_has_to_be_named() -> None:
    with pytest.raises(TypeError, match="base"):
        add_views(Admin(), None)  # type: ignore[arg-type,call-arg]


def test_nobody_sees_what_the_host_does_not_show(make_desk: MakeDesk) -> None:
    host = make_desk(Closed)
    rules = [
        rule for rule in host.app.url_map.iter_rules() if rule.endpoint.startswith("referral_")
    ]
    desk = [
        rule for rule in rules if rule.rule.startswith("/admin/") and "static" not in rule.endpoint
    ]
    assert len(desk) > 2 * len(VIEWS)
    for rule in desk:
        values = {
            name: "00000000-0000-0000-0000-000000000000" if name == "reward_id" else "void"
            for name in rule.arguments
        }
        with host.app.test_request_context():
            path = host.app.url_map.bind("localhost").build(rule.endpoint, values)
        for method in rule.methods - {"OPTIONS"}:
            assert host.client().open(path, method=method).status_code == 403, rule


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_opens_in_an_empty_program(make_desk: MakeDesk, view: str) -> None:
    host = make_desk()
    page = host.client().get(f"/admin/referral_{view}/")
    assert page.status_code == 200 and "<h1>" in page.text
    assert page.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert page.headers["Content-Security-Policy"] == "frame-ancestors 'self'"
    assert page.headers["Cache-Control"] == "no-store"


class Broken(Secure):
    def operator_name(self) -> str:
        raise TypeError("this is the host's own error")


def test_an_error_of_the_hosts_is_not_hidden_by_another_one(make_desk: MakeDesk) -> None:
    with pytest.raises(TypeError, match="the host's own error"):
        disable(make_desk(Broken))


def disable(host: Host) -> t.Any:
    user = str(host.add_user())
    return host.client().post(
        "/admin/referral_disabled/disable", data={"user": user, "reason": "known"}
    )


def test_an_act_without_a_name_is_refused(make_desk: MakeDesk) -> None:
    host = make_desk(Unnamed)
    page = disable(host)
    assert page.status_code == 422 and "operator_name()" in page.text
    assert "known" not in host.client().get("/admin/referral_history/").text


def test_flask_login_says_who_acts(make_desk: MakeDesk) -> None:
    host = make_desk(Unnamed)
    manager = LoginManager(host.app)
    person = types.new_class("Person", (UserMixin,))()
    person.id = "bob@example.com"
    manager.request_loader(lambda request: person)
    assert disable(host).status_code == 303
    assert "bob@example.com" in host.client().get("/admin/referral_history/").text
