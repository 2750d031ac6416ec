"""What is refused, or fails, leaves everything as it was, the version table included."""

from __future__ import annotations

import shutil
import typing as t
from pathlib import Path

import pytest
import sqlalchemy as sa

from flask_referral import schema
from flask_referral.errors import ReferralError
from flask_referral.schema import ddl_locks
from tests.hosts import Host

from .conftest import Dump

#: A revision after the newest, which breaks off after a change.
BROKEN = """
import sqlalchemy as sa
from alembic import op
from flask_referral.errors import MigrationRefused
revision = "9999"
down_revision = "{head}"


def upgrade():
    op.create_table("referral_later", sa.Column("id", sa.Integer))
    {failure}


def downgrade():
    op.drop_table("referral_later")
"""
FAILURES = {
    "refused": 'raise MigrationRefused("No.")',
    "database": 'op.execute("SELECT * FROM not_there")',
    "interrupted": "raise KeyboardInterrupt",
}


@pytest.fixture
def with_later_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[str], None]:
    """Return a function that adds a revision with these last words to the shipped chain."""
    folder = tmp_path / "shipped"
    shutil.copytree(schema.migrations_path(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = BROKEN.replace("{head}", schema.head())

    def add(failure: str) -> None:
        later = folder / "versions" / "9999_later.py"
        later.write_text(text.replace("{failure}", failure))
        monkeypatch.setattr(schema, "migrations_path", lambda: folder)

    return add


def url_of(host: Host) -> str:
    with host.app.app_context():
        return host.db.engine.url.render_as_string(hide_password=False)


def current(host: Host) -> str | None:
    with host.app.app_context():
        return schema.current(host.referral.state)


def test_user_table_is_missing(
    database_url: str, host_on: t.Callable[..., Host], dump: Dump
) -> None:
    host = host_on(database_url, migrate=False)
    before = dump(database_url)
    assert "The user table 'users' does not exist" in host.failure("db", "upgrade")
    assert dump(database_url) == before


def test_wallet_is_missing(database_url: str, host_on: t.Callable[..., Host], dump: Dump) -> None:
    host = host_on(database_url, migrate=False)
    with host.app.app_context():
        host.User.__table__.create(host.db.engine)
    before = dump(database_url)
    assert "wallet_transactions" in host.failure("db", "upgrade")
    assert dump(database_url) == before


def test_tables_without_a_record(
    database_url: str, host_on: t.Callable[..., Host], dump: Dump
) -> None:
    host = host_on(database_url, migrate=False)
    with host.app.app_context():
        host.db.create_all()
        host.db.metadata.tables["referral_alembic_version"].drop(host.db.engine)
    before = dump(database_url)
    assert "flask referral db stamp 0001" in host.failure("db", "upgrade")
    assert dump(database_url) == before


@pytest.mark.parametrize("failure", FAILURES)
def test_later_revision_fails(
    database_url: str,
    host_on: t.Callable[..., Host],
    dump: Dump,
    with_later_revision: t.Callable[[str], None],
    failure: str,
) -> None:
    """Without a live wallet the whole chain is one transaction."""
    host = host_on(database_url, migrate=False, wallet=False)
    host.create_tables()
    before = dump(database_url)
    with_later_revision(FAILURES[failure])
    with host.app.app_context(), pytest.raises((ReferralError, KeyboardInterrupt)):
        schema.upgrade()
    assert dump(database_url) == before
    assert current(host) is None

    with_later_revision("pass")
    host.cli("db", "upgrade")
    assert current(host) == "9999"


def test_later_revision_fails_after_a_live_wallet(
    database_url: str,
    host_on: t.Callable[..., Host],
    dump: Dump,
    with_later_revision: t.Callable[[str], None],
) -> None:
    """A live wallet is changed in steps of its own; what is recorded is what is there."""
    host = host_on(database_url, migrate=False)
    host.create_tables()
    with_later_revision(FAILURES["refused"])
    assert "No." in host.failure("db", "upgrade")
    stopped_at = current(host)
    after = dump(database_url)
    assert not any("referral_later" in line for line in after)
    if stopped_at is not None:
        host.cli("db", "downgrade", "base")
        host.cli("db", "upgrade", stopped_at)
        assert dump(database_url) == after

    with_later_revision("pass")
    host.cli("db", "upgrade")
    assert current(host) == "9999"


def test_failing_step_down(
    database_url: str,
    host_on: t.Callable[..., Host],
    dump: Dump,
    with_later_revision: t.Callable[[str], None],
) -> None:
    host = host_on(database_url)
    before = dump(database_url)
    with_later_revision("pass")
    with host.app.app_context():
        schema.upgrade()
        with host.db.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE referral_later")
            # Not what the revision wants to drop, so the downgrade fails.
            connection.exec_driver_sql("CREATE VIEW referral_later AS SELECT 1 AS one")
    changed = dump(database_url)
    assert "The database refused" in host.failure("db", "downgrade", "base")
    assert dump(database_url) == changed
    assert current(host) == "9999"
    assert [line for line in before if line not in changed] == []


def test_downgrade_with_bonuses_in_the_wallet(
    database_url: str, host_on: t.Callable[..., Host], dump: Dump
) -> None:
    host = host_on(database_url)
    user = host.add_user()
    wallet = host.Wallet.__table__
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(
            sa.insert(wallet).values(
                user_id=user,
                amount_cents=1000,
                type="referral_bonus",
                reference_type="referral_conversion",
            )
        )
    before = dump(database_url)
    assert "referral_bonus" in host.failure("db", "downgrade", "base")
    assert dump(database_url) == before
    assert current(host) == schema.head()


#: What waits for ever is a failure, not a test that hangs.
IMPATIENT = {"connect_args": {"options": "-c statement_timeout=30s"}}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for locks for moments only."""
    monkeypatch.setattr(ddl_locks, "ATTEMPTS", 3)
    monkeypatch.setattr(ddl_locks, "LOCK_TIMEOUT_MS", 30)
    monkeypatch.setattr(ddl_locks, "FIRST_PAUSE", 0.01)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_open_transaction_on_users(
    postgresql_url: str, host_on: t.Callable[..., Host], dump: Dump, command: str
) -> None:
    """Foreign keys lock the users: a writer who went to lunch is not waited for."""
    host = host_on(postgresql_url, migrate=False, SQLALCHEMY_ENGINE_OPTIONS=IMPATIENT)
    host.create_tables()
    if command == "downgrade":
        host.cli("db", "upgrade", "0001")
    before = dump(postgresql_url)
    use = "INSERT INTO users DEFAULT VALUES" if command == "upgrade" else "SELECT * FROM users"
    with host.app.app_context(), host.db.engine.connect() as idle:
        idle.exec_driver_sql(use)
        pid = idle.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        said = host.failure("db", command, "base" if command == "downgrade" else "head")
    assert "Could not lock table users" in said
    assert str(pid) in said
    assert dump(postgresql_url) == before


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_others_go_on_while_we_wait(
    postgresql_url: str,
    host_on: t.Callable[..., Host],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    host = host_on(postgresql_url, migrate=False, SQLALCHEMY_ENGINE_OPTIONS=IMPATIENT)
    host.create_tables()
    if command == "downgrade":
        host.cli("db", "upgrade")
    engine = sa.create_engine(postgresql_url, poolclass=sa.NullPool)
    idle = engine.connect()
    idle.exec_driver_sql("INSERT INTO users DEFAULT VALUES")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        with engine.begin() as other:
            other.exec_driver_sql("SET LOCAL lock_timeout = 1")
            other.exec_driver_sql("INSERT INTO users DEFAULT VALUES")
            other.exec_driver_sql("SELECT count(*) FROM users")
        idle.rollback()

    monkeypatch.setattr(ddl_locks, "sleep", pause)
    host.cli("db", command, "base" if command == "downgrade" else "head")
    assert len(pauses) == 1
    assert current(host) == (None if command == "downgrade" else schema.head())
    idle.close()
