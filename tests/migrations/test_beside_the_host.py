"""The shipped chain and the host's own Flask-Migrate history do not notice each other."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import sqlalchemy as sa

from flask_referral import schema
from tests.hosts import Application
from tests.hosts import Host
from tests.hosts import KEYS
from tests.hosts import make_application

from .conftest import Dump
from .conftest import FlaskDb

OUR_TABLES = {"referral_codes", "referral_clicks", "referral_conversions"}


def table_names(host: Application) -> set[str]:
    with host.app.app_context():
        return set(sa.inspect(host.db.engine).get_table_names())


def operations(folder: Path) -> list[list[str]]:
    """Return what each revision's upgrade does, oldest first."""
    files = sorted((folder / "versions").glob("*.py"), key=lambda path: path.stat().st_mtime_ns)
    upgrades = [path.read_text().partition("def downgrade")[0] for path in files]
    return [re.findall(r"op\.(\w\w+\((?:'\w+')?)", text) for text in upgrades]


@pytest.mark.parametrize("convention", [False, True], ids=["plain", "convention"])
@pytest.mark.parametrize("key", KEYS)
def test_host_adds_the_extension(
    database_url: str,
    host_on: t.Callable[..., Host],
    flask_db: FlaskDb,
    own_folder: Path,
    key: str,
    convention: bool,
) -> None:
    before = make_application(database_url, key=key, convention=convention)
    flask_db(before, "init")
    flask_db(before, "migrate")
    flask_db(before, "upgrade")
    hosts_tables = table_names(before)
    before.close()

    host = host_on(database_url, migrate=False, key=key, convention=convention)
    flask_db(host, "upgrade")
    host.cli("db", "upgrade")
    deployed = table_names(host)
    assert hosts_tables | OUR_TABLES < deployed
    flask_db(host, "check")
    host.cli("db", "check")

    host.db.Table("notes", sa.Column("id", sa.Integer, primary_key=True))
    flask_db(host, "migrate")
    assert operations(own_folder)[1:] == [["create_table('notes'"]]
    flask_db(host, "upgrade")
    assert table_names(host) == deployed | {"notes"}
    flask_db(host, "check")
    host.cli("db", "check")

    flask_db(host, "downgrade")
    assert table_names(host) == deployed
    assert f"{schema.head()} (head)" in host.cli("db", "current").stdout


@pytest.mark.parametrize("convention", [False, True], ids=["plain", "convention"])
@pytest.mark.parametrize("made_by", ["history", "create_all"])
def test_host_made_the_tables_itself(
    database_url: str,
    host_on: t.Callable[..., Host],
    flask_db: FlaskDb,
    made_by: str,
    convention: bool,
) -> None:
    host = host_on(database_url, migrate=False, key="uuid", convention=convention)
    if made_by == "create_all":
        with host.app.app_context():
            host.db.create_all()
    else:
        flask_db(host, "init")
        flask_db(host, "migrate")
        flask_db(host, "upgrade")
    tables = table_names(host)

    refused = host.cli("db", "upgrade", status=1)
    assert "run flask referral db stamp 0001, then flask referral db upgrade" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert table_names(host) == tables

    host.cli("db", "stamp", "0001")
    host.cli("db", "upgrade")
    host.cli("db", "check")
    if made_by == "history":
        flask_db(host, "check")
    wallet = host.Wallet.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        user = connection.execute(
            sa.insert(host.User.__table__).returning(host.User.id)
        ).scalar_one()
        connection.execute(
            sa.insert(wallet).values(
                user_id=user,
                amount_cents=1000,
                type="referral_bonus",
                reference_type="referral_conversion",
            )
        )
        if connection.dialect.name == "postgresql":
            secured = connection.scalars(
                sa.text("SELECT relname FROM pg_class WHERE relrowsecurity")
            ).all()
            assert set(secured) >= OUR_TABLES


def test_tables_that_are_nobodys(postgresql_url: str, host_on: t.Callable[..., Host]) -> None:
    """Our check does not look at what it cannot know, such as types of an extension."""
    host = host_on(postgresql_url)
    with host.app.app_context(), host.db.engine.begin() as connection:
        # SQLAlchemy warns when it reflects this.
        connection.exec_driver_sql("CREATE TABLE places (shape polygon)")
        connection.exec_driver_sql("CREATE SCHEMA elsewhere CREATE TABLE referral_codes (id int)")
    host.cli("db", "check")


@pytest.mark.parametrize("table, column", [("referral_codes", "code"), ("referral_rewards", "id")])
def test_a_downgrade_keeps_to_the_hosts_foreign_keys(
    database_url: str, host_on: t.Callable[..., Host], dump: Dump, table: str, column: str
) -> None:
    """It would leave them pointing to nothing, or stop at them half way."""
    host = host_on(database_url)
    target = host.db.metadata.tables[table].c[column]
    about = sa.Column("about", target.type, sa.ForeignKey(target))
    with host.app.app_context(), host.db.engine.begin() as connection:
        # PostgreSQL's in another schema, from which ours is seen as well.
        elsewhere = "elsewhere" if connection.dialect.name == "postgresql" else None
        if elsewhere:
            connection.execute(sa.schema.CreateSchema(elsewhere))
        note = sa.Table("notes", sa.MetaData(schema=elsewhere), about)
        note.create(connection)
    before = dump(database_url)
    refused = host.failure("db", "downgrade", "base", "--yes")
    assert "The downgrade is refused: notes (about) would refer to a table that is gone" in refused
    assert dump(database_url) == before
    assert f"{schema.head()} (head)" in host.cli("db", "current").stdout

    if table == "referral_codes":
        host.cli("db", "downgrade", "0001", "--yes")
    with host.app.app_context():
        note.drop(host.db.engine)
    host.cli("db", "downgrade", "base", "--yes")
    assert not any("referral" in name for name in table_names(host))


def test_host_downgrade_to_base_leaves_ours(
    sqlite_url: str, host_on: t.Callable[..., Host], flask_db: FlaskDb
) -> None:
    before = make_application(sqlite_url)
    flask_db(before, "init")
    flask_db(before, "migrate")
    flask_db(before, "upgrade")
    before.close()
    host = host_on(sqlite_url, migrate=False)
    host.cli("db", "upgrade")
    ours = table_names(host) - {"users", "wallet_transactions"}
    flask_db(host, "downgrade", "base")
    assert table_names(host) == ours
