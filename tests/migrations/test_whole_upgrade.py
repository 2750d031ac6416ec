"""What speaks against any revision of an upgrade is said before the first one changes anything."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import schema
from tests.hosts import Host

from .conftest import Dump
from .conftest import FlaskDb

WALLET = """
CREATE TABLE wallet_transactions (
    id INTEGER, user_id INTEGER, amount_cents INTEGER, balance_after_cents INTEGER,
    type VARCHAR(40) {rule}, reference_type TEXT, reference_id TEXT
) {tail}
"""
BONUS = (
    "INSERT INTO wallet_transactions (id, user_id, amount_cents, type, reference_type, "
    "reference_id) VALUES ({id}, 1, 500, 'referral_bonus', 'referral_conversion', 'c1')"
)
PLAIN = WALLET.format(rule="", tail="")
#: the statements that make the wallet, and what is said
REFUSED = {
    "bonus twice": (
        [PLAIN, BONUS.format(id=1), BONUS.format(id=2)],
        "wallet rows of type 'referral_bonus' with the same reference_id: c1 (2)",
    ),
    "lookup table": (
        [
            "CREATE TABLE kinds (name VARCHAR(40) PRIMARY KEY)",
            WALLET.format(rule="REFERENCES kinds (name)", tail=""),
        ],
        """("name") VALUES ('referral_bonus'), ('adjustment')""",
    ),
}


def refused(host: Host, flask_db: FlaskDb, *, stock: bool) -> str:
    """Return what an upgrade says that has to be refused."""
    if not stock:
        return host.failure("db", "upgrade")
    result = flask_db(host, "upgrade", folder=schema.migrations_path(), status=1)
    assert result is not None
    return result.stdout + result.stderr


def execute(host: Host, *statements: str) -> None:
    with host.app.app_context(), host.db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def make_wallet(host: Host, statements: list[str]) -> None:
    with host.app.app_context():
        host.User.__table__.create(host.db.engine)
    execute(host, *statements)


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_nothing_changed(
    database_url: str,
    host_on: t.Callable[..., Host],
    flask_db: FlaskDb,
    dump: Dump,
    name: str,
    stock: bool,
) -> None:
    host = host_on(database_url, migrate=False)
    statements, message = REFUSED[name]
    make_wallet(host, statements)
    before = dump(database_url)
    assert message in refused(host, flask_db, stock=stock)
    assert dump(database_url) == before


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_a_partitioned_wallet(
    postgresql_url: str,
    host_on: t.Callable[..., Host],
    flask_db: FlaskDb,
    dump: Dump,
    stock: bool,
) -> None:
    host = host_on(postgresql_url, migrate=False)
    make_wallet(host, [WALLET.format(rule="", tail="PARTITION BY HASH (user_id)")])
    before = dump(postgresql_url)
    said = refused(host, flask_db, stock=stock)
    assert "wallet_transactions is partitioned" in said
    assert "ordinary table as wallet_model" in said
    assert dump(postgresql_url) == before


def test_the_wallet_of_another_role(
    postgresql_url: str, host_on: t.Callable[..., Host], dump: Dump
) -> None:
    """Also where no CHECK stands in the way: our index is the owner's to make."""
    host = host_on(postgresql_url, migrate=False)
    make_wallet(host, [PLAIN, "CREATE ROLE deployer LOGIN", "GRANT ALL ON users TO deployer"])
    url = sa.make_url(postgresql_url).set(username="deployer")
    deployer = host_on(url.render_as_string(hide_password=False), migrate=False)
    with host.app.app_context(), host.db.engine.connect() as connection:
        owner = connection.scalar(sa.text("SELECT current_user"))
    try:
        execute(host, "GRANT ALL ON SCHEMA public TO deployer")
        before = dump(postgresql_url)
        assert f'Run this as the role "{owner}"' in deployer.failure("db", "upgrade")
        assert dump(postgresql_url) == before
    finally:
        execute(host, "DROP OWNED BY deployer", "DROP ROLE deployer")


def test_an_enum_that_lacks_our_values_is_no_obstacle(
    postgresql_url: str, host_on: t.Callable[..., Host]
) -> None:
    host = host_on(postgresql_url, migrate=False)
    enum = "CREATE TYPE kind AS ENUM ('deposit')"
    make_wallet(host, [enum, PLAIN.replace("VARCHAR(40)", "kind")])
    host.cli("db", "upgrade")
    execute(host, BONUS.format(id=1))
