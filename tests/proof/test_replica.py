"""Statistics from a streaming replica that is behind; everything else from the primary."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.errors import RowSecurityUnavailable
from flask_referral.errors import UnknownUser

from ..hosts import Host
from ..money import refer
from ..servers import Server
from ..servers import wait_until
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import make_code

STATS = "/api/referral/stats"
ROLE = "referral_at_the_replica"


@dataclasses.dataclass
class Pair:
    """A primary, and a replica that follows it when it is let."""

    primary: Server
    replica: Server

    def catch_up(self) -> None:
        """Let the replica follow, and wait until it has all that is in the primary."""
        self.replica.ask("SELECT pg_wal_replay_resume()")
        there = self.primary.ask("SELECT pg_current_wal_flush_lsn()")
        has_it = f"SELECT pg_last_wal_replay_lsn() >= '{there}'"
        wait_until(lambda: self.replica.ask(has_it))

    @contextlib.contextmanager
    def behind(self) -> t.Iterator[None]:
        """Keep the replica at what the primary has now."""
        self.catch_up()
        self.replica.ask("SELECT pg_wal_replay_pause()")
        paused = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
        wait_until(lambda: self.replica.ask(paused))
        yield
        self.catch_up()


@pytest.fixture(scope="module")
def pair() -> t.Iterator[Pair]:
    # Speed only: nobody is killed here.
    fast = {"fsync": "off"}
    with Server.running(**fast) as primary, primary.replica(**fast) as replica:
        yield Pair(primary, replica)


MakeHost = t.Callable[..., Host]


@pytest.fixture
def make(pair: Pair, host_on: MakeHost) -> MakeHost:
    """Return a function that builds a host that reads statistics from the replica."""

    def build(*, driver: str = "psycopg2", migrate: bool = True, **options: t.Any) -> Host:
        database = pair.primary.new_database()
        urls = [
            server.url_of(database).replace("psycopg2", driver)
            for server in (pair.primary, pair.replica)
        ]
        binds = {"SQLALCHEMY_BINDS": {"replica": urls[1]}, "REFERRAL_READ_BIND": "replica"}
        return host_on(urls[0], migrate=migrate, **binds, **options)

    return build


def clicks_told(host: Host, user: t.Any) -> list[int]:
    """Return how many clicks the API, the method and the command tell of."""
    host.current_user = user
    answer = host.client().get(STATS)
    assert answer.status_code == 200
    with host.app.test_request_context():
        method = host.referral.stats(user).totals
    command = json.loads(host.cli("stats", str(user), "--json").stdout)["totals"]
    return [answer.get_json()["totals"]["clicks"], method.clicks, command["clicks"]]


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_statistics_are_as_old_as_the_replica_and_nothing_else_is(
    pair: Pair, make: MakeHost, driver: str
) -> None:
    host = make(driver=driver)
    referrer, code = add_referrer(host)
    host.current_user = referrer
    assert browser(host).get(f"/r/{code}").status_code == 302
    host.current_user = None
    browser(host).get(f"/r/{code}")
    pair.catch_up()
    assert clicks_told(host, referrer) == [1] * 3
    with pair.behind():
        # Each of these writes, or has to see what was just written; the replica refuses writes.
        buyer = refer(host, referrer)
        host.current_user = None
        browser(host).get(f"/r/{code}", headers={"User-Agent": "another"})
        with host.app.test_request_context():
            assert host.referral.attribute(host.add_user(), code=code).reason == "attributed"
            assert host.referral.convert(buyer, "mem_1").reason == "converted"
            host.db.session.commit()
            assert host.referral.convert(buyer, "mem_1").reason == "already_converted"
        assert clicks_told(host, referrer) == [1] * 3
        newcomer = host.add_user()
        host.current_user = newcomer
        answers = [host.client().post("/api/referral/generate").get_json() for _ in range(2)]
        assert answers[0] == answers[1]
        made = answers[0]["code"]
        assert host.client().get(f"/api/referral/codes/{made}").get_json()["valid"] is True
    assert clicks_told(host, referrer) == [4] * 3
    host.current_user = referrer
    totals = host.client().get(STATS).get_json()["totals"]
    assert (totals["signups"], totals["conversions"], totals["earned_cents"]) == (2, 1, 1000)


@pytest.mark.parametrize("role", [None, ROLE])
def test_who_is_younger_than_the_replica_has_statistics(
    pair: Pair, make: MakeHost, role: str | None
) -> None:
    """And their code, once there is one: reading them makes none."""
    host = make(REFERRAL_RLS_ROLE=role)
    known = host.add_user()
    with granted(pair, host), pair.behind():
        for user in (known, host.add_user()):
            assert clicks_told(host, user) == [0] * 3
            assert host.client().get(STATS).get_json()["code"] is None
            code = host.client().post("/api/referral/generate").get_json()["code"]
            found = host.client().get(STATS).get_json()
            assert found["code"] == code
            assert found["link"].endswith(f"/r/{code}")
        with host.app.test_request_context(), pytest.raises(UnknownUser):
            host.referral.stats(12345)


@contextlib.contextmanager
def granted(pair: Pair, host: Host) -> t.Iterator[None]:
    """Let the host read as :data:`ROLE`, if it wants to."""
    with host.app.app_context():
        engine = host.db.engine
    if host.referral.state.settings.rls_role is None:
        yield
        return
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {ROLE}")
    try:
        host.cli("rls", "grant", "--user-role", ROLE)
        pair.catch_up()
        yield
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {ROLE}")
            connection.exec_driver_sql(f"DROP ROLE {ROLE}")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_row_level_security_is_in_force_in_the_replica(
    pair: Pair, make: MakeHost, driver: str
) -> None:
    one = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}
    host = make(driver=driver, REFERRAL_RLS_ROLE=ROLE, SQLALCHEMY_ENGINE_OPTIONS=one)
    with host.app.app_context():
        replica = host.db.engines["replica"]

    def who() -> tuple[t.Any, ...]:
        query = "SELECT current_user, coalesce(current_setting('request.jwt.claims', true), '')"
        with replica.connect() as connection:
            return tuple(connection.exec_driver_sql(query).one())

    with granted(pair, host):
        referrer, code = add_referrer(host)
        browser(host).get(f"/r/{code}")
        pair.catch_up()
        roles: list[str] = []

        def collect(connection: t.Any, cursor: t.Any, statement: str, *rest: t.Any) -> None:
            if "referral_clicks" in statement:
                cursor.execute("SELECT current_user")
                roles.append(cursor.fetchone()[0])

        sa.event.listen(replica, "before_cursor_execute", collect)
        assert clicks_told(host, referrer) == [1] * 3
        assert roles == [ROLE] * 3
        assert who() == ("postgres", "")
        # It is that role that reads, and a role that may not is no reason to read as another.
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.exec_driver_sql(f"REVOKE SELECT ON referral_rewards FROM {ROLE}")
        pair.catch_up()
        host.current_user = referrer
        assert host.client().get(STATS).status_code == 500
        assert who() == ("postgres", "")
    pair.catch_up()
    with host.app.test_request_context(), pytest.raises(RowSecurityUnavailable):
        host.referral.stats(referrer)


def test_the_session_of_the_request_stays_with_the_primary(pair: Pair, make: MakeHost) -> None:
    host = make()
    referrer = host.add_user(name="before")
    make_code(host, referrer)
    with pair.behind():

        def log_in() -> t.Any:
            user = host.db.session.get(host.User, referrer)
            user.name = "after"
            return user

        host.referral.identity_loader(log_in)
        answer = host.client().get(STATS)
        assert answer.status_code == 200
        with host.app.test_request_context():
            user = log_in()
            host.db.session.flush()
            click = host.referral.models.ReferralClick()
            click.referral_code, click.referrer_user_id = answer.get_json()["code"], referrer
            host.db.session.add(click)
            # What the session has not committed is in no replica.
            assert host.referral.stats(user).totals.clicks == 0
            host.db.session.commit()
            assert host.db.session.get(host.User, referrer).name == "after"
            assert host.referral.stats(user).totals.clicks == 0
    with host.app.test_request_context():
        assert host.referral.stats(referrer).totals.clicks == 1
