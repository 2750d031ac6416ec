"""``--sql`` prints a PostgreSQL script, asks no database, and the script does the same."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import schema
from tests.hosts import Host
from tests.hosts import KEYS
from tests.supabase import SUPABASE

from .conftest import Dump
from .conftest import FlaskDb
from .conftest import Psql
from .shapes import make_shape
from .shapes import supabase_users

NOWHERE = "postgresql+psycopg2://nobody@127.0.0.1:1/nowhere"


def script(host: Host, *args: str) -> str:
    return host.cli("db", *(args or ("upgrade",)), "--sql").stdout


def downgrade_script(host: Host) -> str:
    return script(host, "downgrade", f"{schema.head()}:base")


@pytest.mark.parametrize("key", KEYS)
def test_no_database_is_asked(host_on: t.Callable[..., Host], key: str) -> None:
    urls = [NOWHERE, NOWHERE.replace("psycopg2", "psycopg"), "sqlite:////nowhere/at/all.db"]
    hosts = [host_on(url, migrate=False, key=key) for url in urls]
    assert len({script(host) for host in hosts}) == 1
    assert len({downgrade_script(host) for host in hosts}) == 1
    assert "gen_random_uuid()" in script(hosts[-1])


@pytest.mark.parametrize("key", KEYS)
def test_script_on_a_plain_database(
    new_postgresql_url: t.Callable[[], str],
    host_on: t.Callable[..., Host],
    dump: Dump,
    psql: Psql,
    key: str,
) -> None:
    by_command, by_script = new_postgresql_url(), new_postgresql_url()
    host_on(by_command, key=key)
    text = script(host_on(NOWHERE, migrate=False, key=key))
    host = host_on(by_script, migrate=False, key=key)
    host.create_tables()

    psql(by_script, text)
    assert dump(by_script, only="referral_*") == dump(by_command, only="referral_*")
    assert f"{schema.head()} (head)" in host.cli("db", "current").stdout
    host.cli("db", "check")

    # Again by mistake: the script stops and what is there stays.
    after = dump(by_script)
    assert "already exists" in psql(by_script, text, status=3)
    assert dump(by_script) == after

    psql(by_script, downgrade_script(host))
    assert not any("referral" in line for line in dump(by_script))
    psql(by_script, text)
    assert dump(by_script) == after


@pytest.mark.parametrize("where", ["own", "host"])
def test_script_on_supabase(
    new_postgresql_url: t.Callable[[], str], dump: Dump, psql: Psql, where: str
) -> None:
    by_command, by_script = new_postgresql_url(), new_postgresql_url()
    users = supabase_users(where)
    text = script(make_shape(NOWHERE, users, wallet=True))
    hosts = []
    for url in (by_command, by_script):
        psql(url, SUPABASE)
        host = make_shape(url, users, wallet=True)
        with host.app.app_context():
            host.Wallet.__table__.create(host.db.engine)
        hosts.append(host)
    hosts[0].cli("db", "upgrade")
    psql(by_script, text)

    found = dump(by_script, only="referral_*")
    assert found == dump(by_command, only="referral_*")
    policies = [line for line in found if "CREATE POLICY" in line]
    assert len(policies) >= 4
    assert all("auth.uid()" in line for line in policies)
    assert sum("REFERENCES auth.users(id)" in line for line in found) >= 5
    assert not any("TO anon" in line for line in found)
    for host in hosts:
        host.cli("db", "check")
    hosts[0].cli("db", "downgrade", "base")
    psql(by_script, downgrade_script(hosts[1]))
    for url in (by_command, by_script):
        assert not any("referral_c" in line for line in dump(url))
    for host in hosts:
        host.close()


def test_downgraded_supabase_shows_nothing(postgresql_url: str, psql: Psql) -> None:
    """Without policies, what users were granted would show them everybody's rows."""
    psql(postgresql_url, SUPABASE)
    host = make_shape(postgresql_url, supabase_users("own"))
    host.cli("db", "upgrade")
    host.cli("db", "downgrade", "0001")
    query = sa.text(
        "SELECT count(*) FROM pg_class, (VALUES ('anon'), ('authenticated')) AS api(role) "
        "WHERE relname IN ('referral_codes', 'referral_clicks', 'referral_conversions') "
        "AND has_table_privilege(role, pg_class.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')"
    )
    with host.app.app_context(), host.db.engine.connect() as connection:
        assert connection.scalar(query) == 0
    host.close()


LISTED = (
    "type IN ('deal_payment', 'affiliate_commission', 'withdrawal', 'adjustment')",
    "type = 'deal_payment'",
    "type IS NULL OR type = 'withdrawal' OR type IN ('adjustment')",
)
MORE = {
    "type IN ('deal_payment', 'gift', 'it''s')": "allows gift, it''s",
    "type = 'gift'": "allows gift",
    "type IN ('deal_payment') OR type = 'gift'": "allows gift",
    "type <> 'gift'": "is more than a list of values",
    "type IN ('deal_payment') AND reference_id <> ''": "is more than a list of values",
    "NOT (type = 'withdrawal')": "is more than a list of values",
    "lower(type) = 'withdrawal'": "is more than a list of values",
    "length(type) > 3": "is more than a list of values",
    "type IN ('deal_payment', 'a' || 'b')": "is more than a list of values",
}


def make_wallet(host: Host, url: str, psql: Psql, rule: str, type_: str = "text") -> None:
    with host.app.app_context():
        host.User.__table__.create(host.db.engine)
    psql(
        url,
        f"CREATE TABLE wallet_transactions (user_id int, type {type_} CONSTRAINT "
        f"wallet_transactions_type_check CHECK ({rule}), reference_type text, reference_id text)",
    )


@pytest.mark.parametrize("type_", ["text", "varchar(40)"])
@pytest.mark.parametrize("rule", LISTED)
def test_script_widens_a_list_of_documented_values(
    postgresql_url: str, host_on: t.Callable[..., Host], psql: Psql, rule: str, type_: str
) -> None:
    host = host_on(postgresql_url, migrate=False)
    make_wallet(host, postgresql_url, psql, rule, type_)
    text = script(host)
    psql(postgresql_url, text)
    psql(postgresql_url, "INSERT INTO wallet_transactions (type) VALUES ('referral_bonus')")
    psql(postgresql_url, "DELETE FROM wallet_transactions")
    psql(postgresql_url, downgrade_script(host))
    # What the script wrote is a list, too, as is what the command makes of one.
    psql(postgresql_url, text)


@pytest.mark.parametrize("type_", ["text", "varchar(40)"])
@pytest.mark.parametrize("rule", MORE)
def test_script_refuses_to_drop_what_a_rule_allows(
    postgresql_url: str,
    host_on: t.Callable[..., Host],
    psql: Psql,
    dump: Dump,
    rule: str,
    type_: str,
) -> None:
    """Also where no row uses it."""
    host = host_on(postgresql_url, migrate=False)
    make_wallet(host, postgresql_url, psql, rule, type_)
    before = dump(postgresql_url, only="wallet_transactions")
    said = psql(postgresql_url, script(host), status=3)
    assert (
        f"the CHECK wallet_transactions_type_check of wallet_transactions {MORE[rule]}, which this "
        "script would drop; run flask referral db upgrade or downgrade on the database itself"
    ) in said
    assert dump(postgresql_url, only="wallet_transactions") == before
    # The cure: it goes on where the script stopped, and keeps what was allowed.
    host.cli("db", "upgrade")
    after = dump(postgresql_url, only="wallet_transactions")
    assert after != before
    said = psql(postgresql_url, script(host, "downgrade", "0003:0002"), status=3)
    assert "which this script would drop" in said
    assert dump(postgresql_url, only="wallet_transactions") == after


def test_script_undoes_what_the_command_made_of_a_list(
    postgresql_url: str, host_on: t.Callable[..., Host], psql: Psql
) -> None:
    host = host_on(postgresql_url)
    psql(postgresql_url, downgrade_script(host))
    psql(postgresql_url, script(host))


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_script_keeps_a_wallet_with_other_values(
    postgresql_url: str, host_on: t.Callable[..., Host], psql: Psql, dump: Dump, direction: str
) -> None:
    """The documented lists are written only where no row is outside of them."""
    host = host_on(postgresql_url, migrate=False)
    make_wallet(host, postgresql_url, psql, "type IN ('deal_payment')")
    if direction == "upgrade":
        # Such rows a constraint can have that is not valid.
        psql(
            postgresql_url,
            "ALTER TABLE wallet_transactions DROP CONSTRAINT wallet_transactions_type_check;"
            "INSERT INTO wallet_transactions (type) VALUES ('gift');"
            "ALTER TABLE wallet_transactions ADD CONSTRAINT wallet_transactions_type_check "
            "CHECK (type IN ('deal_payment')) NOT VALID",
        )
    else:
        psql(postgresql_url, script(host))
        psql(postgresql_url, "INSERT INTO wallet_transactions (type) VALUES ('referral_bonus')")
    before = dump(postgresql_url, only="wallet_transactions")
    text = script(host) if direction == "upgrade" else script(host, "downgrade", "0003:0002")
    if direction == "downgrade":
        host.cli("db", "downgrade", "0003")
        before = dump(postgresql_url, only="wallet_transactions")
    said = psql(postgresql_url, text, status=3)
    assert "has rows whose type is not one of the documented values" in said
    assert dump(postgresql_url, only="wallet_transactions") == before


@pytest.mark.parametrize("table", ["users", "wallet_transactions"])
def test_script_gives_up_on_a_lock(
    postgresql_url: str,
    host_on: t.Callable[..., Host],
    dump: Dump,
    psql: Psql,
    table: str,
) -> None:
    """A printed script cannot try again, but it does not make everybody wait either."""
    host = host_on(postgresql_url, migrate=False)
    host.create_tables()
    # Five seconds are long for a test.
    text = script(host).replace("lock_timeout = 5000", "lock_timeout = 50")
    with host.app.app_context(), host.db.engine.connect() as connection:
        connection.exec_driver_sql(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
        assert "lock timeout" in psql(postgresql_url, text, status=3)
    if table == "users":
        assert not any("referral_codes" in line for line in dump(postgresql_url))


def test_flask_migrate_prints_the_same(host_on: t.Callable[..., Host], flask_db: FlaskDb) -> None:
    host = host_on(NOWHERE, migrate=False)
    printed = flask_db(host, "upgrade", "--sql", folder=schema.migrations_path())
    assert printed is not None
    assert printed.stdout == script(host)


def test_downgrade_needs_both_ends(host_on: t.Callable[..., Host]) -> None:
    host = host_on(NOWHERE, migrate=False)
    newest = schema.history()[-1]
    assert script(host, "downgrade") == script(
        host, "downgrade", f"{newest.revision}:{newest.down_revision}"
    )
    assert script(host, "downgrade", "base") == script(host, "downgrade", f"{newest.revision}:base")
