"""With ``REFERRAL_CLICK_DURABILITY = "async"`` clicks do not wait for the disk; all else does."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa
from flask import Response

from ..conftest import MakeHost
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import COOKIE
from ..visiting import cookie_value

#: Notes at each commit what is written and whether the commit waits.
NOTES = """
CREATE TABLE notes (at TIMESTAMPTZ DEFAULT clock_timestamp(), written TEXT, waits TEXT);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notes (written, waits)
    VALUES (tg_table_name, current_setting('synchronous_commit'));
    RETURN NULL;
END $$;
"""
NOTED = ("referral_codes", "referral_clicks", "referral_conversions", "wallet_transactions")
ASYNC: dict[str, t.Any] = {"REFERRAL_CLICK_DURABILITY": "async"}


@pytest.fixture(params=["psycopg2", "psycopg"])
def make_noting(
    request: pytest.FixtureRequest, postgresql_url: str, host_on: t.Callable[..., Host]
) -> MakeHost:
    """Return a function that builds a host on one connection, and notes its commits."""

    def make(**options: t.Any) -> Host:
        one = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}
        url = postgresql_url.replace("psycopg2", request.param)
        host = host_on(url, SQLALCHEMY_ENGINE_OPTIONS=one, **options)
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.exec_driver_sql(NOTES)
            for table in NOTED:
                connection.exec_driver_sql(
                    f"CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE ON {table} "
                    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()"
                )
        return host

    return make


def notes(host: Host) -> list[tuple[str, str]]:
    """Return what was written, in its order, and whether its commit waited; and forget it."""
    taken = sa.text("WITH d AS (DELETE FROM notes RETURNING *) SELECT * FROM d ORDER BY at")
    with host.app.app_context(), host.db.engine.begin() as connection:
        return [(row.written, row.waits) for row in connection.execute(taken)]


def setting(host: Host) -> set[str]:
    """Return what is left on the connection, in a transaction and out of one."""
    found = set()
    for options in ({}, {"isolation_level": "AUTOCOMMIT"}):
        with host.app.app_context(), host.db.engine.connect() as connection:
            show = connection.execution_options(**options).exec_driver_sql
            found.add(show("SHOW synchronous_commit").scalar_one())
    return found


@pytest.mark.parametrize(("durability", "waits"), [("full", "on"), ("async", "off")])
def test_a_click_of_its_own_waits_or_not(
    make_noting: MakeHost, durability: str, waits: str
) -> None:
    host = make_noting(REFERRAL_CLICK_DURABILITY=durability)
    _, code = add_referrer(host)
    assert notes(host) == [("referral_codes", "on")]
    with host.statements() as seen:
        assert browser(host).get(f"/r/{code}").status_code == 302
    assert len(seen) == 1
    assert notes(host) == [("referral_clicks", waits)]
    # The same visitor without the cookie: nothing is written.
    browser(host).get(f"/r/{code}")
    assert notes(host) == []
    browser(host).get("/r/23456789")
    assert setting(host) == {"on"}
    assert len(clicks(host)) == 1


@pytest.mark.parametrize("writes", [False, True])
def test_a_click_in_the_hosts_transaction_waits_as_the_host_does(
    make_noting: MakeHost, writes: bool
) -> None:
    host = make_noting(**ASYNC)
    _, code = add_referrer(host)
    notes(host)

    @host.app.get("/page")
    def page() -> str:
        if writes:
            host.db.session.add(host.User())
            host.db.session.flush()
        return str(host.db.session.scalar(sa.text("SELECT 1")))

    @host.app.teardown_request
    def commit(error: BaseException | None) -> None:
        assert host.db.session.scalar(sa.text("SHOW synchronous_commit")) == "on"
        host.db.session.commit()

    assert browser(host).get(f"/page?ref={code}").status_code == 200
    assert notes(host) == [("referral_clicks", "on")]
    assert setting(host) == {"on"}


def test_a_click_after_a_streamed_page_does_not_wait(make_noting: MakeHost) -> None:
    host = make_noting(**ASYNC)
    _, code = add_referrer(host)
    notes(host)

    @host.app.get("/page")
    def page() -> Response:
        host.db.session.execute(sa.text("SELECT 1"))
        return Response(iter(["a", "b"]))

    with browser(host).get(f"/page?ref={code}") as answer:
        assert answer.data == b"ab"
    assert notes(host) == [("referral_clicks", "off")]


def test_money_and_sign_ups_always_wait(make_noting: MakeHost) -> None:
    host = make_noting(**ASYNC)
    _, code = add_referrer(host)
    notes(host)
    host.current_user = host.add_user()
    assert host.client().post("/api/referral/generate").status_code == 200
    assert notes(host) == [("referral_codes", "on")]
    host.current_user = None
    cookie = cookie_value(browser(host).get(f"/r/{code}"))
    assert notes(host) == [("referral_clicks", "off")]
    typed, came = host.add_user(), host.add_user()
    with host.app.test_request_context(headers={"Cookie": f"{COOKIE}={cookie}"}):
        assert host.referral.attribute(came).reason == "attributed"
        assert host.referral.attribute(typed, code=code).reason == "attributed"
        host.db.session.commit()
    assert notes(host) == [("referral_clicks", "on")] * 2
    with host.app.app_context():
        assert host.referral.convert(came, "mem_1").reason == "converted"
        host.db.session.commit()
    host.cli("convert", str(typed), "mem_2")
    money = [("referral_conversions", "on"), ("wallet_transactions", "on")]
    assert sorted(notes(host)) == sorted(money * 2)


def test_nothing_changes_on_sqlite(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**ASYNC)
    _, code = add_referrer(host)
    with host.statements() as seen:
        browser(host).get(f"/r/{code}")
    assert len(seen) == 1
    assert len(clicks(host)) == 1
