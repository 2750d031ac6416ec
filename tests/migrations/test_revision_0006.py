"""Revision 0006: clicks and rewards get a source, and what was there before has none."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from ..conftest import MakeHost
from ..history import execute
from ..hosts import Host
from ..money import refer
from ..visiting import add_referrer
from ..visiting import browser

BEFORE = "0005"
CLICKS = "SELECT id, referral_code, referrer_user_id, referred_user_id, clicked_at, user_agent"


def ask(host: Host, query: str) -> list[t.Any]:
    with host.app.app_context(), host.db.engine.connect() as connection:
        return list(connection.exec_driver_sql(query))


def test_what_was_there_stays_and_has_no_source(make: MakeHost) -> None:
    host = make()
    user, code = add_referrer(host)
    browser(host).get(f"/r/{code}?utm_source=news")
    buyer = refer(host, user)
    with host.app.app_context():
        assert host.referral.convert(buyer, "mem").reason == "converted"
        host.db.session.commit()
    before = ask(host, f"{CLICKS} FROM referral_clicks ORDER BY id")
    assert len(before) == 2
    for _ in range(2):
        host.cli("db", "downgrade", BEFORE)
        assert ask(host, f"{CLICKS} FROM referral_clicks ORDER BY id") == before
        host.cli("db", "upgrade")
        assert ask(host, f"{CLICKS} FROM referral_clicks ORDER BY id") == before
        host.cli("db", "check")
    with host.app.test_request_context():
        found = host.referral.stats(user)
    assert [row.source for row in found.sources] == [None]
    assert (found.sources[0].clicks, found.sources[0].conversions) == (2, 1)


@pytest.mark.parametrize("column", ["utm_source", "utm_medium", "utm_campaign", "source"])
def test_a_host_that_made_the_tables_itself_gets_the_rules_too(
    make_postgresql: MakeHost, column: str
) -> None:
    host = make_postgresql(migrate=False)
    with host.app.app_context():
        host.db.create_all()
    host.cli("db", "stamp", "0001")
    host.cli("db", "upgrade")
    host.cli("db", "check")
    _, code = add_referrer(host)
    browser(host).get(f"/r/{code}")
    with pytest.raises(sa.exc.IntegrityError, match=f"referral_clicks_{column}_check"):
        execute(host, sa.text(f"UPDATE referral_clicks SET {column} = repeat('x', 256)"))
