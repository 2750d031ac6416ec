"""``flask referral init``: what is missing is printed or written, and what is printed works."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask_migrate import Migrate

from flask_referral import schema
from flask_referral.schema.balance_trigger import balance_trigger

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS
from ..money import at_once
from ..money import execute
from ..money import pool
from ..money import rows

TRIGGER, MIGRATE = "referral_trigger.sql", "referral_migrate.py"
SETTINGS = "referral_settings.py"


def printed(host: Host) -> dict[str, t.Any]:
    told: dict[str, t.Any] = json.loads(host.cli("init", "--json").stdout)
    return told


def make_tables(host: Host, *, trigger: str | None = None) -> None:
    """Make the host's tables, and run a trigger's text as a migration does."""
    with host.app.app_context():
        for model in (host.User, host.Wallet):
            with host.db.engine.begin() as connection:
                connection.execute(sa.schema.CreateTable(model.__table__))
        if trigger is not None:
            with host.db.engine.begin() as connection:
                connection.execute(sa.text(trigger))


def insert(host: Host, user: t.Any, cents: int) -> None:
    with host.app.app_context():
        host.db.session.add(host.Wallet(user_id=user, amount_cents=cents, type="withdrawal"))
        host.db.session.commit()


def test_everything_is_missing_at_first_and_nothing_at_last(make: MakeHost) -> None:
    host = make(migrate=False, SECRET_KEY=None)
    told = printed(host)
    assert set(told["files"]) == {TRIGGER, MIGRATE, SETTINGS}
    missing = [finding["check"] for finding in told["missing"]]
    assert {"secret-key", "share-links", "user-table", "migrations", "wallet"} <= set(missing)
    assert "SECRET_KEY" in told["files"][SETTINGS]
    text = host.cli("init").stdout
    for name, file in told["files"].items():
        assert f"===== {name} =====\n{file}" in text
    for finding in told["missing"]:
        assert finding["message"] in text

    make_tables(host, trigger=told["files"][TRIGGER])
    host.cli("db", "upgrade")
    told = printed(host)
    assert set(told["files"]) == {SETTINGS}
    host.app.config.update(SECRET_KEY="for tests only", SERVER_NAME="shop.example")
    assert host.cli("init").stdout == "Nothing is missing.\n"
    assert printed(host) == {"missing": [], "files": {}, "written": []}


def test_a_trigger_without_a_lock_is_to_be_dropped_first(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    text = printed(host)["files"][TRIGGER]
    assert "drop it and its function first" in text
    execute(host, "DROP FUNCTION calculate_balance_after CASCADE", text)
    assert TRIGGER not in printed(host)["files"]


def test_include_object_is_printed_until_it_is_there(make_sqlite: MakeHost) -> None:
    host = make_sqlite(migrate=False)
    assert "include_object=schema.include_object" in printed(host)["files"][MIGRATE]
    Migrate(host.app, host.db, include_object=schema.include_object)
    assert MIGRATE not in printed(host)["files"]
    # One of the host's own that asks ours.
    both = lambda *asked: schema.include_object(*asked) and asked[1] != "spatial_ref_sys"  # noqa: E731
    Migrate(host.app, host.db, include_object=both)
    assert MIGRATE not in printed(host)["files"]
    Migrate(host.app, host.db, include_object=lambda *asked: True)
    assert MIGRATE in printed(host)["files"]


def test_identity_is_missing(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    host.referral.identity_loader(None)  # type: ignore[arg-type]
    (finding,) = [each for each in printed(host)["missing"] if each["check"] == "identity"]
    assert "@referral.identity_loader" in finding["cure"]


def test_files_are_never_written_over(make_sqlite: MakeHost, tmp_path: Path) -> None:
    host = make_sqlite(migrate=False)
    folder = tmp_path / "new" / "folder"
    files = printed(host)["files"]
    told = host.cli("init", "--write", str(folder)).stdout
    assert {path.name: path.read_text() for path in folder.iterdir()} == files
    assert all(str(folder / name) in told for name in files)

    (folder / TRIGGER).write_text("mine")
    (folder / MIGRATE).unlink()
    refused = host.failure("init", "--write", str(folder))
    assert str(folder / TRIGGER) in refused and "nothing was written" in refused
    assert (folder / TRIGGER).read_text() == "mine"
    assert not (folder / MIGRATE).exists()


def test_files_are_written_here_by_default(
    make_sqlite: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_sqlite(migrate=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    written = json.loads(host.cli("init", "--json", "--write").stdout)["written"]
    assert sorted(written) == sorted(path.name for path in Path().iterdir())


@pytest.mark.parametrize("may_lock_users", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_the_trigger_is_right_where_no_writer_locks(
    make_postgresql: MakeHost, key: str, may_lock_users: bool
) -> None:
    host = make_postgresql(migrate=False, key=key, **pool(16))
    trigger = balance_trigger(
        host.Wallet.__table__, host.User.__table__.c.id, "postgresql", may_lock_users=may_lock_users
    )
    make_tables(host, trigger=trigger)
    user = host.add_user()

    def write() -> None:
        for _ in range(10):
            insert(host, user, 100)

    at_once([write] * 8)
    with host.app.app_context():
        wallet = host.Wallet
        query = sa.select(wallet.balance_after_cents).order_by(wallet.created_at)
        assert host.db.session.scalars(query).all() == [100 * n for n in range(1, 81)]


def test_the_lock_is_the_one_that_credits_take(
    postgresql_url: str, host_on: t.Callable[..., Host]
) -> None:
    """A name's, where the application may not lock rows of its users."""
    owner = host_on(postgresql_url, migrate=False)
    make_tables(owner)
    locked = "FROM users WHERE id OPERATOR(pg_catalog.=) NEW.user_id FOR NO KEY UPDATE"
    assert locked in printed(owner)["files"][TRIGGER]
    execute(owner, "CREATE ROLE init_reader LOGIN", "GRANT SELECT ON users TO init_reader")
    url = sa.make_url(postgresql_url).set(username="init_reader")
    reader = host_on(url.render_as_string(hide_password=False), migrate=False)
    try:
        assert "concat('flask_referral.wallet:', NEW.user_id)" in printed(reader)["files"][TRIGGER]
    finally:
        reader.close()
        execute(owner, "DROP OWNED BY init_reader", "DROP ROLE init_reader")


def test_the_trigger_goes_on_from_what_is_there(make: MakeHost) -> None:
    """Also from rows that have no balance, and for each wallet by itself."""
    host = make(migrate=False)
    trigger = printed(host)["files"][TRIGGER]
    make_tables(host)
    user, other = host.add_user(), host.add_user()
    insert(host, user, 700)
    insert(host, user, -200)
    execute(host, trigger)
    for cents in (50, -25):
        insert(host, user, cents)
    insert(host, other, 10)
    assert [balance for *_, balance in rows(host, user)] == [None, None, 550, 525]
    assert [balance for *_, balance in rows(host, other)] == [10]


def test_the_trigger_speaks_the_hosts_names(make_postgresql: MakeHost) -> None:
    host = make_postgresql(migrate=False)
    metadata = sa.MetaData()
    users = sa.Table("The Users", metadata, sa.Column("Key", sa.Integer, primary_key=True))
    wallet = sa.Table(
        "Wallet", metadata, *(column._copy() for column in host.Wallet.__table__.c), schema="own"
    )
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA own")
        for table in (users, wallet):
            for column in table.c:
                column.foreign_keys.clear()
            connection.execute(sa.schema.CreateTable(table, include_foreign_key_constraints=[]))
        connection.execute(sa.text(balance_trigger(wallet, users.c["Key"], "postgresql")))
        connection.execute(sa.insert(users).values({"Key": 7}))
        for cents in (5, 6):
            values = {"user_id": 7, "amount_cents": cents, "type": "a", "status": "completed"}
            connection.execute(sa.insert(wallet).values(values))
        found = connection.scalars(sa.select(wallet.c.balance_after_cents)).all()
    assert found == [5, 11]


@pytest.mark.parametrize("problem", ["missing", "not null"])
def test_a_wallet_that_the_trigger_cannot_fill_is_told(make: MakeHost, problem: str) -> None:
    host = make(migrate=False)
    table = host.Wallet.__table__
    with host.app.app_context():
        sqlite = host.db.engine.dialect.name == "sqlite"
    if problem == "missing":
        table._columns.remove(table.c.balance_after_cents)
    else:
        table.c.balance_after_cents.nullable = False
    told = printed(host)
    found = [each["message"] for each in told["missing"] if each["check"] == "wallet-columns"]
    if problem == "not null" and not sqlite:
        assert not found and TRIGGER in told["files"]
    else:
        assert len(found) == 1 and "balance_after_cents" in found[0]
        assert TRIGGER not in told["files"]


def test_without_a_wallet_there_is_no_trigger(make_sqlite: MakeHost) -> None:
    assert TRIGGER not in printed(make_sqlite(migrate=False, wallet=False))["files"]
