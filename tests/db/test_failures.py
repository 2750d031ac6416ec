"""What a database error means: the database is away, others are in the way, or neither."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.db.failures import is_away
from flask_referral.db.failures import is_contended


def caught(connection: sa.Connection, sql: str) -> sa.exc.SQLAlchemyError:
    with pytest.raises(sa.exc.SQLAlchemyError) as error:
        connection.exec_driver_sql(sql)
    return error.value


def meaning(error: sa.exc.SQLAlchemyError) -> tuple[bool, bool]:
    return is_away(error), is_contended(error)


@pytest.fixture(params=["psycopg2", "psycopg"])
def engine(request: pytest.FixtureRequest, postgresql_url: str) -> t.Iterator[sa.Engine]:
    engine = sa.create_engine(postgresql_url.replace("psycopg2", request.param))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE things (id int PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO things VALUES (1)")
    yield engine
    engine.dispose()


def test_a_lock_that_others_hold(engine: sa.Engine) -> None:
    with engine.connect() as one, engine.connect() as other:
        one.exec_driver_sql("SELECT * FROM things FOR UPDATE")
        error = caught(other, "SELECT * FROM things FOR UPDATE NOWAIT")
    assert meaning(error) == (False, True)


def test_a_row_that_others_have_changed(engine: sa.Engine) -> None:
    strict = engine.execution_options(isolation_level="REPEATABLE READ")
    with strict.connect() as one, engine.begin() as other:
        one.exec_driver_sql("SELECT * FROM things")
        other.exec_driver_sql("UPDATE things SET id = 2")
        other.commit()
        error = caught(one, "UPDATE things SET id = 3")
    assert meaning(error) == (False, True)


def test_a_connection_that_was_ended(engine: sa.Engine) -> None:
    with engine.connect() as one, engine.begin() as other:
        pid = one.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        other.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 10000)")
        error = caught(one, "SELECT 1")
    assert meaning(error) == (True, False)


def test_a_server_that_does_not_answer() -> None:
    for driver in ("psycopg2", "psycopg"):
        # Nothing listens on port 1.
        engine = sa.create_engine(f"postgresql+{driver}://nobody@127.0.0.1:1/nothing")
        with pytest.raises(sa.exc.OperationalError) as error:
            engine.connect()
        assert meaning(error.value) == (True, False)


@pytest.mark.parametrize("sql", ["INSERT INTO things VALUES (1)", "SELECT nothing", "SELEC 1"])
def test_a_statement_that_is_refused(engine: sa.Engine, sql: str) -> None:
    with engine.connect() as connection:
        assert meaning(caught(connection, sql)) == (False, False)


def test_sqlite(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url, connect_args={"timeout": 0})
    with engine.connect() as one, engine.connect() as other:
        one.exec_driver_sql("BEGIN IMMEDIATE")
        locked = caught(other, "BEGIN IMMEDIATE")
        refused = caught(other, "SELECT nothing")
    engine.dispose()
    assert (meaning(locked), meaning(refused)) == ((False, True), (False, False))
    missing = sa.create_engine(f"{sqlite_url}/no/such/folder.db")
    with pytest.raises(sa.exc.OperationalError) as error:
        missing.connect()
    assert meaning(error.value) == (True, False)
