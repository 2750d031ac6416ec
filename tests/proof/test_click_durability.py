"""What a crash of the database leaves of clicks, with and without waiting for the disk."""

from __future__ import annotations

import os
import signal
import typing as t
import zlib

import psutil
import pytest
import sqlalchemy as sa

from ..hosts import Host
from ..money import balance
from ..money import PATIENCE
from ..money import refer
from ..servers import Server
from ..visiting import add_referrer
from ..visiting import BROWSER
from ..visiting import browser
from ..visiting import clicks
from ..visiting import COOKIE


class Crash:
    """A host on a server that flushes its log for a commit that waits, and for nothing else."""

    def __init__(self, server: Server, host: Host) -> None:
        self.server = server
        self.host = host
        self.app = host.app
        self.referrer, self.code = add_referrer(host)

    def begin(self) -> None:
        """Stop whoever writes what nobody waits for."""
        writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
        self.writer = self.server.ask(writer)
        os.kill(self.writer, signal.SIGSTOP)

    def end(self) -> None:
        """Stop the server at once, and start it again."""
        server = psutil.Process(self.server.pid)
        # As "pg_ctl -m immediate stop" does; a process that was stopped does not hear of it.
        server.send_signal(signal.SIGQUIT)
        os.kill(self.writer, signal.SIGKILL)
        server.wait(PATIENCE)
        with self.app.app_context():
            self.host.db.engine.dispose()
        self.server.start()

    def visit(self, name: str, path: str | None = None) -> str:
        """Follow the link, and return the cookie."""
        client = browser(self.host)
        # An address of its own, too.
        client.environ_base["REMOTE_ADDR"] = f"2001:db8:0:{zlib.crc32(name.encode()) >> 16:x}::1"
        answer = client.get(path or f"/r/{self.code}", headers={"User-Agent": f"{BROWSER} {name}"})
        assert answer.status_code in (200, 302)
        cookie = client.get_cookie(COOKIE)
        assert cookie is not None
        return str(cookie.value)

    def left(self) -> set[str]:
        """Return the names of the visitors whose clicks are in the database."""
        agents = [row.user_agent for row in clicks(self.host)]
        return {agent.removeprefix(f"{BROWSER} ") for agent in agents if agent is not None}


@pytest.fixture(scope="module")
def server() -> t.Iterator[Server]:
    settings = {"autovacuum": "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1d"}
    with Server.running(**settings) as server:
        yield server


@pytest.fixture
def crash(server: Server, host_on: t.Callable[..., Host]) -> t.Callable[..., Crash]:
    """Return a function that builds a host with some settings."""
    return lambda **config: Crash(server, host_on(server.url_of(server.new_database()), **config))


def test_a_crash_takes_the_last_clicks_and_no_conversion(crash: t.Callable[..., Crash]) -> None:
    it = crash(REFERRAL_CLICK_DURABILITY="async")

    @it.app.get("/order")
    def order() -> str:
        it.host.db.session.add(it.host.User(name="order"))
        it.host.db.session.flush()
        return "thanks"

    # The host's own commit comes after ours had its turn.
    @it.app.teardown_request
    def commit(error: BaseException | None) -> None:
        it.host.db.session.commit()

    buyers = [refer(it.host, it.referrer) for _ in range(2)]
    it.begin()
    it.visit("before the conversions")
    for buyer in buyers:
        with it.app.app_context():
            assert it.host.referral.convert(buyer, f"mem_{buyer}").reason == "converted"
            it.host.db.session.commit()
    cookies = [it.visit(f"last {number}") for number in range(5)]
    assert {"before the conversions", "last 0", "last 4"} <= it.left()
    it.end()
    # What somebody waited for took with it what was written before.
    assert it.left() == {"before the conversions"}
    assert balance(it.host, it.referrer) == 2000
    with it.app.test_request_context():
        totals = it.host.referral.stats(it.referrer).totals
    assert (totals.conversions, totals.earned_cents) == (2, 2000)

    # Life goes on: who came through a click that is lost signs up and buys.
    user = it.host.add_user()
    with it.app.test_request_context(headers={"Cookie": f"{COOKIE}={cookies[0]}"}):
        assert it.host.referral.attribute(user).reason == "attributed"
        assert it.host.referral.convert(user, "mem_last").reason == "converted"
        it.host.db.session.commit()
    it.begin()
    it.visit("with the host's order", f"/order?ref={it.code}")
    it.end()
    # In the host's transaction the click is as durable as what the host stores.
    assert it.left() == {"before the conversions", "with the host's order"}
    with it.app.app_context():
        orders = sa.select(sa.func.count()).where(it.host.User.name == "order")
        assert it.host.db.session.scalar(orders) == 1
    assert balance(it.host, it.referrer) == 3000


def test_a_crash_takes_no_click_that_waited_for_the_disk(crash: t.Callable[..., Crash]) -> None:
    it = crash()
    it.begin()
    for number in range(5):
        it.visit(str(number))
    it.end()
    assert it.left() == set("01234")
