"""What ``flask referral doctor`` says about row level security."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import make_host
from .conftest import examine
from .conftest import execute
from .conftest import finding
from .conftest import HEALTHY
from .conftest import ill
from .conftest import replace_trigger
from .conftest import ROLE

LOGIN = "doctor_login"


@pytest.fixture
def roles(postgresql_host: Host) -> t.Iterator[Host]:
    """Make a login that is not the owner, and forget what was granted to either role."""
    tables = ", ".join(table_names(postgresql_host))
    execute(
        postgresql_host,
        f"CREATE ROLE {LOGIN} LOGIN",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {LOGIN}",
        f"GRANT SELECT ON referral_alembic_version, users, wallet_transactions TO {LOGIN}",
        f"GRANT {ROLE} TO {LOGIN}",
    )
    yield postgresql_host
    execute(
        postgresql_host,
        f"ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS",
        f"REASSIGN OWNED BY {ROLE}, {LOGIN} TO CURRENT_USER",
        f"DROP OWNED BY {LOGIN}",
        f"DROP ROLE {LOGIN}",
    )


@pytest.fixture
def as_login(roles: Host, postgresql_url: str) -> t.Iterator[Host]:
    """Build the same application, which connects as that login."""
    url = sa.make_url(postgresql_url).set(username=LOGIN).render_as_string(hide_password=False)
    host = make_host(url, REFERRAL_RLS_ROLE=ROLE, **HEALTHY)
    yield host
    host.close()


def table_names(host: Host) -> list[str]:
    with host.app.app_context():
        return sorted(host.referral.models.table_names)


def open_all(host: Host, command: str = "ALL") -> None:
    """Make policies that show the login every row."""
    for table in table_names(host):
        execute(host, f"CREATE POLICY wide ON {table} FOR {command} TO {LOGIN} USING (true)")


def test_sqlite_has_none(make_sqlite: MakeHost) -> None:
    assert "row-security-role" not in {each["check"] for each in examine(make_sqlite(**HEALTHY))}


def test_a_role_on_sqlite(make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_RLS_ROLE=ROLE, **HEALTHY)
    assert "no effect on SQLite" in finding(host, "row-security", "warning")


def test_no_role(make_postgresql: MakeHost, postgresql_host: Host) -> None:
    host = make_postgresql(migrate=False, **HEALTHY)
    text = finding(host, "row-security-role", "warning")
    assert "not in force" in text
    assert "flask referral rls grant" in text


def test_switched_off(postgresql_host: Host) -> None:
    execute(postgresql_host, "ALTER TABLE referral_clicks DISABLE ROW LEVEL SECURITY")
    text = finding(postgresql_host, "row-security", "fault")
    assert "switched off on referral_clicks" in text
    cure = text[text.index("ALTER TABLE") :].rstrip(".")
    execute(postgresql_host, cure)
    assert ill(postgresql_host) == {}


def test_policies_are_missing(postgresql_host: Host) -> None:
    policies = {
        "referral_codes_select_own": "referral_codes",
        "referral_codes_insert_own": "referral_codes",
        "referral_clicks_select_own": "referral_clicks",
        "referral_conversions_select_own": "referral_conversions",
        "referral_rewards_select_own": "referral_rewards",
        "referral_issued_codes_select_own": "referral_issued_codes",
        "referral_daily_select_own": "referral_daily",
        "referral_daily_sources_select_own": "referral_daily_sources",
    }
    with postgresql_host.app.app_context(), postgresql_host.db.engine.connect() as connection:
        there = connection.execute(sa.text("SELECT polname::text FROM pg_policy")).scalars()
        assert set(there) == set(policies)
    script = postgresql_host.cli("db", "upgrade", "--sql").stdout
    for policy, table in policies.items():
        execute(postgresql_host, f"DROP POLICY {policy} ON {table}")
        # The cure points at the script.
        assert policy in script
    findings = [each for each in examine(postgresql_host) if each["level"] != "ok"]
    assert [(each["check"], each["level"]) for each in findings] == [
        ("row-security", "fault")
    ] * len(policies)
    for policy, table in policies.items():
        assert any(f"policy {policy} of {table} is missing" in e["message"] for e in findings)


def test_the_role_does_not_exist(make_postgresql: MakeHost, postgresql_host: Host) -> None:
    host = make_postgresql(migrate=False, REFERRAL_RLS_ROLE="no one", **HEALTHY)
    assert 'CREATE ROLE "no one" NOLOGIN' in finding(host, "row-security-role", "fault")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (f"ALTER ROLE {ROLE} SUPERUSER", "is a superuser"),
        (f"ALTER ROLE {ROLE} BYPASSRLS", "has BYPASSRLS"),
        (f"ALTER TABLE referral_clicks OWNER TO {ROLE}", f"tables' owner '{ROLE}'"),
    ],
)
def test_no_policy_binds_the_role(roles: Host, statement: str, words: str) -> None:
    execute(roles, statement)
    assert words in finding(roles, "row-security-role", "fault")


def test_the_role_has_the_owners_rights(roles: Host) -> None:
    execute(roles, f"ALTER TABLE referral_codes OWNER TO {LOGIN}", f"REVOKE {ROLE} FROM {LOGIN}")
    execute(roles, f"GRANT {LOGIN} TO {ROLE}")
    assert f"owner '{LOGIN}'" in finding(roles, "row-security-role", "fault")


def test_a_restrictive_policy_shows_nothing(postgresql_host: Host) -> None:
    execute(
        postgresql_host,
        "CREATE POLICY strict ON referral_clicks AS RESTRICTIVE TO PUBLIC USING (true)",
    )
    assert ill(postgresql_host) == {}


@pytest.mark.parametrize("to", ["PUBLIC", ROLE, LOGIN])
def test_a_policy_shows_everything(roles: Host, to: str) -> None:
    """A policy for PUBLIC, for the role, or for a role that it is a member of."""
    execute(roles, f"REVOKE {ROLE} FROM {LOGIN}", f"GRANT {LOGIN} TO {ROLE}")
    assert ill(roles) == {}
    execute(roles, f"CREATE POLICY peek ON referral_clicks FOR SELECT TO {to} USING (true)")
    assert "peek of referral_clicks shows all rows" in finding(roles, "row-security-role", "fault")


def test_the_role_may_not_read(postgresql_host: Host) -> None:
    execute(postgresql_host, f"REVOKE SELECT ON referral_conversions FROM {ROLE}")
    text = finding(postgresql_host, "row-security-role", "fault")
    assert "may not read" in text
    assert f"flask referral rls grant --user-role {ROLE}" in text


def test_a_login_that_is_not_the_owner(roles: Host, as_login: Host) -> None:
    text = finding(as_login, "database-login", "fault")
    assert "sees none of the rows" in text
    assert f"--service-role {LOGIN}" in text
    open_all(roles)
    assert ill(as_login) == {}
    # The owner needs no policy.
    assert ill(roles) == {}


def test_a_login_with_a_policy_for_reading_only(roles: Host, as_login: Host) -> None:
    open_all(roles, "SELECT")
    assert "database-login" in ill(as_login)


def test_a_login_without_the_rights(roles: Host, as_login: Host) -> None:
    open_all(roles)
    execute(roles, f"REVOKE DELETE ON referral_clicks FROM {LOGIN}")
    assert "DELETE on referral_clicks." in finding(as_login, "database-login", "fault")


def test_a_login_that_may_not_take_the_role(roles: Host, as_login: Host) -> None:
    open_all(roles)
    execute(roles, f"REVOKE {ROLE} FROM {LOGIN}")
    assert "may not take the role" in finding(as_login, "row-security-role", "fault")


def test_rls_grant_mends_it(make_postgresql: MakeHost, postgresql_url: str) -> None:
    """What the cures tell the reader to run is all that is needed."""
    owner = make_postgresql(REFERRAL_RLS_ROLE="mended_user", **HEALTHY)
    replace_trigger(owner, "LOCK TABLE wallet_transactions;")
    url = sa.make_url(postgresql_url).set(username="mended_login")
    login = make_host(
        url.render_as_string(hide_password=False), REFERRAL_RLS_ROLE="mended_user", **HEALTHY
    )
    execute(
        owner,
        "CREATE ROLE mended_user NOLOGIN",
        "CREATE ROLE mended_login LOGIN",
        "GRANT SELECT ON users, wallet_transactions TO mended_login",
    )
    try:
        assert ill(owner) == {"row-security-role": "fault"}
        owner.cli("rls", "grant", "--user-role", "mended_user")
        assert ill(owner) == {}
        said = {each["check"]: each for each in examine(login)}["database-login"]
        assert said["level"] == "fault"
        assert "SELECT on referral_alembic_version" in said["message"]
        assert "--service-role mended_login" in said["cure"]
        owner.cli("rls", "grant", "--user-role", "mended_user", "--service-role", "mended_login")
        assert ill(login) == {}
        assert ill(owner) == {}
    finally:
        login.close()
        execute(owner, "DROP OWNED BY mended_user, mended_login")
        execute(owner, "DROP ROLE mended_user, mended_login")
