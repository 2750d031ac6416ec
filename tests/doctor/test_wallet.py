"""What ``flask referral doctor`` says about the host's wallet."""

from __future__ import annotations

import itertools

import pytest

from ..conftest import MakeHost
from ..hosts import Host
from .conftest import examine
from .conftest import execute
from .conftest import finding
from .conftest import grant
from .conftest import HEALTHY
from .conftest import ill
from .conftest import is_sqlite
from .conftest import replace_trigger


def drop_trigger(host: Host) -> None:
    table = "" if is_sqlite(host) else " ON wallet_transactions"
    execute(host, f"DROP TRIGGER calculate_balance_after{table}")


def test_no_wallet(make: MakeHost) -> None:
    said = {each["check"]: each for each in examine(make(wallet=False, **HEALTHY))}
    assert "nothing is credited" in said["wallet"]["message"]
    assert not {"wallet-values", "wallet-trigger", "wallet-balances"} & set(said)


@pytest.mark.parametrize("column", ["reference_id", "balance_after_cents"])
def test_a_column_is_missing(postgresql_host: Host, column: str) -> None:
    execute(postgresql_host, f"ALTER TABLE wallet_transactions DROP COLUMN {column}")
    assert f"has no {column}, so" in finding(postgresql_host, "wallet", "fault")
    assert ill(postgresql_host)["wallet-balances"] == "not_checked"


def test_columns_that_may_be_missing(host: Host) -> None:
    for column in ("description", "status"):
        execute(host, f"ALTER TABLE wallet_transactions DROP COLUMN {column}")
    said = {each["check"]: each for each in examine(host)}["wallet"]
    assert said["level"] == "ok"
    assert "has no status and no description" in said["message"]
    assert ill(host) == {}


def test_without_created_at_the_order_is_that_of_the_ids(postgresql_host: Host) -> None:
    user = postgresql_host.add_user()
    execute(
        postgresql_host,
        "DROP TRIGGER calculate_balance_after ON wallet_transactions",
        "ALTER TABLE wallet_transactions DROP COLUMN created_at",
        *(
            "INSERT INTO wallet_transactions (user_id, amount_cents, balance_after_cents, type) "
            f"VALUES ({user}, 100, {balance}, 'deal_payment')"
            for balance in (100, 200)
        ),
    )
    assert ill(postgresql_host) == {"wallet-trigger": "fault"}


def test_a_check_without_our_values(host: Host) -> None:
    host.cli("db", "downgrade", "0002", "--yes")
    said = [each for each in examine(host) if each["check"] == "wallet-values"]
    assert {each["level"] for each in said} == {"fault"}
    text = " ".join(each["message"] for each in said)
    assert "wallet_transactions_type_check" in text
    assert "referral_bonus" in text
    assert "wallet_transactions_reference_type_check" in text
    host.cli("db", "upgrade")
    grant(host)
    assert ill(host) == {}


def test_a_lookup_table_without_our_values(postgresql_host: Host) -> None:
    execute(
        postgresql_host,
        "ALTER TABLE wallet_transactions DROP CONSTRAINT wallet_transactions_type_check",
        "CREATE TABLE kinds (name text PRIMARY KEY)",
        "INSERT INTO kinds VALUES ('adjustment')",
        "ALTER TABLE wallet_transactions ADD CONSTRAINT known FOREIGN KEY (type) REFERENCES kinds",
    )
    cure = 'INSERT INTO "public"."kinds" ("name") VALUES (\'referral_bonus\')'
    said = finding(postgresql_host, "wallet-values", "fault")
    assert 'foreign key "known" of table public.wallet_transactions refuses referral_bonus' in said
    assert cure in said
    execute(postgresql_host, cure)
    assert ill(postgresql_host) == {}


def test_no_trigger(host: Host) -> None:
    drop_trigger(host)
    assert "No trigger fills balance_after_cents" in finding(host, "wallet-trigger", "fault")


def test_a_trigger_for_something_else(host: Host) -> None:
    drop_trigger(host)
    if is_sqlite(host):
        execute(
            host,
            "CREATE TRIGGER later AFTER UPDATE ON wallet_transactions BEGIN "
            "UPDATE wallet_transactions SET balance_after_cents = 0; END",
        )
    else:
        execute(
            host,
            "CREATE TRIGGER later BEFORE UPDATE ON wallet_transactions "
            "FOR EACH ROW EXECUTE FUNCTION calculate_balance_after()",
        )
    assert ill(host) == {"wallet-trigger": "fault"}


def test_a_disabled_trigger(postgresql_host: Host) -> None:
    execute(
        postgresql_host,
        "ALTER TABLE wallet_transactions DISABLE TRIGGER calculate_balance_after",
    )
    assert "ENABLE TRIGGER" in finding(postgresql_host, "wallet-trigger", "fault")


def test_a_trigger_without_a_lock(postgresql_host: Host) -> None:
    for first in (
        "",
        "-- nobody needs FOR UPDATE here",
        "/* LOCK TABLE\n wallet_transactions */",
        "UPDATE wallet_transactions SET status = 'seen' WHERE id = 0;",
        'UPDATE public."wallet_transactions" AS w SET status = NULL WHERE id = 0;',
    ):
        replace_trigger(postgresql_host, first)
        text = finding(postgresql_host, "wallet-trigger", "warning")
        assert "takes no lock" in text
        assert "SELECT 1 FROM users WHERE id = ... FOR NO KEY UPDATE" in text
    # Its source is printed.
    output = postgresql_host.cli("doctor").stdout
    assert "CREATE OR REPLACE FUNCTION public.calculate_balance_after()" in output


def test_a_trigger_with_a_lock(postgresql_host: Host) -> None:
    for first in (
        "PERFORM 1 FROM users WHERE id = NEW.user_id for  update;",
        "PERFORM 1 FROM users WHERE id = NEW.user_id FOR NO KEY UPDATE;",
        "PERFORM pg_advisory_xact_lock(NEW.user_id);",
        "LOCK TABLE wallet_transactions;",
        "UPDATE users SET name = name WHERE id = NEW.user_id;",
        "UPDATE ONLY users AS u SET name = name WHERE id = NEW.user_id;",
        "INSERT INTO users (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = users.name;",
    ):
        replace_trigger(postgresql_host, first)
        assert ill(postgresql_host) == {}, first


def test_a_lock_in_a_trigger_of_its_own(postgresql_host: Host) -> None:
    replace_trigger(postgresql_host, "")
    execute(
        postgresql_host,
        "CREATE FUNCTION lock_wallet() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(NEW.user_id); RETURN NEW; END $$",
        'CREATE TRIGGER "00_lock" BEFORE INSERT ON wallet_transactions '
        "FOR EACH ROW EXECUTE FUNCTION lock_wallet()",
    )
    assert ill(postgresql_host) == {}


def pay(host: Host, user: int, *amounts: int) -> None:
    # One transaction each: now() is the transaction's.
    for cents in amounts:
        execute(
            host,
            "INSERT INTO wallet_transactions (user_id, amount_cents, type) "
            f"VALUES ({user}, {cents}, 'deal_payment')",
        )


def test_right_balances(host: Host) -> None:
    for amounts in ((100,), (100, -30, 7), ()):
        pay(host, host.add_user(), *amounts)
    assert ill(host) == {}


def test_one_wrong_balance(host: Host) -> None:
    users = [host.add_user(), host.add_user()]
    for user in users:
        pay(host, user, 100, 50)
    execute(
        host,
        f"UPDATE wallet_transactions SET balance_after_cents = 149 WHERE user_id = {users[1]} "
        "AND amount_cents = 50",
    )
    text = finding(host, "wallet-balances", "fault")
    assert "1 wallet has" in text
    assert f"user {users[1]} has 149 cents, and the amounts sum up to 150." in text
    assert f"user {users[0]} " not in text


def test_many_wrong_balances_are_counted_and_five_are_named(host: Host) -> None:
    users = [host.add_user() for _ in range(8)]
    for user in users:
        pay(host, user, 100)
    execute(host, "UPDATE wallet_transactions SET balance_after_cents = NULL WHERE id > 1")
    with host.statements() as seen:
        text = finding(host, "wallet-balances", "fault")
    assert "7 wallets have" in text
    assert [f"user {user} has None" in text for user in users] == [False, *[True] * 5, *[False] * 2]
    assert len([sql for sql in seen if "PARTITION BY" in sql]) == 1


def test_the_last_row_is_that_of_created_at_then_id(host: Host) -> None:
    user = host.add_user()
    drop_trigger(host)
    moments = ("2024-01-01 00:00:00", "2024-01-02 00:00:00")
    rows = itertools.count(1)
    # The later row has the lower id, and at the same moment the higher id is the later one.
    for moment, balance in ((moments[1], 250), (moments[1], 300), (moments[0], 100)):
        execute(
            host,
            "INSERT INTO wallet_transactions "
            "(id, user_id, amount_cents, balance_after_cents, type, created_at) "
            f"VALUES ({next(rows)}, {user}, 100, {balance}, 'deal_payment', '{moment}')",
        )
    assert ill(host) == {"wallet-trigger": "fault"}


def test_a_column_that_credits_do_not_fill_is_named(host: Host) -> None:
    execute(host, "ALTER TABLE wallet_transactions ADD COLUMN memo text NOT NULL DEFAULT 'x'")
    assert ill(host) == {}
    if not is_sqlite(host):
        execute(host, "ALTER TABLE wallet_transactions ALTER COLUMN memo DROP DEFAULT")
        assert "wants memo filled" in finding(host, "wallet", "warning")
