"""What ``flask referral doctor`` says about the database and the migrations."""

from __future__ import annotations

import sqlite3
import typing as t
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from flask_referral import doctor

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import make_host
from ..money import refer
from ..visiting import make_code
from .conftest import examine
from .conftest import execute
from .conftest import finding
from .conftest import grant
from .conftest import HEALTHY
from .conftest import ill
from .conftest import is_sqlite
from .conftest import ROLE

#: Without the check that is made where REFERRAL_READ_BIND is set.
NEED_DATABASE = {check.name for check in doctor.CHECKS if "database" in check.needs} - {"read-bind"}
SQLITE_ONLY = {"deleted-users"}
POSTGRESQL_ONLY = {"row-security-role", "database-login", "search-path", "transactions"}


@pytest.fixture(params=["psycopg2", "psycopg", "sqlite"])
def away(request: pytest.FixtureRequest, tmp_path: t.Any) -> t.Iterator[Host]:
    """Build a host whose database cannot be reached."""
    url = f"sqlite:///{tmp_path}/missing/folder.db"
    if request.param != "sqlite":
        # Nothing listens on port 1.
        url = f"postgresql+{request.param}://nobody:hush-hush@127.0.0.1:1/nothing"
    host = make_host(url, **HEALTHY)
    yield host
    host.close()


def test_the_database_is_away(away: Host) -> None:
    text = finding(away, "database", "fault")
    assert "did not answer" in text
    assert "SQLALCHEMY_DATABASE_URI" in text
    assert "hush-hush" not in text
    levels = ill(away)
    assert levels.pop("database") == "fault"
    expected = NEED_DATABASE - (POSTGRESQL_ONLY if is_sqlite(away) else SQLITE_ONLY)
    assert levels == dict.fromkeys(expected, "not_checked")
    result = away.cli("doctor", status=1)
    assert result.stdout.count("did not answer") == 1
    assert "not checked" in result.stdout
    assert result.stderr == ""


def test_the_database_goes_away_in_the_middle(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**HEALTHY, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": sa.NullPool})
    connections: list[int] = []

    def connect(*args: t.Any) -> None:
        connections.append(1)
        if len(connections) > 2:
            raise sqlite3.OperationalError("unable to open database file")

    with host.app.app_context():
        event.listen(host.db.engine, "do_connect", connect)
    findings = examine(host)
    faults = [each for each in findings if each["level"] == "fault"]
    assert [each["check"] for each in faults] == ["migrations"]
    assert "did not answer" in faults[0]["message"]
    skipped = {each["check"] for each in findings if each["level"] == "not_checked"}
    assert skipped == NEED_DATABASE - POSTGRESQL_ONLY - {"user-table", "migrations"}


@pytest.mark.parametrize(
    ("fixture", "version", "old"),
    [
        ("postgresql_host", (12, 22), True),
        ("postgresql_host", (13, 0), False),
        ("sqlite_host", (3, 34, 1), True),
        ("sqlite_host", (3, 35, 0), False),
    ],
)
def test_version(
    request: pytest.FixtureRequest, fixture: str, version: tuple[int, ...], old: bool
) -> None:
    host = request.getfixturevalue(fixture)
    with host.app.app_context():
        host.db.engine.dialect.server_version_info = version
    said = {each["check"]: each for each in examine(host)}["database"]
    assert (said["level"] == "fault") is old
    assert ".".join(map(str, version)) in said["message"]


def test_nothing_is_there(make: MakeHost) -> None:
    host = make(migrate=False, **HEALTHY)
    said = {each["check"]: each for each in examine(host)}
    assert said["user-table"]["level"] == "fault"
    assert "'users' does not exist" in said["user-table"]["message"]
    assert "flask db upgrade" in said["user-table"]["cure"]
    assert said["wallet"]["level"] == "fault"
    assert "'wallet_transactions' does not exist" in said["wallet"]["message"]
    # One of these needs another that was not checked either.
    for check in ("migrations", "models", "wallet-values"):
        assert said[check]["level"] == "not_checked"


def mended_by_upgrade(host: Host) -> None:
    host.cli("db", "upgrade")
    grant(host)
    assert ill(host) == {}


def test_never_migrated(host: Host) -> None:
    host.cli("db", "downgrade", "base", "--yes")
    said = {each["check"]: each for each in examine(host)}["migrations"]
    assert said["level"] == "fault"
    assert "never run" in said["message"]
    assert said["cure"] == "Run flask referral db upgrade."
    mended_by_upgrade(host)


def test_behind(host: Host) -> None:
    host.cli("db", "downgrade", "0001", "--yes")
    said = {each["check"]: each for each in examine(host)}
    assert said["migrations"]["level"] == "fault"
    assert "at revision 0001, and the newest is" in said["migrations"]["message"]
    assert said["models"]["level"] == "not_checked"
    # What the missing revisions are for is told as well.
    assert said["wallet-values"]["level"] == "fault"
    mended_by_upgrade(host)


def test_tables_without_a_version_row(host: Host) -> None:
    host.cli("db", "downgrade", "base", "--yes")
    with host.app.app_context():
        for model in ("ReferralCode", "ReferralClick", "ReferralConversion"):
            getattr(host.referral.models, model).__table__.create(host.db.engine)
    said = {each["check"]: each for each in examine(host)}["migrations"]
    assert said["level"] == "fault"
    assert "no record of our revisions" in said["message"]
    assert "flask referral db stamp 0001" in said["cure"]
    host.cli("db", "stamp", "0001")
    mended_by_upgrade(host)


def test_made_by_a_newer_version(host: Host) -> None:
    execute(host, "UPDATE referral_alembic_version SET version_num = '9999'")
    text = finding(host, "migrations", "fault")
    assert "9999" in text
    assert "Install" in text


def test_a_table_was_dropped(host: Host) -> None:
    execute(host, "DROP TABLE referral_rewards")
    assert "has no referral_rewards" in finding(host, "migrations", "fault")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP INDEX idx_referral_clicks_clicked_at", "idx_referral_clicks_clicked_at is missing"),
        ("ALTER TABLE referral_codes ADD x int", "column referral_codes.x is not ours"),
        ("ALTER TABLE referral_clicks DROP COLUMN ip_hash", "referral_clicks.ip_hash is missing"),
    ],
)
def test_somebody_changed_a_table(host: Host, statement: str, words: str) -> None:
    execute(host, statement)
    assert words in finding(host, "models", "fault")


def test_differences_in_words(postgresql_host: Host) -> None:
    execute(
        postgresql_host,
        "ALTER TABLE referral_clicks ALTER referrer_user_id DROP NOT NULL",
        "ALTER TABLE referral_clicks DROP CONSTRAINT referral_clicks_referral_code_fkey",
        "ALTER TABLE referral_clicks DROP CONSTRAINT "
        "referral_clicks_referred_user_id_referral_code_key",
    )
    text = finding(postgresql_host, "models", "fault")
    assert "the nullable of column referral_clicks.referrer_user_id differs" in text
    assert "foreign key referral_clicks_referral_code_fkey is missing" in text
    assert "constraint referral_clicks_referred_user_id_referral_code_key is missing" in text


def test_what_may_not_be_read_is_a_fault_and_no_traceback(
    postgresql_host: Host, postgresql_url: str
) -> None:
    execute(
        postgresql_host,
        "DO $$ BEGIN IF to_regrole('doctor_blind') IS NULL THEN "
        "CREATE ROLE doctor_blind LOGIN; END IF; END $$",
    )
    url = sa.make_url(postgresql_url).set(username="doctor_blind")
    host = make_host(url.render_as_string(hide_password=False), REFERRAL_RLS_ROLE=ROLE, **HEALTHY)
    findings = {each["check"]: each for each in examine(host)}
    host.close()
    for check in ("migrations", "wallet-balances"):
        assert findings[check]["level"] == "fault"
        assert "permission denied" in findings[check]["message"]


def test_a_missing_trigger_on_the_users_is_a_fault(sqlite_host: Host) -> None:
    execute(sqlite_host, "DROP TRIGGER referral_users_deleted")
    text = finding(sqlite_host, "deleted-users", "fault")
    assert "referral_users_deleted on 'users' is missing" in text


@pytest.mark.parametrize("on", [False, True])
def test_foreign_keys_that_are_off_are_told(sqlite_host: Host, on: bool) -> None:
    with sqlite_host.app.app_context():
        engine = sqlite_host.db.engine
    engine.dispose()

    @event.listens_for(engine, "connect")
    def switch(connection: t.Any, record: t.Any) -> None:
        connection.execute(f"PRAGMA foreign_keys = {'ON' if on else 'OFF'}")

    (said,) = [each for each in examine(sqlite_host) if each["check"] == "deleted-users"]
    assert said["level"] == "ok"
    assert ("PRAGMA foreign_keys = ON" in said["message"]) is not on


def test_the_database_that_statistics_are_read_from(
    new_database_url: t.Callable[[], str], host_on: t.Callable[..., Host], tmp_path: Path
) -> None:
    url, other = new_database_url(), new_database_url()
    host_on(other)

    def read_from(url_of_bind: str) -> Host:
        binds = {"SQLALCHEMY_BINDS": {"copy": url_of_bind}, "REFERRAL_READ_BIND": "copy"}
        return host_on(url, migrate=False, **HEALTHY, **binds)

    host_on(url)
    host = read_from(url)
    assert "read-bind" not in ill(host)
    make_code(host, host.add_user())
    assert "read-bind" not in ill(host)

    def told(url_of_bind: str) -> str:
        found = [each for each in examine(read_from(url_of_bind)) if each["check"] == "read-bind"]
        assert [each["level"] for each in found] == ["fault"]
        assert "'copy' of REFERRAL_READ_BIND" in found[0]["message"]
        return f"{found[0]['message']} {found[0]['cure']}"

    assert "does not have, or does not show its login, a code" in told(other)
    assert "cannot be read" in told(new_database_url())
    away = f"sqlite:///{tmp_path}/missing/folder.db"
    if not is_sqlite(host):
        away = "postgresql+psycopg2://nobody:hush-hush@127.0.0.1:1/nothing"
    text = told(away)
    assert "did not answer" in text
    assert "SQLALCHEMY_BINDS" in text
    assert "hush-hush" not in text


def test_transaction_that_waits_for_something_else_with_locks(
    make_postgresql: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_referral.doctor.database.LONGEST_IDLE", 0)
    host = make_postgresql(**HEALTHY)
    buyer = refer(host, host.add_user())

    def said() -> str:
        return " ".join(
            f"{each['level']} {each['message']} {each['cure']}"
            for each in examine(host)
            if each["check"] == "transactions"
        )

    with host.app.app_context():
        host.db.session.execute(sa.select(host.User.id)).all()
        # Who has read only keeps nobody waiting.
        assert said().startswith("ok")
        host.referral.convert(buyer, "mem_1")
        pid = host.db.session.scalar(sa.text("SELECT pg_backend_pid()"))
        assert said().startswith(f"warning Session {pid} ")
        assert "after the commit" in said()
        host.db.session.commit()
        assert said().startswith("ok")


def test_url_that_names_no_driver(postgresql_url: str, host_on: t.Callable[..., Host]) -> None:
    host = host_on(postgresql_url.replace("+psycopg2", ""), **HEALTHY)
    said = [each for each in examine(host) if each["check"] == "driver"]
    assert [each["level"] for each in said] == ["warning"]
    assert "postgresql+psycopg2://" in str(said)
