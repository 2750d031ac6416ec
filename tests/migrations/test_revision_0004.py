"""Revision 0004 on databases with rows: nothing is lost, up or down; duplicates stop it."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from ..conftest import MakeHost
from ..hosts import Host

INDEX = "idx_wallet_transactions_referral_bonus_unique"

CODE = "INSERT INTO referral_codes (user_id, code) VALUES (1, 'AAAAAAAA')"
CLICK = (
    "INSERT INTO referral_clicks (referral_code, referrer_user_id, referred_user_id) "
    "VALUES ('AAAAAAAA', 1, {referred})"
)
CONVERSION = (
    "INSERT INTO referral_conversions (referrer_user_id, referred_user_id, referral_code, "
    "whop_membership_id, bonus_cents) VALUES (1, {referred}, 'AAAAAAAA', '{membership}', 500)"
)
BONUS = (
    "INSERT INTO wallet_transactions (user_id, amount_cents, type, reference_type, reference_id) "
    "VALUES (1, 500, 'referral_bonus', 'referral_conversion', '{reference}')"
)


@pytest.fixture
def host(make: MakeHost) -> Host:
    """A host at 0003, with three users and the first one's code."""
    host = make(migrate=False)
    host.create_tables()
    host.cli("db", "upgrade", "0003")
    run(host, *["INSERT INTO users (name) VALUES ('x')"] * 3, CODE)
    return host


def run(host: Host, *statements: str) -> None:
    with host.app.app_context(), host.db.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def ask(host: Host, query: str) -> t.Sequence[t.Any]:
    with host.app.app_context(), host.db.engine.connect() as connection:
        return connection.exec_driver_sql(query).all()


def test_rows_are_kept_up_and_down(host: Host) -> None:
    run(
        host,
        CLICK.format(referred="NULL"),
        CLICK.format(referred=2),
        CONVERSION.format(referred=2, membership="mem_1"),
        BONUS.format(reference="c1"),
    )
    columns = "referrer_user_id, referred_user_id, whop_membership_id, bonus_cents, converted_at"
    queries = (
        f"SELECT {columns} FROM referral_conversions",
        "SELECT referral_code, referred_user_id, clicked_at FROM referral_clicks ORDER BY id",
        "SELECT user_id, amount_cents, balance_after_cents, type FROM wallet_transactions",
    )
    before = [ask(host, query) for query in queries]
    for _ in range(2):
        host.cli("db", "upgrade")
        assert [ask(host, query) for query in queries] == before
        ((status, credited_at, converted_at),) = ask(
            host, "SELECT status, credited_at, converted_at FROM referral_conversions"
        )
        assert (status, credited_at) == ("credited", converted_at)
        host.cli("db", "check")
        # Bonuses are no obstacle to this step back.
        host.cli("db", "downgrade", "0003")
        assert [ask(host, query) for query in queries] == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [CONVERSION.format(referred=user, membership="mem_1") for user in (2, 3)],
            "conversions with the same whop_membership_id: mem_1 (2)",
        ),
        (
            [
                "INSERT INTO referral_codes (user_id, code) VALUES (3, 'BBBBBBBB')",
                CLICK.format(referred=2),
                CLICK.format(referred=2).replace("'AAAAAAAA', 1", "'BBBBBBBB', 3"),
            ],
            "clicks bound to the same referred_user_id: 2 (2)",
        ),
        ([CLICK.format(referred=1)], "clicks bound to their own referrer: 1 (1)"),
        (
            [BONUS.format(reference="c1")] * 2,
            "wallet rows of type 'referral_bonus' with the same reference_id: c1 (2)",
        ),
    ],
    ids=["membership", "bound twice", "own click", "bonus twice"],
)
def test_duplicates_are_printed_and_nothing_changes(
    host: Host, rows: list[str], message: str
) -> None:
    run(host, *rows)
    error = host.cli("db", "upgrade", status=1).stderr
    assert message in error
    assert "nothing was changed" in error
    assert host.cli("db", "current").stdout.startswith("0003")
    with host.app.app_context():
        inspector = sa.inspect(host.db.engine)
        assert not inspector.has_table("referral_events")
        assert INDEX not in {i["name"] for i in inspector.get_indexes("wallet_transactions")}


@pytest.mark.parametrize(
    "rows",
    [
        [CLICK.format(referred=1)],
        [CLICK.format(referred=2)] * 2,
        [CONVERSION.format(referred=user, membership="mem_1") for user in (2, 3)],
        [BONUS.format(reference="c1")] * 2,
        [
            CONVERSION.format(referred=2, membership="mem_1"),
            "UPDATE referral_conversions SET status = 'paid'",
        ],
        [
            CONVERSION.format(referred=2, membership="mem_1"),
            "UPDATE referral_conversions SET reversed_cents = 501",
        ],
    ],
    ids=["own click", "bound twice", "membership", "bonus twice", "status", "too much"],
)
def test_the_database_itself_refuses(host: Host, rows: list[str]) -> None:
    host.cli("db", "upgrade")
    *allowed, refused = rows
    run(host, *allowed)
    with pytest.raises(sa.exc.IntegrityError):
        run(host, refused)


def test_the_live_wallet_is_indexed_concurrently(
    make_postgresql: MakeHost,
) -> None:
    host = make_postgresql(migrate=False)
    host.create_tables()
    with host.statements() as seen:
        host.cli("db", "upgrade")
    (create,) = [statement for statement in seen if f"{INDEX} ON" in statement]
    assert "CREATE UNIQUE INDEX CONCURRENTLY" in create


def test_a_broken_off_index_is_made_again(make_postgresql: MakeHost) -> None:
    host = make_postgresql(migrate=False)
    host.create_tables()
    host.cli("db", "upgrade", "0003")
    run(host, "INSERT INTO users (name) VALUES ('x')", *[BONUS.format(reference="c1")] * 2)
    with host.app.app_context():
        engine = host.db.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection, pytest.raises(sa.exc.IntegrityError):
            connection.exec_driver_sql(
                f"CREATE UNIQUE INDEX CONCURRENTLY {INDEX} ON wallet_transactions (reference_id) "
                "WHERE type = 'referral_bonus' AND reference_type = 'referral_conversion'"
            )
    valid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{INDEX}'::regclass"
    assert ask(host, valid) == [(False,)]
    run(host, "DELETE FROM wallet_transactions WHERE id = 1")
    host.cli("db", "upgrade")
    assert ask(host, valid) == [(True,)]


def test_events_are_nobodys_and_days_are_the_referrers(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    secured = ask(
        host,
        "SELECT relname FROM pg_class WHERE relrowsecurity AND relname LIKE 'referral_%%'",
    )
    assert {"referral_events", "referral_daily"} <= {name for (name,) in secured}
    policies = ask(host, "SELECT tablename, cmd, qual FROM pg_policies")
    assert not [row for row in policies if row[0] == "referral_events"]
    ((_, command, condition),) = [row for row in policies if row[0] == "referral_daily"]
    assert command == "SELECT"
    assert condition.startswith("(referrer_user_id = ( SELECT")
