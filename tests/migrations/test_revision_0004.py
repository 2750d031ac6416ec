"""Revision 0004 on databases with rows: nothing is lost, up or down; duplicates stop it."""

from __future__ import annotations

import json
import typing as t
import uuid

import pytest
import sqlalchemy as sa

from flask_referral.results import Reward

from ..conftest import MakeHost
from ..hosts import Host
from .conftest import Dump
from .conftest import Psql

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
    host = make(migrate=False, REFERRAL_RENEWALS=None)
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
        assert len(ask(host, "SELECT id FROM referral_rewards")) == 1
        host.cli("db", "check")
        # Bonuses are no obstacle to this step back.
        host.cli("db", "downgrade", "0003")
        assert [ask(host, query) for query in queries] == before


def sell(host: Host) -> None:
    """Write two conversions as they were before this revision, with their bonuses."""
    run(
        host,
        CLICK.format(referred=2),
        CLICK.format(referred=3),
        CONVERSION.format(referred=2, membership="mem_2"),
        CONVERSION.format(referred=3, membership="mem_3"),
    )
    for (id_,) in ask(host, "SELECT CAST(id AS TEXT) FROM referral_conversions"):
        run(host, BONUS.format(reference=uuid.UUID(id_)))


def test_conversions_of_before_get_a_credited_reward(host: Host) -> None:
    sell(host)
    host.cli("db", "upgrade")
    rewards = "referral_rewards AS r JOIN referral_conversions AS c ON c.id = r.id"
    rows = ask(
        host,
        "SELECT r.payment_id, r.membership_id, r.referred_user_id, r.conversion_id = c.id, "
        f"r.created_at = c.converted_at, r.credited_at = c.converted_at FROM {rewards} ORDER BY 1",
    )
    assert [tuple(row) for row in rows] == [
        ("mem_2", "mem_2", 2, True, True, True),
        ("mem_3", "mem_3", 3, True, True, True),
    ]
    columns = "user_id, role, provider, number, cents, reversed_cents, shortfall_cents, status"
    assert ask(host, f"SELECT DISTINCT {columns} FROM referral_rewards") == [
        (1, "referrer", "host", 1, 500, 0, 0, "credited")
    ]
    # The books are in order.
    findings = json.loads(
        host.app.test_cli_runner().invoke(args=["referral", "doctor", "--json"]).stdout
    )
    levels = {each["check"]: each["level"] for each in findings}
    assert {levels[name] for name in ("credited", "not-credited", "bonuses")} == {"ok"}


def test_conversions_of_before_are_paid_once_and_can_be_taken_back(host: Host) -> None:
    sell(host)
    host.cli("db", "upgrade")

    def balance() -> int:
        ((cents,),) = ask(host, "SELECT sum(amount_cents) FROM wallet_transactions")
        return int(cents)

    with host.app.app_context():
        result = host.referral.convert(2, "mem_2")
        assert (result.reason, result.bonus_cents) == ("already_converted", 500)
        host.db.session.commit()
        assert balance() == 1000
        result = host.referral.reverse("mem_2", reason="asked")
        assert (result.reason, result.reversed_cents) == ("reversed", 500)
        host.db.session.commit()
        assert balance() == 500
        # Bought again, after all of it was taken back.
        assert host.referral.convert(2, "mem_new").reason == "converted"
        host.db.session.commit()
    assert balance() == 1500


def test_the_script_does_the_same(
    new_postgresql_url: t.Callable[[], str],
    host_on: t.Callable[..., Host],
    psql: Psql,
    dump: Dump,
) -> None:
    found = []
    for by_script in (False, True):
        url = new_postgresql_url()
        host = host_on(url, migrate=False)
        host.create_tables()
        host.cli("db", "upgrade", "0003")
        run(host, *["INSERT INTO users (name) VALUES ('x')"] * 3, CODE)
        sell(host)
        # Of a fixed id and moment, so that the rows can be compared.
        run(
            host,
            "UPDATE referral_conversions SET converted_at = '2026-01-01', id = "
            "CAST(CASE referred_user_id WHEN 2 THEN '00000000-0000-4000-8000-000000000002' "
            "ELSE '00000000-0000-4000-8000-000000000003' END AS uuid)",
            "UPDATE referral_clicks SET id = (SELECT id FROM referral_conversions "
            "WHERE referred_user_id = referral_clicks.referred_user_id) "
            "WHERE referred_user_id IS NOT NULL",
        )
        if by_script:
            psql(url, host.cli("db", "upgrade", "0003:head", "--sql").stdout)
        else:
            host.cli("db", "upgrade")
        columns = "provider, kind, event_id, payment_id, membership_id, outcome"
        rows = [
            ask(host, f"SELECT {names} FROM {table} ORDER BY 1, 2, 3")
            for names, table in (("*", "referral_rewards"), (columns, "referral_events"))
        ]
        assert [len(each) for each in rows] == [2, 4]
        found.append((rows, dump(url, only="referral_*")))
    assert found[0] == found[1]


def test_tables_that_create_all_made_keep_their_rows(make: MakeHost) -> None:
    """The application worked with them before anybody stamped and upgraded."""
    host = make(migrate=False, wallet=False, reward_policy=lambda purchase: Reward(500, 50))
    with host.app.app_context():
        host.db.create_all()
    run(host, *["INSERT INTO users (name) VALUES ('x')"] * 3, CODE, CLICK.format(referred=2))
    with host.app.app_context():
        assert host.referral.convert(2, "mem_1", provider="whop", payment_id="pay_1").created
        host.db.session.commit()
    # One that another program wrote, with the first revision in mind.
    run(host, CLICK.format(referred=3), CONVERSION.format(referred=3, membership="mem_3"))
    columns = "provider, payment_id, role, cents"
    queries = (
        f"SELECT {columns} FROM referral_rewards ORDER BY 1, 2, 3",
        "SELECT provider, kind, event_id FROM referral_events ORDER BY 1, 2, 3",
    )
    before = [ask(host, query) for query in queries]
    assert before[0] == [("whop", "pay_1", "referred", 50), ("whop", "pay_1", "referrer", 500)]
    host.cli("db", "stamp", "0001")
    host.cli("db", "upgrade")
    host.cli("db", "check")
    rewards, events = (ask(host, query) for query in queries)
    assert rewards == [("host", "mem_3", "referrer", 500), *before[0]]
    new = [("host", "membership", "mem_3"), ("host", "payment", "mem_3")]
    assert events == [*new, *before[1]]


def test_a_downgrade_misses_no_trigger(make_sqlite: MakeHost) -> None:
    """A host that rebuilds its user table on SQLite loses it."""
    host = make_sqlite()
    run(host, "DROP TRIGGER referral_users_deleted")
    host.cli("db", "downgrade", "0003")


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


REWARD = (
    "INSERT INTO referral_rewards (user_id, role, provider, payment_id, membership_id, number, "
    "cents, reversed_cents, shortfall_cents, status) "
    "VALUES (1, '{role}', '{provider}', 'pay', 'mem', 1, 500, {taken}, {missing}, '{status}')"
)
#: What a reward is allowed to be.
GOOD = {"role": "referrer", "provider": "host", "taken": 0, "missing": 0, "status": "credited"}


@pytest.mark.parametrize(
    "rows",
    [
        [CLICK.format(referred=1)],
        [CLICK.format(referred=2)] * 2,
        [BONUS.format(reference="c1")] * 2,
        [REWARD.format_map(GOOD | {"status": "paid"})],
        [REWARD.format_map(GOOD | {"role": "friend"})],
        [REWARD.format_map(GOOD | {"taken": 501})],
        [REWARD.format_map(GOOD | {"taken": -1})],
        [REWARD.format_map(GOOD | {"missing": -1})],
        [
            *(
                REWARD.format_map(GOOD | {"role": role, "provider": provider})
                for role in ("referrer", "referred")
                for provider in ("host", "whop")
            ),
            REWARD.format_map(GOOD),
        ],
    ],
    ids=[
        "own click",
        "bound twice",
        "bonus twice",
        "status",
        "role",
        "too much",
        "less than nothing",
        "no shortfall",
        "rewarded twice",
    ],
)
def test_the_database_itself_refuses(host: Host, rows: list[str]) -> None:
    host.cli("db", "upgrade")
    *allowed, refused = rows
    run(host, *allowed)
    with pytest.raises(sa.exc.IntegrityError):
        run(host, refused)


def test_a_deleted_user_takes_along_what_waits(host: Host) -> None:
    """On SQLite too, which gives the key to the next user and where foreign keys are off."""
    host.cli("db", "upgrade")
    insert = (
        "INSERT INTO referral_events (provider, kind, event_id, outcome, user_id, details) "
        "VALUES ('whop', 'delivery', '{id}', 'not_referred', {user}, '{{}}')"
    )
    run(host, *(insert.format(id=user, user=user) for user in (2, 3, "NULL")))
    run(host, "DELETE FROM users WHERE id = 2")
    left = ask(host, "SELECT event_id FROM referral_events WHERE kind = 'delivery' ORDER BY 1")
    assert [id for (id,) in left] == ["3", "NULL"]


def test_a_delivery_that_is_dealt_with_is_in_no_index_of_those_that_wait(host: Host) -> None:
    """So that the paying path maintains none of them."""
    host.cli("db", "upgrade")
    query = "SELECT indexdef FROM pg_indexes WHERE tablename = 'referral_events'"
    if host.app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        query = "SELECT sql FROM sqlite_master WHERE tbl_name = 'referral_events' AND sql > ''"
    found = [sql for (sql,) in ask(host, query)]
    for name, condition in (("waiting", "details"), ("user_id", "user_id")):
        (index,) = [sql for sql in found if f"idx_referral_events_{name} " in sql]
        assert f"{condition} IS NOT NULL" in index


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


def test_events_are_nobodys_and_rewards_and_days_are_ones_own(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    secured = ask(
        host,
        "SELECT relname FROM pg_class WHERE relrowsecurity AND relname LIKE 'referral_%%'",
    )
    assert {"referral_events", "referral_rewards", "referral_daily"} <= {
        name for (name,) in secured
    }
    policies = ask(host, "SELECT tablename, cmd, qual FROM pg_policies")
    found = {table: (command, condition) for table, command, condition in policies}
    assert "referral_events" not in found
    for table, column in (("rewards", "user_id"), ("daily", "referrer_user_id")):
        command, condition = found[f"referral_{table}"]
        assert command == "SELECT"
        assert condition.startswith(f"({column} = ( SELECT")
