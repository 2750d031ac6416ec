"""Drivers, engines and ways of starting an application."""

from __future__ import annotations

import sys
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event

from flask_referral import Referral
from flask_referral import schema
from tests.hosts import Host
from tests.hosts import key_column

from .conftest import Dump

#: Python 3.12 has two further ways of handling SQLite's transactions.
DRIVER_STYLES: list[dict[str, t.Any]] = [{}]
if sys.version_info >= (3, 12):
    DRIVER_STYLES += [{"autocommit": False}, {"autocommit": True}]


def test_psycopg_3(postgresql_url: str, host_on: t.Callable[..., Host], dump: Dump) -> None:
    host = host_on(postgresql_url.replace("psycopg2", "psycopg"), migrate=False, key="uuid")
    host.create_tables()
    before = dump(postgresql_url)
    host.cli("db", "upgrade")
    host.cli("db", "check")
    after = dump(postgresql_url)
    host.cli("db", "downgrade", "base")
    assert dump(postgresql_url) == before
    host_on(postgresql_url, migrate=False, key="uuid").cli("db", "upgrade")
    assert dump(postgresql_url) == after


@pytest.mark.parametrize("arguments", DRIVER_STYLES)
def test_sqlite_in_memory(host_on: t.Callable[..., Host], arguments: dict[str, t.Any]) -> None:
    """Where the one connection cannot be thrown away."""
    host = host_on("sqlite://", SQLALCHEMY_ENGINE_OPTIONS={"connect_args": arguments})
    host.cli("db", "check")
    host.current_user = host.add_user()
    assert host.client().post("/api/referral/generate").status_code == 200
    with host.app.app_context(), host.db.engine.connect() as connection:
        driver: t.Any = connection.connection.dbapi_connection
        assert driver.isolation_level == ""
        assert arguments.get("autocommit") in (None, getattr(driver, "autocommit", None))
    host.cli("db", "downgrade", "base")
    with host.app.app_context():
        assert set(sa.inspect(host.db.engine).get_table_names()) == {
            "users",
            "wallet_transactions",
        }


def test_sqlite_with_foreign_keys(sqlite_url: str, host_on: t.Callable[..., Host]) -> None:
    """Hosts that switch them on lose no rows of their own, up or down."""
    host = host_on(sqlite_url, migrate=False)
    with host.app.app_context():
        engine = host.db.engine
    event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys=ON"))
    host.create_tables()
    with engine.begin() as connection:
        for sql in (
            "CREATE TABLE receipts (id INTEGER PRIMARY KEY, wallet_id INTEGER REFERENCES "
            "wallet_transactions (id) ON DELETE CASCADE)",
            "INSERT INTO users (id) VALUES (1)",
            "INSERT INTO wallet_transactions (id, user_id, amount_cents, type) "
            "VALUES (1, 1, 5, 'deal_payment')",
            "INSERT INTO receipts (wallet_id) VALUES (1)",
        ):
            connection.exec_driver_sql(sql)
    for command in (["upgrade"], ["downgrade", "base"], ["upgrade"]):
        host.cli("db", *command)
        with engine.connect() as connection:
            counts = [
                connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
                for table in ("users", "wallet_transactions", "receipts")
            ]
            assert counts == [1, 1, 1]
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


ENGINE_OPTIONS: dict[str, dict[str, t.Any]] = {
    "autocommit": {"isolation_level": "AUTOCOMMIT"},
    "autocommit by option": {"execution_options": {"isolation_level": "AUTOCOMMIT"}},
    "serializable": {"isolation_level": "SERIALIZABLE"},
    "no pool": {"poolclass": sa.NullPool},
}
CASES = [
    pytest.param(database, options, id=f"{database}-{name}")
    for database in ("sqlite", "postgresql")
    for name, options in ENGINE_OPTIONS.items()
]
CASES += [
    pytest.param("sqlite", {"connect_args": arguments}, id=f"sqlite-{arguments}")
    for arguments in DRIVER_STYLES[1:]
]


@pytest.mark.parametrize(("database", "options"), CASES)
def test_engine_of_the_host(
    request: pytest.FixtureRequest,
    host_on: t.Callable[..., Host],
    dump: Dump,
    database: str,
    options: dict[str, t.Any],
) -> None:
    """A refusal leaves nothing behind, whatever the application's transactions are like."""
    url = request.getfixturevalue(f"{database}_url")
    host = host_on(url, migrate=False, SQLALCHEMY_ENGINE_OPTIONS=options)
    with host.app.app_context(), host.db.engine.begin() as connection:
        # CreateTable, not create(), which asks before it does.
        connection.execute(sa.schema.CreateTable(host.User.__table__))
    before = dump(url)
    # The wallet is missing, which revision 0003 finds out.
    assert "wallet_transactions" in host.failure("db", "upgrade")
    assert dump(url) == before
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(sa.schema.CreateTable(host.Wallet.__table__))
    before = dump(url)
    host.cli("db", "upgrade")
    host.cli("db", "check")
    host.cli("db", "downgrade", "base")
    assert dump(url) == before


def test_sqlite_with_the_transactions_of_the_documentation(
    sqlite_url: str, host_on: t.Callable[..., Host], dump: Dump
) -> None:
    """SQLAlchemy's recipe for SQLite: the driver begins nothing, an event says BEGIN."""
    host = host_on(sqlite_url, migrate=False)
    with host.app.app_context():
        engine = host.db.engine

    @event.listens_for(engine, "connect")
    def begin_nothing(driver: t.Any, record: t.Any) -> None:
        driver.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    with engine.begin() as connection:
        connection.execute(sa.schema.CreateTable(host.User.__table__))
    before = dump(sqlite_url)
    assert "wallet_transactions" in host.failure("db", "upgrade")
    assert dump(sqlite_url) == before
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateTable(host.Wallet.__table__))
    host.cli("db", "upgrade")
    host.cli("db", "check")
    host.cli("db", "downgrade", "base")


def test_connections_go_back_as_they_were(
    database_url: str, host_on: t.Callable[..., Host]
) -> None:
    host = host_on(
        database_url, migrate=False, SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "AUTOCOMMIT"}
    )

    def is_autocommit() -> bool:
        with host.app.app_context(), host.db.engine.connect() as connection:
            driver: t.Any = connection.connection.dbapi_connection
            if connection.dialect.name == "sqlite":
                return driver.isolation_level is None
            return bool(driver.autocommit)

    host.create_tables()
    assert is_autocommit()
    host.cli("db", "upgrade")
    assert is_autocommit()


def test_fifty_applications(sqlite_url: str) -> None:
    """``create_app()`` again and again in one process, as test suites do."""
    db, referral = SQLAlchemy(), Referral()

    class User(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "users"
        id = key_column("int")

    def create_app() -> Flask:
        app = Flask("shop")
        app.config.update(
            SQLALCHEMY_DATABASE_URI=sqlite_url, SECRET_KEY="for tests only", TESTING=True
        )
        db.init_app(app)
        referral.init_app(app, db, user_model=User)
        return app

    apps = [create_app() for _ in range(50)]
    tables = set(db.metadata.tables)
    with apps[24].app_context():
        User.__table__.create(db.engine)
        schema.upgrade()
    for app in apps:
        with app.app_context():
            assert schema.current(referral.state) == schema.head()
            schema.check(referral.state)
            db.engine.dispose()
    assert set(db.metadata.tables) == tables
    with apps[-1].app_context():
        schema.downgrade("base")
        assert sa.inspect(db.engine).get_table_names() == ["users"]
        db.engine.dispose()
