"""A host may list what its wallet allows in lookup tables: what they lack is named."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.errors import MigrationRefused

from .support import Database
from .support import OURS
from .support import Shape
from .test_postgresql_shapes import wallet as postgresql_wallet
from .test_sqlite_shapes import wallet as sqlite_wallet

TYPES = "CREATE TABLE types (name {text} PRIMARY KEY); INSERT INTO types VALUES ('deposit'){more};"
REASONS = "CREATE TABLE reasons (name {text} UNIQUE); INSERT INTO reasons VALUES ('manual');"
PAIRS = "CREATE TABLE pairs (reason {text}, kind {text}, PRIMARY KEY (kind, reason));"

#: the lookup tables; type; reference_type; a further constraint; the INSERTs that are asked for
LOOKUPS = {
    "type": (
        TYPES,
        "{text} REFERENCES types",
        "{text}",
        "",
        ["types ('name') VALUES ('referral_bonus'), ('adjustment')"],
    ),
    "both": (
        TYPES + REASONS,
        "{text} REFERENCES types (name)",
        "{text} REFERENCES reasons (name) ON DELETE RESTRICT",
        "",
        [
            "types ('name') VALUES ('referral_bonus'), ('adjustment')",
            "reasons ('name') VALUES ('referral_conversion')",
        ],
    ),
    "one is there": (
        TYPES.replace("{more}", ", ('adjustment')"),
        "{text} REFERENCES types",
        "{text}",
        "",
        ["types ('name') VALUES ('referral_bonus')"],
    ),
    "together": (
        PAIRS,
        "{text}",
        "{text}",
        "FOREIGN KEY (reference_type, type) REFERENCES pairs (reason, kind)",
        [
            "pairs ('reason', 'kind') VALUES ('referral_conversion', 'referral_bonus'), "
            "('referral_conversion', 'adjustment')"
        ],
    ),
    "with a rule besides": (
        TYPES,
        "{text} REFERENCES types CHECK (type IN ('deposit'))",
        "{text}",
        "",
        ["types ('name') VALUES ('referral_bonus'), ('adjustment')"],
    ),
}


@pytest.fixture(params=["postgresql", "sqlite"])
def make(request: pytest.FixtureRequest) -> t.Callable[[str], Database]:
    """Return a function that makes a wallet with one of the LOOKUPS, on both databases."""
    dialect: str = request.param
    new = request.getfixturevalue(dialect)
    wallet, text = {
        "postgresql": (postgresql_wallet, "varchar(40)"),
        "sqlite": (sqlite_wallet, "VARCHAR(40)"),
    }[dialect]

    def make(name: str) -> Database:
        tables, type_, reference, constraint, _ = (
            part.replace("{text}", text).replace("{more}", "") if isinstance(part, str) else part
            for part in LOOKUPS[name]
        )
        ddl = wallet(type_, reference, *filter(None, [constraint]))
        database: Database = new(Shape(name, tables + ddl))
        return database

    return make


@pytest.mark.parametrize("name", LOOKUPS)
def test_missing_rows_are_named_with_the_insert(
    make: t.Callable[[str], Database], name: str
) -> None:
    database = make(name)
    before = database.dump()
    cures = [gap.cure for gap in database.gaps() if gap.cure is not None]
    # Tables and columns are quoted, and PostgreSQL's have their schema.
    shown = [
        cure.replace('"public".', "").replace('"main".', "").replace('"', "'") for cure in cures
    ]
    assert sorted(shown) == sorted(
        "INSERT INTO " + f"'{table}' {rest}"
        for table, _, rest in (cure.partition(" ") for cure in LOOKUPS[name][-1])
    )
    with pytest.raises(MigrationRefused, match="in a migration of the application") as refused:
        database.extend()
    assert all(cure in str(refused.value) for cure in cures)
    assert database.dump() == before

    for cure in cures:
        database.run(cure)
    database.extend()
    assert database.gaps() == []
    for row in OURS:
        database.insert(row)
    with pytest.raises(sa.exc.DBAPIError):
        database.insert(("junk", "junk", 1))


def test_an_enum_and_its_lookup_table(postgresql: t.Callable[[Shape], Database]) -> None:
    """The INSERT needs the enum's label, which the upgrade would add too late."""
    kind = "CREATE TYPE kind AS ENUM ('deposit'); CREATE TABLE kinds (name kind PRIMARY KEY)"
    database = postgresql(
        Shape("enum", postgresql_wallet("kind REFERENCES kinds", "text", before=kind))
    )
    with pytest.raises(MigrationRefused) as refused:
        database.extend()
    *_, statements = str(refused.value).partition("run this one again: ")
    for statement in statements.split("; "):
        database.run(statement)
    database.extend()
    assert database.gaps() == []
    for row in OURS:
        database.insert(row)


def test_a_key_with_a_column_of_the_hosts_is_not_judged(
    postgresql: t.Callable[[Shape], Database],
) -> None:
    """Which tenant will ask is not known; a tenant may be NULL, which asks for nothing."""
    database = postgresql(
        Shape(
            "tenants",
            postgresql_wallet(
                "text",
                "text",
                "tenant int",
                "FOREIGN KEY (tenant, type) REFERENCES types (tenant, name)",
                before="CREATE TABLE types (tenant int, name text, PRIMARY KEY (tenant, name))",
            ),
        )
    )
    assert database.gaps() == []
    database.extend()
    for row in OURS:
        database.insert(row)


@pytest.mark.parametrize("column", ["", " (name)"])
def test_a_key_to_a_table_that_is_not_there(
    sqlite: t.Callable[[Shape], Database], column: str
) -> None:
    """SQLite lets it be declared, and refuses every row."""
    ddl = sqlite_wallet(f"TEXT REFERENCES gone{column}", "TEXT")
    database = sqlite(Shape("gone", ddl))
    before = database.dump()
    for step in (database.gaps, database.extend):
        with pytest.raises(MigrationRefused, match=r"key to gone .* cannot be followed: no"):
            step()
    assert database.dump() == before


def test_a_table_that_the_role_may_not_read(postgresql: t.Callable[[Shape], Database]) -> None:
    ddl = postgresql_wallet(
        "text REFERENCES kinds", "text", before="CREATE TABLE kinds (name text PRIMARY KEY)"
    )
    database = postgresql(Shape("unreadable", ddl))
    database.run("CREATE ROLE clerk LOGIN; ALTER TABLE wallet_transactions OWNER TO clerk")
    url = database.engine.url.set(username="clerk")
    clerk = dataclasses.replace(database, engine=sa.create_engine(url, poolclass=sa.NullPool))
    try:
        with pytest.raises(MigrationRefused, match=r'Let this role read "public"\."kinds"'):
            clerk.extend()
    finally:
        database.run("DROP OWNED BY clerk CASCADE; DROP ROLE clerk")
