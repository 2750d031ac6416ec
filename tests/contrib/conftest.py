"""A host with the desk in its Flask-Admin, and held rewards to decide on."""

from __future__ import annotations

import typing as t

import pytest
from flask_admin import Admin
from flask_admin.theme import Bootstrap4Theme
from flask_babel import Babel

from flask_referral.contrib.admin import add_views

from ..conftest import MakeHost
from ..hosts import Host

#: Builds a host whose desk everybody may use who sends ``X-Operator``.
MakeDesk = t.Callable[..., Host]


class Secure:
    """Who may see the desk, and who that is."""

    is_open = True

    def is_accessible(self) -> bool:
        return self.is_open

    def operator_name(self) -> str:
        return "ada@example.com"


@pytest.fixture
def make_desk(make: MakeHost) -> MakeDesk:
    def build(base: type = Secure, **options: t.Any) -> Host:
        host = make(**({"REFERRAL_BASE_URL": "https://example.com"} | options))
        # Flask-Admin takes its own words from it where it is installed.
        Babel(host.app)
        admin = Admin(host.app, name="Host", theme=Bootstrap4Theme())
        add_views(admin, host.referral, base=base)
        return host

    return build
