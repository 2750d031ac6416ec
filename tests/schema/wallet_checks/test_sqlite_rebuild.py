"""A table is rebuilt on SQLite as a whole or not at all, and only if it has to be."""

from __future__ import annotations

import sqlite3
import typing as t

import pytest
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event

from flask_referral.errors import MigrationRefused
from flask_referral.schema import wallet_checks
from flask_referral.schema.ddl_locks import raw

from .support import BONUS
from .support import Database
from .support import REVERSAL
from .support import ROWS
from .support import Shape
from .test_sqlite_shapes import DECORATED
from .test_sqlite_shapes import TYPES
from .test_sqlite_shapes import wallet

MakeDatabase = t.Callable[[Shape], Database]

PRAGMAS = ("foreign_keys", "ignore_check_constraints", "legacy_alter_table")


@pytest.fixture
def database(sqlite: MakeDatabase) -> Database:
    return sqlite(Shape("decorated", wallet(after=DECORATED)))


REFUSED = {
    "no reference_type": (
        wallet("TEXT", "TEXT").replace("reference_type", "about"),
        'has no column "reference_type"',
    ),
    "no table": (
        wallet().replace("wallet_transactions", "purse"),
        "wallet_transactions does not exist.*`flask db upgrade` first",
    ),
    "view": (
        wallet(table="purse", after="CREATE VIEW wallet_transactions AS SELECT * FROM purse"),
        "not an ordinary table",
    ),
    "virtual table": (
        wallet(table="purse", after="CREATE VIRTUAL TABLE wallet_transactions USING fts5(type)"),
        "not an ordinary table",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_nothing_changed(name: str, sqlite: MakeDatabase) -> None:
    ddl, message = REFUSED[name]
    database = sqlite(Shape(name, ddl))
    before = database.dump()
    with pytest.raises(MigrationRefused, match=message):
        database.extend()
    assert database.dump() == before


def test_a_check_with_a_function_that_is_not_there_is_refused(sqlite: MakeDatabase) -> None:
    database = sqlite(Shape("no_check", wallet("TEXT", "TEXT")))

    @event.listens_for(database.engine, "connect")
    def connected(connection: sqlite3.Connection, _: t.Any) -> None:
        connection.create_function("picky", 1, lambda kind: 1 / 0, deterministic=True)

    database.run("ALTER TABLE wallet_transactions ADD COLUMN x TEXT CHECK (picky(type))")
    with pytest.raises(MigrationRefused, match="cannot be tried on a row"):
        database.extend()


@pytest.mark.parametrize(
    "moment",
    ["CREATE TEMPORARY TABLE", "DROP TABLE", "CREATE TABLE", "INSERT INTO", "CREATE TRIGGER"],
)
def test_a_failure_half_way_leaves_everything_as_it_was(database: Database, moment: str) -> None:
    before = database.dump()

    def fail(connection: t.Any, cursor: t.Any, statement: str, *rest: t.Any) -> None:
        if statement.startswith(moment):
            raise sqlite3.OperationalError("disk is full")

    event.listen(database.engine, "after_cursor_execute", fail)
    with pytest.raises((sqlite3.OperationalError, MigrationRefused), match="disk is full"):
        database.extend()
    event.remove(database.engine, "after_cursor_execute", fail)
    assert database.dump() == before
    database.extend()
    assert database.gaps() == []


@pytest.mark.parametrize("foreign_keys", [0, 1])
@pytest.mark.parametrize("outcome", ["works", "fails"])
def test_the_pragmas_are_as_they_were(database: Database, foreign_keys: int, outcome: str) -> None:
    def fail(connection: t.Any, cursor: t.Any, statement: str, *rest: t.Any) -> None:
        if outcome == "fails" and statement.startswith("DROP TABLE temp"):
            raise RuntimeError("stop")

    event.listen(database.engine, "after_cursor_execute", fail)
    with database.engine.connect() as connection:
        raw(connection, f"PRAGMA foreign_keys = {foreign_keys}")
        before = [raw(connection, f"PRAGMA {name}").scalar_one() for name in PRAGMAS]
        connection.commit()
        context = MigrationContext.configure(connection, opts={"transactional_ddl": True})
        try:
            with context.begin_transaction():
                wallet_checks.extend(context, ROWS, "wallet_transactions")
        except RuntimeError:
            assert outcome == "fails"
        assert [raw(connection, f"PRAGMA {name}").scalar_one() for name in PRAGMAS] == before
        assert before[0] == foreign_keys


def test_what_the_transaction_did_before_is_kept(database: Database) -> None:
    """The driver's implicit transaction is over before the rebuild begins, and not rolled back."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"transactional_ddl": True})
        with context.begin_transaction():
            raw(connection, "INSERT INTO log VALUES ('an earlier revision')")
            wallet_checks.extend(context, ROWS, "wallet_transactions")
            raw(connection, "INSERT INTO log VALUES ('a later revision')")
    assert database.scalar("SELECT count(*) FROM log") == 2


def test_a_database_in_use_is_refused_in_words(database: Database) -> None:
    before = database.dump()
    with database.engine.connect() as other:
        raw(other, "BEGIN IMMEDIATE")
        impatient = sa.create_engine(database.engine.url, connect_args={"timeout": 0})
        patient, database.engine = database.engine, impatient
        with pytest.raises(MigrationRefused, match=r"database is locked.*Nothing was changed"):
            database.extend()
        impatient.dispose()
        database.engine = patient
        other.rollback()
    assert database.dump() == before
    database.extend()


def test_a_table_that_is_changed_meanwhile_is_left_alone(database: Database) -> None:
    def change(connection: t.Any, cursor: t.Any, statement: str, *rest: t.Any) -> None:
        if statement == "PRAGMA foreign_keys = 0":
            other = sqlite3.connect(str(database.engine.url.database))
            other.execute("ALTER TABLE wallet_transactions ADD COLUMN more TEXT")
            other.close()

    event.listen(database.engine, "after_cursor_execute", change)
    with pytest.raises(MigrationRefused, match="changed by somebody else"):
        database.extend()
    event.remove(database.engine, "after_cursor_execute", change)
    assert "more TEXT" in database.dump()
    assert len(database.gaps()) == 2


def test_nothing_is_rebuilt_when_nothing_has_to_change(sqlite: MakeDatabase) -> None:
    ddl = wallet("TEXT CHECK (length(type) > 0)", "TEXT", "CHECK (balance_after_cents >= 0)")
    database = sqlite(Shape("fine", ddl))
    seen: list[str] = []
    event.listen(
        database.engine,
        "before_cursor_execute",
        lambda c, u, statement, *rest: seen.append(statement),
    )
    database.extend()
    database.restore()
    assert not [statement for statement in seen if "TABLE" in statement.split("(")[0]]


def test_a_foreign_key_of_the_hosts_that_was_broken_before_is_no_obstacle(
    sqlite: MakeDatabase,
) -> None:
    ddl = wallet(
        after="""
        PRAGMA foreign_keys = OFF;
        CREATE TABLE odd (kind TEXT REFERENCES wallet_transactions (type));
        CREATE TABLE orphan (id INTEGER REFERENCES wallet_transactions (id));
        INSERT INTO odd VALUES ('x'); INSERT INTO orphan VALUES (99);
        INSERT INTO wallet_transactions (user_id, type, amount_cents) VALUES (77, 'deposit', 1);
        PRAGMA foreign_keys = ON"""
    )
    database = sqlite(Shape("broken", ddl))
    before = database.dump()
    database.extend()
    assert database.gaps() == []
    database.restore()
    assert database.dump() == before


def test_the_counter_of_autoincrement_stays_ahead_of_the_rows(sqlite: MakeDatabase) -> None:
    ddl = wallet(
        id_="INTEGER PRIMARY KEY AUTOINCREMENT",
        after="""CREATE TABLE other (id INTEGER PRIMARY KEY AUTOINCREMENT);
        INSERT INTO other DEFAULT VALUES;
        INSERT INTO wallet_transactions (id, user_id, type, amount_cents)
            VALUES (50, 1, 'deposit', 1);
        DELETE FROM wallet_transactions""",
    )
    database = sqlite(Shape("autoincrement", ddl))
    before = database.scalar("SELECT group_concat(rowid || name || seq) FROM sqlite_sequence")
    database.extend()
    assert before == database.scalar(
        "SELECT group_concat(rowid || name || seq) FROM sqlite_sequence"
    )
    database.insert(BONUS)
    assert database.scalar("SELECT id FROM wallet_transactions") == 51


def test_values_keep_their_types(sqlite: MakeDatabase) -> None:
    """SQLite stores what it is given, also in columns that promise another type."""
    database = sqlite(
        Shape("values", wallet("TEXT", f"TEXT CHECK (type IN {TYPES})", "raw", "n INT"))
    )
    with database.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO wallet_transactions (user_id, type, amount_cents, raw, n)"
                " VALUES (1, 'deposit', 1.5, :blob, 'many'), (1, 'deposit', 2, '007', 1e300),"
                " (1, 'deposit', 3, 7, NULL), (1, 'deposit', 9007199254740993, 0.1, x'00')"
            ),
            {"blob": b"\x00\xff"},
        )
    values = (
        "SELECT group_concat(quote(amount_cents) || typeof(amount_cents) || quote(raw)"
        " || typeof(raw) || quote(n) || typeof(n)) FROM wallet_transactions"
    )
    before = database.scalar(values)
    database.extend()
    assert database.scalar(values) == before


def test_a_downgrade_is_refused_while_rows_use_our_values(database: Database) -> None:
    database.extend()
    database.insert(BONUS)
    database.insert(REVERSAL)
    before = database.dump()
    with pytest.raises(MigrationRefused, match="2 rows of the table wallet_transactions"):
        database.restore()
    assert database.dump() == before
    database.delete([BONUS, REVERSAL])
    database.insert(("adjustment", "manual", 5))
    before = database.dump()
    with pytest.raises(MigrationRefused, match="does not allow 1 of the rows"):
        database.restore()
    assert database.dump() == before


def test_a_bonus_that_arrives_during_the_downgrade_stops_it(database: Database) -> None:
    database.extend()

    def pay(connection: t.Any, cursor: t.Any, statement: str, *rest: t.Any) -> None:
        # Planning is over, the rebuild has not begun.
        if statement == "PRAGMA foreign_keys = 0":
            other = sqlite3.connect(str(database.engine.url.database))
            other.execute(
                "INSERT INTO wallet_transactions (user_id, type, reference_type, amount_cents)"
                " VALUES (1, 'referral_bonus', 'referral_conversion', 5)"
            )
            other.commit()
            other.close()

    event.listen(database.engine, "after_cursor_execute", pay)
    with pytest.raises(MigrationRefused, match="1 row of"):
        database.restore()
    event.remove(database.engine, "after_cursor_execute", pay)
    assert database.gaps() == []


def test_the_gaps_are_named(sqlite: MakeDatabase) -> None:
    ddl = wallet(
        "TEXT", "TEXT", f"CHECK (type IN {TYPES})", "CONSTRAINT b CHECK (type <> 'adjustment')"
    )
    assert [str(gap) for gap in sqlite(Shape("gaps", ddl)).gaps()] == [
        "CHECK number 3 of table wallet_transactions refuses referral_bonus, adjustment",
        'CHECK "b" of table wallet_transactions refuses adjustment',
    ]
