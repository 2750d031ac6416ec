"""Healthy applications, each of which a test makes ill in one way."""

from __future__ import annotations

import json
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.rls.grants import USER_TABLES

from ..conftest import MakeHost
from ..hosts import Host

ROLE = "doctor_user"
HEALTHY: dict[str, t.Any] = {
    "SECRET_KEY": "s" * 32,
    "REFERRAL_IP_KEY": "k" * 32,
    "REFERRAL_BASE_URL": "https://example.com",
}

Findings = list[dict[str, t.Any]]


def examine(host: Host) -> Findings:
    """Return what ``doctor --json`` says, whose status has to be 1 where there is a fault."""
    result = host.app.test_cli_runner().invoke(args=["referral", "doctor", "--json"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    findings: Findings = json.loads(result.stdout)
    assert result.exit_code == int(any(each["level"] == "fault" for each in findings))
    for each in findings:
        assert each.keys() == {"check", "level", "message", "cure", "detail"}
        assert each["message"].endswith(".")
        assert each["cure"] or each["level"] not in ("warning", "fault")
    return findings


def ill(host: Host) -> dict[str, str]:
    """Return the level of every check that is not "ok"."""
    return {each["check"]: each["level"] for each in examine(host) if each["level"] != "ok"}


def finding(host: Host, check: str, level: str) -> str:
    """Return the one thing that a check says, of a host with which nothing else is wrong."""
    findings = [each for each in examine(host) if each["level"] not in ("ok", "not_checked")]
    assert [(each["check"], each["level"]) for each in findings] == [(check, level)], findings
    return f"{findings[0]['message']} {findings[0]['cure']}"


def execute(host: Host, *statements: str) -> None:
    """Run SQL in one transaction."""
    with host.app.app_context(), host.db.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


@pytest.fixture
def sqlite_host(make_sqlite: MakeHost) -> Host:
    return make_sqlite(**HEALTHY)


@pytest.fixture
def postgresql_host(make_postgresql: MakeHost) -> Host:
    """Build a host whose trigger locks and whose user role is set up."""
    host = make_postgresql(REFERRAL_RLS_ROLE=ROLE, **HEALTHY)
    execute(
        host,
        f"DO $$ BEGIN IF to_regrole('{ROLE}') IS NULL THEN CREATE ROLE {ROLE}; END IF; END $$",
    )
    grant(host)
    replace_trigger(host, "PERFORM 1 FROM users WHERE id = NEW.user_id FOR NO KEY UPDATE;")
    return host


def grant(host: Host) -> None:
    """Let the users' role read; has to be repeated after a downgrade."""
    if is_sqlite(host):
        return
    execute(
        host,
        f"GRANT SELECT ON {', '.join(USER_TABLES)} TO {ROLE}",
    )


def is_sqlite(host: Host) -> bool:
    uri: str = host.app.config["SQLALCHEMY_DATABASE_URI"]
    return uri.startswith("sqlite")


@pytest.fixture(params=["sqlite_host", "postgresql_host"])
def host(request: pytest.FixtureRequest) -> Host:
    """Run the test on SQLite and on PostgreSQL."""
    healthy: Host = request.getfixturevalue(request.param)
    return healthy


def replace_trigger(host: Host, first: str) -> None:
    """Put a statement at the beginning of the host's trigger on PostgreSQL."""
    execute(
        host,
        f"""
        CREATE OR REPLACE FUNCTION calculate_balance_after() RETURNS trigger
        LANGUAGE plpgsql AS $$
        BEGIN
            {first}
            NEW.balance_after_cents := NEW.amount_cents + coalesce(
                (SELECT balance_after_cents FROM wallet_transactions
                 WHERE user_id = NEW.user_id ORDER BY created_at DESC, id DESC LIMIT 1), 0);
            RETURN NEW;
        END $$
        """,
    )
