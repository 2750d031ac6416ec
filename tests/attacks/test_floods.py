"""One address writes a bounded number of rows, and nobody without a user writes any other."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.web import visits

from .. import whop
from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import Clock
from ..visiting import set_cookie

UNKNOWN = "ZZZZZZZZ"


def flood(host: Host, code: str, number: int, addresses: t.Sequence[str | None]) -> None:
    """Visit a code with another agent, another page in front and no cookie each time."""
    for count in range(number):
        headers = {"User-Agent": f"Flood {count}", "Referer": f"https://{count}.example/"}
        address = {"REMOTE_ADDR": addresses[count % len(addresses)]}
        answer = host.client().get(f"/r/{code}", headers=headers, environ_overrides=address)
        assert answer.status_code == 302 and set_cookie(answer)


@pytest.mark.parametrize(
    "addresses",
    [
        ["192.0.2.1"],
        # What one subscriber has.
        [f"2001:db8::{host:x}" for host in range(1, 200)],
        ["192.0.2.1", "::ffff:192.0.2.1"],
        [None],
        ["", "unix:", "junk"],
    ],
    ids=["IPv4", "a /64", "mapped", "none", "junk"],
)
def test_an_address_writes_so_many_clicks_whatever_its_agents(
    make_sqlite: MakeHost, clock: Clock, addresses: list[str | None]
) -> None:
    host = make_sqlite(REFERRAL_CLICKS_PER_ADDRESS=8)
    _, code = add_referrer(host)
    flood(host, code, 200, addresses)
    assert len(clicks(host)) == 8
    # Others are counted as before, and so are the next window's.
    flood(host, code, 1, ["198.51.100.1"])
    assert len(clicks(host)) == 9
    clock.turn(days=1)
    flood(host, code, 200, addresses)
    assert len(clicks(host)) == 17


def test_a_server_that_tells_no_addresses_is_told_of_once(
    make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    visits._warn_of_no_address.cache_clear()
    host = make_sqlite()
    _, code = add_referrer(host)
    flood(host, code, 3, ["192.0.2.1"])
    assert "ProxyFix" not in caplog.text
    flood(host, code, 3, [None, ""])
    assert caplog.text.count("ProxyFix") == 1


def test_the_default_is_64(make: MakeHost) -> None:
    host = make()
    _, code = add_referrer(host)
    flood(host, code, 800, ["192.0.2.1"])
    assert len(clicks(host)) == 64


def test_a_flood_takes_one_statement_for_each_visit(make_postgresql: MakeHost) -> None:
    host = make_postgresql(REFERRAL_CLICKS_PER_ADDRESS=1)
    _, code = add_referrer(host)
    flood(host, code, 1, ["192.0.2.1"])
    with host.statements() as seen:
        flood(host, code, 20, ["192.0.2.1"])
    assert len(seen) == 20


def rows(host: Host) -> dict[str, int]:
    """Return how many rows each table has."""
    with host.app.app_context(), host.db.engine.connect() as connection:
        tables = [
            table
            for table in sa.inspect(connection).get_table_names()
            if not table.startswith("sqlite")
        ]
        return {
            table: connection.scalar(sa.select(sa.func.count()).select_from(sa.table(table)))
            for table in tables
        }


def test_nobody_without_a_user_or_a_signature_writes_a_row(make: MakeHost) -> None:
    host = make(**whop.CONFIG, REFERRAL_STRIPE_WEBHOOK_SECRET="whsec_stripe")
    _, code = add_referrer(host)
    before = rows(host)
    assert len(before) > 5
    client = browser(host)
    for count in range(30):
        body = b'{"id": "evt_%d", "type": "payment.succeeded"}' % count
        for headers in (whop.signed(body, secret="ws_wrong"), whop.signed(b"another"), {}):
            assert client.post(whop.URL, data=body, headers=headers).status_code == 401
        for provider in ("stripe", "whop", "nobody", "..", "x" * 500):
            url = f"/api/referral/webhooks/{provider}"
            assert client.post(url, data=body).status_code in (400, 401, 404)
        unknown = f"{UNKNOWN[:-2]}{count + 22}"
        for path in (f"/r/{unknown}", "/r/%00", "/r/a/b/c", f"/?ref={unknown}", "/referral/"):
            assert set_cookie(client.get(path)) is None
        for path in (f"codes/{code}", f"codes/{unknown}", "stats", "stats?days=9", "openapi.json"):
            assert client.get(f"/api/referral/{path}").status_code < 500
        assert client.post("/api/referral/generate").status_code == 401
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert client.open("/api/referral/code", method=method).status_code < 500
    assert rows(host) == before


def test_an_unknown_code_takes_as_many_statements_as_a_known_one(
    make_postgresql: MakeHost,
) -> None:
    host = make_postgresql()
    referrer, code = add_referrer(host)
    _, other = add_referrer(host)
    seen: dict[str, list[str]] = {}
    visited_by = {"first": code, "again": code, "other": other, "unknown": UNKNOWN}
    for name, visited in visited_by.items():
        with host.statements() as seen[name]:
            browser(host).get(f"/r/{visited}")
    host.current_user = referrer
    with host.statements() as seen["own"]:
        browser(host).get(f"/r/{code}")
    assert {name: len(each) for name, each in seen.items()} == dict.fromkeys(seen, 1)
    assert len({each[0] for each in seen.values()}) == 1
