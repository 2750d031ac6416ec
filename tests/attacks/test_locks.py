"""Whoever has a link cannot stall the host: a visit does not wait long for somebody's lock."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import threading
import time
import typing as t

import pytest
import sqlalchemy as sa
from flask import Response

from flask_referral.web.losses import Losses

from .. import whop
from ..conftest import MakeHost
from ..hosts import Host
from ..money import refer
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import set_cookie

#: Seconds after which a test has failed.
PATIENCE = 20
POOL: dict[str, t.Any] = {"pool_size": 3, "max_overflow": 0, "pool_timeout": PATIENCE}
#: What a host, or ``flask referral erase``, locks.
LOCKED = {
    "referrer": "SELECT 1 FROM users WHERE name = 'referrer' FOR UPDATE",
    "code": "SELECT 1 FROM referral_codes FOR UPDATE",
    "erase": "DELETE FROM referral_codes",
}


@pytest.fixture(params=["psycopg2", "psycopg"])
def make_pooled(
    request: pytest.FixtureRequest, postgresql_url: str, host_on: t.Callable[..., Host]
) -> MakeHost:
    """Return a function that builds a host on a pool of three, with both drivers."""
    url = postgresql_url.replace("psycopg2", request.param)
    return lambda **options: host_on(url, SQLALCHEMY_ENGINE_OPTIONS=POOL, **options)


@pytest.fixture(autouse=True)
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    """Begin a process that has lost nothing."""
    made = Losses()
    monkeypatch.setattr("flask_referral.web.losses._losses", made)
    return made


@contextlib.contextmanager
def holding(host: Host, statement: str) -> t.Iterator[None]:
    """Hold locks on a connection that is not of the host's pool."""
    with host.app.app_context():
        engine = sa.create_engine(host.db.engine.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
        yield
        connection.rollback()


def add_pages(host: Host) -> None:
    def reads() -> str:
        host.db.session.execute(sa.text("SELECT 1"))
        return "a page that reads"

    def writes() -> str:
        host.db.session.add(host.User(name="written by the page"))
        host.db.session.flush()
        return "a page that writes"

    def streams() -> Response:
        host.db.session.execute(sa.text("SELECT 1"))
        return Response(iter(["a page ", "that streams"]))

    host.app.add_url_rule("/page", view_func=lambda: "a page", endpoint="page")
    for view in (reads, writes, streams):
        host.app.add_url_rule(f"/{view.__name__}", view_func=view, endpoint=view.__name__)


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("locked", LOCKED)
def test_visits_to_a_locked_code_leave_the_pool_to_others(
    make_pooled: MakeHost, locked: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = make_pooled()
    add_pages(host)
    _, code = add_referrer(host)
    paths = [f"/r/{code}", f"/page?ref={code}", f"/reads?ref={code}"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool, holding(host, LOCKED[locked]):
        visits = [pool.submit(browser(host).get, path) for path in paths]
        others = [pool.submit(host.client().get, "/reads") for _ in range(3)]
        _, late = concurrent.futures.wait([*visits, *others], PATIENCE)
    assert not late
    assert [each.result().status_code for each in visits] == [302, 200, 200]
    assert [each.result().text for each in others] == ["a page that reads"] * 3
    assert [set_cookie(each.result()) for each in visits] == [None] * 3
    assert clicks(host) == []
    # One line, not one for each visit.
    assert len(reports(caplog)) == 1 and "REFERRAL_LOCK_TIMEOUT_MS" in reports(caplog)[0]
    assert set_cookie(browser(host).get(f"/r/{code}"))


@pytest.mark.parametrize("path", ["/page", "/reads", "/writes", "/streams"])
def test_a_page_is_served_whatever_it_does_with_the_database(
    make_pooled: MakeHost, path: str
) -> None:
    host = make_pooled()
    add_pages(host)
    _, code = add_referrer(host)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, holding(host, LOCKED["code"]):
        answer = pool.submit(lambda: browser(host).get(f"{path}?ref={code}").text)
        assert answer.result(PATIENCE).startswith("a page")
    assert clicks(host) == []


@pytest.mark.parametrize("is_locked", [False, True])
def test_the_hosts_transaction_keeps_its_own_patience(
    make_pooled: MakeHost, is_locked: bool
) -> None:
    """The page's transaction goes on after the visit, with the limit that the host has set."""
    host = make_pooled()
    _, code = add_referrer(host)
    seen: list[str] = []

    def page() -> str:
        host.db.session.execute(sa.text("SET LOCAL lock_timeout = '7s'"))
        host.db.session.add(host.User(name="Ada"))
        host.db.session.flush()
        return "a page"

    def look(response: Response) -> Response:
        seen.append(host.db.session.execute(sa.text("SHOW lock_timeout")).scalar())
        host.db.session.commit()
        return response

    # Before ours in the order of registration runs after ours.
    host.app.after_request_funcs[None].insert(0, look)
    host.app.add_url_rule("/page", view_func=page)
    held = holding(host, LOCKED["code"]) if is_locked else contextlib.nullcontext()
    with concurrent.futures.ThreadPoolExecutor(1) as pool, held:
        answer = pool.submit(browser(host).get, f"/page?ref={code}")
        assert answer.result(PATIENCE).text == "a page"
    assert seen == ["7s"]
    assert len(clicks(host)) == (0 if is_locked else 1)
    with host.app.app_context():
        assert host.db.session.scalars(sa.select(host.User.name)).all().count("Ada") == 1


def test_nothing_stays_on_the_pools_connection(make_pooled: MakeHost) -> None:
    host = make_pooled()
    add_pages(host)
    _, code = add_referrer(host)
    for path in ("/page", "/reads", "/writes"):
        browser(host).get(f"{path}?ref={code}")
        with host.app.app_context(), host.db.engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"


def test_a_visit_waits_as_long_as_the_setting_says(make_pooled: MakeHost) -> None:
    """Not at once: a lock that goes in time costs no click."""
    host = make_pooled(REFERRAL_LOCK_TIMEOUT_MS=PATIENCE * 1000)
    _, code = add_referrer(host)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with holding(host, LOCKED["code"]):
            visit = pool.submit(browser(host).get, f"/r/{code}")
            until_waiting(host)
        assert set_cookie(visit.result(PATIENCE))
    assert len(clicks(host)) == 1


def until_waiting(host: Host) -> None:
    """Return when somebody waits for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with host.app.app_context():
        engine = sa.create_engine(host.db.engine.url, isolation_level="AUTOCOMMIT")
    end = time.monotonic() + PATIENCE
    with engine.connect() as connection:
        while not connection.exec_driver_sql(waiting).scalar():
            assert time.monotonic() < end
            time.sleep(0.01)
    engine.dispose()


def test_losses_are_told_of_once_a_minute_with_their_number() -> None:
    seconds = iter([0, 1, 2, 59, 60, 61, 200])
    losses = Losses(lambda: next(seconds))
    assert [losses.add() for _ in range(7)] == [1, 0, 0, 0, 4, 0, 2]


def test_losses_of_many_threads_are_all_told_of() -> None:
    told: list[int] = []
    losses = Losses(lambda: 0.0)
    barrier = threading.Barrier(8, timeout=PATIENCE)

    def lose() -> None:
        barrier.wait()
        for _ in range(500):
            told.append(losses.add())

    threads = [threading.Thread(target=lose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    losses.seconds = lambda: 100.0
    assert sum(told) == 1 and losses.add() == 8 * 500


def test_a_delivery_that_meets_a_lock_is_sent_again(make_pooled: MakeHost) -> None:
    host = make_pooled(REFERRAL_LOCK_TIMEOUT_MS=20, **whop.CONFIG)
    user = refer(host, host.add_user(name="referrer"))
    event = whop.payment(user)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, holding(host, LOCKED["referrer"]):
        answer = pool.submit(whop.deliver, host, event, id="msg_1").result(PATIENCE)
    assert (answer.status_code, answer.get_json()["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    with host.app.app_context(), host.db.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"
    assert whop.outcome(host, event, id="msg_1") == "converted"


def test_a_delivery_waits_ten_times_as_long(make_pooled: MakeHost) -> None:
    host = make_pooled(REFERRAL_LOCK_TIMEOUT_MS=PATIENCE * 100, **whop.CONFIG)
    seen: list[str] = []

    def loader(payload: dict[str, t.Any]) -> t.Any:
        seen.append(host.db.session.execute(sa.text("SHOW lock_timeout")).scalar())
        return payload["data"]["metadata"]["user_id"]

    host.referral.whop_user_loader(loader)
    user = refer(host, host.add_user(name="referrer"))
    assert whop.outcome(host, whop.payment(user)) == "converted"
    assert seen == [f"{PATIENCE}s"]
