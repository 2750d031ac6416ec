"""What cannot be done on PostgreSQL is refused in words, before anything is committed."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from flask_referral.errors import MigrationRefused
from flask_referral.schema import wallet_checks
from flask_referral.schema.ddl_locks import raw

from .support import BONUS
from .support import Database
from .support import REVERSAL
from .support import ROWS
from .support import Shape
from .test_postgresql_shapes import TYPES
from .test_postgresql_shapes import wallet

MakeDatabase = t.Callable[[Shape], Database]

FUNCTION = """CREATE FUNCTION picky(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN IF $1 IN ('deposit', 'withdrawal') THEN RETURN true; END IF;
RAISE EXCEPTION 'unknown kind: %', $1; END $$"""

REFUSED = {
    "short type": (
        wallet("varchar(12)"),
        r'"type" of table public.wallet_transactions, of type character varying\(12\),'
        r" cannot hold referral_bonus\..*at least 14 characters",
    ),
    "short reference_type": (
        wallet("text", "varchar(18) CHECK (reference_type IN ('manual'))"),
        'column "reference_type" .*at least 19 characters',
    ),
    "short domain": (
        wallet("kind", before="CREATE DOMAIN kind AS varchar(13)"),
        "cannot hold referral_bonus",
    ),
    "number": (wallet("integer", "text"), 'column "type" .*of type integer'),
    "array": (wallet("text[]", "text"), 'column "type" .*cannot hold'),
    "no reference_type": (
        wallet(after="ALTER TABLE wallet_transactions RENAME reference_type TO about"),
        'has no column "reference_type"',
    ),
    "no table": (
        wallet(after="").replace("wallet_transactions", "purse"),
        "wallet_transactions does not exist.*`flask db upgrade` first",
    ),
    "view": (
        wallet(table="purse", after="CREATE VIEW wallet_transactions AS SELECT * FROM purse"),
        "is not a table",
    ),
    "check that raises": (
        wallet("text CHECK (picky(type))", before=FUNCTION),
        'CHECK "wallet_transactions_type_check" .*cannot be tried.*unknown kind: referral_bonus',
    ),
    "inherited check": (
        wallet(
            table="base",
            after="CREATE TABLE wallet_transactions () INHERITS (base)",
        ),
        'CHECK "base_.*_check" .*inherited from a parent',
    ),
    "name taken": (
        wallet(
            after="ALTER TABLE wallet_transactions ADD CONSTRAINT"
            " wallet_transactions_type_check__referral CHECK (type <> 'referral_bonus')"
        ),
        "has the name that this migration needs",
    ),
}


def in_transaction(
    engine: sa.Engine, step: t.Callable[..., None], shape: Shape, marker: str
) -> None:
    """Run a step in one transaction with an earlier revision."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction():
            raw(connection, f"CREATE TABLE {marker} (id int)")
            step(context, ROWS, shape.table, shape.schema)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_nothing_changed(name: str, postgresql: MakeDatabase) -> None:
    ddl, message = REFUSED[name]
    database = postgresql(Shape(name, ddl))
    before = database.dump()
    with pytest.raises(MigrationRefused, match=message) as refused:
        in_transaction(database.engine, wallet_checks.extend, database.shape, "earlier")
    assert "\n" not in str(refused.value)
    assert database.dump() == before


def test_a_role_that_is_not_the_owner_is_told_whom_to_run_as(postgresql: MakeDatabase) -> None:
    database = postgresql(Shape("in_list", wallet()))
    owner = database.engine
    database.run("CREATE ROLE stranger LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger")
    try:
        before = database.dump()
        stranger = sa.create_engine(
            database.engine.url.set(username="stranger"), poolclass=sa.NullPool
        )
        with stranger.connect() as connection:
            context = MigrationContext.configure(connection)
            with (
                pytest.raises(MigrationRefused, match='Run this as the role "postgres"'),
                context.begin_transaction(),
            ):
                wallet_checks.extend(context, ROWS, "wallet_transactions")
            # What is wrong can be seen by anybody.
            assert len(wallet_checks.missing_values(connection, ROWS, "wallet_transactions")) == 2
        assert database.dump() == before
    finally:
        with owner.begin() as connection:
            raw(connection, "DROP OWNED BY stranger; DROP ROLE stranger")


def test_the_enum_of_another_role_is_not_extended(postgresql: MakeDatabase) -> None:
    ddl = wallet("kind", "text", before="CREATE TYPE kind AS ENUM ('deposit')")
    database = postgresql(Shape("enum", ddl))
    database.run("CREATE ROLE stranger LOGIN; ALTER TABLE wallet_transactions OWNER TO stranger")
    stranger = dataclasses.replace(
        database,
        engine=sa.create_engine(
            database.engine.url.set(username="stranger"), poolclass=sa.NullPool
        ),
    )
    try:
        with pytest.raises(MigrationRefused, match=r'the type public.kind .*role "postgres"'):
            stranger.extend()
        assert [str(gap) for gap in stranger.gaps()] == [
            "The enum public.kind refuses referral_bonus",
            "The enum public.kind refuses adjustment",
        ]
    finally:
        database.run("DROP OWNED BY stranger; DROP ROLE stranger")


def test_a_downgrade_is_refused_while_rows_use_our_values(postgresql: MakeDatabase) -> None:
    database = postgresql(Shape("in_list", wallet()))
    database.extend()
    database.insert(BONUS)
    database.insert(REVERSAL)
    before = database.dump()
    with pytest.raises(MigrationRefused, match="2 rows of table public"):
        in_transaction(database.engine, wallet_checks.restore, database.shape, "earlier")
    assert database.dump() == before
    database.insert(BONUS)
    database.delete([BONUS, BONUS])
    with pytest.raises(MigrationRefused, match="1 row of"):
        database.restore()
    database.delete([REVERSAL])
    database.restore()


def test_a_downgrade_is_refused_without_a_check_too(postgresql: MakeDatabase) -> None:
    database = postgresql(Shape("no_check", wallet("text", "text")))
    database.extend()
    database.insert(BONUS)
    with pytest.raises(MigrationRefused, match="1 row of"):
        database.restore()


def test_an_adjustment_of_the_host_counts_only_if_its_old_check_refuses_it(
    postgresql: MakeDatabase,
) -> None:
    database = postgresql(Shape("in_list", wallet()))
    database.extend()
    database.insert(("adjustment", "manual", 5))
    before = database.dump()
    with pytest.raises(MigrationRefused, match="does not allow 1 of the rows"):
        database.restore()
    assert database.dump() == before


def test_an_adjustment_that_the_old_check_allowed_is_no_obstacle(postgresql: MakeDatabase) -> None:
    types = "('deposit', 'adjustment')"
    database = postgresql(Shape("adjustment", wallet(f"text CHECK (type IN {types})")))
    before = database.dump()
    database.extend()
    database.insert(("adjustment", "manual", 5))
    database.restore()
    assert database.dump() == before


def test_a_row_that_the_old_domain_refuses_stops_the_downgrade(postgresql: MakeDatabase) -> None:
    ddl = wallet("kind", before=f"CREATE DOMAIN kind AS text CHECK (VALUE IN {TYPES})")
    database = postgresql(Shape("domain", ddl))
    database.extend()
    database.insert(("adjustment", "manual", 5))
    before = database.dump()
    with pytest.raises(MigrationRefused, match="does not satisfy"):
        database.restore()
    assert database.dump() == before


def test_nothing_is_committed_when_there_is_nothing_to_do(postgresql: MakeDatabase) -> None:
    database = postgresql(Shape("no_check", wallet("text", "text")))
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        transaction = connection.begin()
        raw(connection, "CREATE TABLE marker (id int)")
        wallet_checks.extend(context, ROWS, "wallet_transactions")
        wallet_checks.restore(context, ROWS, "wallet_transactions")
        transaction.rollback()
    assert "marker" not in database.dump()


def test_rules_that_are_not_about_kinds_stay_the_hosts_own(postgresql: MakeDatabase) -> None:
    ddl = wallet("text", "text", "CHECK (amount_cents > 0)", "CHECK (balance_after_cents >= 0)")
    database = postgresql(Shape("amounts", ddl))
    before = database.dump()
    database.extend()
    assert database.dump() == before


def test_the_search_path_is_left_as_it_was(postgresql: MakeDatabase) -> None:
    database = postgresql(Shape("in_list", wallet()))
    with database.engine.connect() as connection:
        raw(connection, "SET search_path = public, pg_catalog")
        connection.commit()
        assert len(wallet_checks.missing_values(connection, ROWS, "wallet_transactions")) == 2
        assert raw(connection, "SHOW search_path").scalar_one() == "public, pg_catalog"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_the_gaps_can_be_asked_for_in_autocommit(postgresql: MakeDatabase, driver: str) -> None:
    database = postgresql(Shape("in_list", wallet()))
    url = database.engine.url.set(drivername=f"postgresql+{driver}")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = wallet_checks.missing_values(connection, ROWS, "wallet_transactions")
    assert [str(gap) for gap in found] == [
        'CHECK "wallet_transactions_reference_type_check" of table public.wallet_transactions'
        " refuses referral_conversion",
        'CHECK "wallet_transactions_type_check" of table public.wallet_transactions'
        " refuses referral_bonus, adjustment",
    ]


def test_a_downgrade_under_another_search_path_gives_the_same(postgresql: MakeDatabase) -> None:
    """What the CHECK was before is kept with the schema of every name in it."""
    functions = f"""CREATE SCHEMA app; CREATE FUNCTION app.known(text) RETURNS boolean IMMUTABLE
        LANGUAGE sql AS $$ SELECT $1 IN {TYPES} $$"""
    ddl = wallet("text CHECK (app.known(type))", "text", before=functions)
    database = postgresql(Shape("functions", ddl))
    before = database.dump()
    url = database.engine.url
    path = {"options": "-csearch_path=app,public"}
    database.engine = sa.create_engine(url, connect_args=path, poolclass=sa.NullPool)
    database.extend()
    assert database.gaps() == []
    database.engine = sa.create_engine(url, poolclass=sa.NullPool)
    database.restore()
    assert database.dump() == before
