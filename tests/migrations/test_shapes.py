"""Users of every shape: names, schemas, types and databases."""

from __future__ import annotations

import dataclasses
import json
import typing as t
import uuid

import pytest
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy

from tests.hosts import Host

from .conftest import Dump
from .conftest import FlaskDb
from .shapes import DeclareUsers
from .shapes import make_shape

ALICE = uuid.UUID("a11ce000-0000-4000-8000-000000000000")
BOB = uuid.UUID("b0b00000-0000-4000-8000-000000000000")


class Guid(sa.types.TypeDecorator[uuid.UUID]):
    """A UUID type as hosts wrote it before SQLAlchemy had one."""

    impl = sa.CHAR
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> t.Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.dialects.postgresql.UUID(as_uuid=True))
        return dialect.type_descriptor(sa.CHAR(32))

    def process_bind_param(self, value: t.Any, dialect: sa.Dialect) -> t.Any:
        return value if value is None or dialect.name == "postgresql" else value.hex

    def process_result_value(self, value: t.Any, dialect: sa.Dialect) -> t.Any:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class Prefixed(sa.types.TypeDecorator[str]):
    """``user_…`` outside, a number in the database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else int(value.removeprefix("user_"))

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else f"user_{value}"


@dataclasses.dataclass(frozen=True)
class Shape:
    """Users, and two of their keys."""

    declare: DeclareUsers
    keys: tuple[t.Any, t.Any]
    #: What an identity claims to be, where that is not the key as text.
    claims: tuple[str, str] | None = None
    #: Of the host's metadata.
    schema: str | None = None
    #: Schemas to make first.
    schemas: tuple[str, ...] = ()
    databases: tuple[str, ...] = ("postgresql", "sqlite")


def model(
    tablename: str, attribute: str, make_key: t.Callable[[], sa.Column[t.Any]], **names: t.Any
) -> DeclareUsers:
    def declare(db: SQLAlchemy) -> t.Any:
        body = {"__tablename__": tablename, attribute: make_key(), **names}
        return type("Person", (db.Model,), body)

    return declare


def pk(*args: t.Any) -> t.Callable[[], sa.Column[t.Any]]:
    return lambda: sa.Column(*args, primary_key=True)


BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SHAPES = {
    "reserved word": Shape(model("user", "id", pk(sa.Integer)), (1, 2)),
    "mixed case": Shape(model("UserAccount", "id", pk("userId", sa.Integer)), (1, 2)),
    "odd name": Shape(model("odd: 100% table", "id", pk("the key: 1%", sa.Integer)), (1, 2)),
    "another name of the key": Shape(model("users", "uid", pk(sa.Integer)), (1, 2)),
    "other attribute": Shape(model("users", "number", pk("user_no", sa.Integer)), (1, 2)),
    "big integer with a variant": Shape(model("users", "id", pk(BIG)), (2**31, 1)),
    "type decorator": Shape(model("users", "id", pk(Guid)), (ALICE, BOB)),
    "type decorator of numbers": Shape(
        model("users", "id", pk(Prefixed)), ("user_1", "user_2"), ("1", "2")
    ),
    "uuid as text": Shape(model("users", "id", pk(sa.Uuid(as_uuid=False))), (str(ALICE), str(BOB))),
    "char": Shape(model("users", "id", pk(sa.CHAR(26))), ("A" * 26, "B" * 26)),
    "short char": Shape(model("users", "id", pk(sa.CHAR(26))), ("A", "A" * 20)),
    "collation": Shape(
        model("users", "id", pk(sa.String(26, collation="C"))),
        ("A" * 26, "B" * 26),
        databases=("postgresql",),
    ),
    "text": Shape(model("users", "id", pk(sa.Text)), ("A" * 3000, "B")),
    "another schema": Shape(
        lambda db: sa.Table(
            "users", db.metadata, sa.Column("id", sa.Integer, primary_key=True), schema="Accounts"
        ),
        (1, 2),
        schemas=("Accounts",),
        databases=("postgresql",),
    ),
    "metadata with a schema": Shape(
        model("users", "id", pk(sa.Integer)),
        (1, 2),
        schema="app",
        schemas=("app",),
        databases=("postgresql",),
    ),
    "two schemas": Shape(
        model("users", "id", pk(sa.Integer), __table_args__={"schema": "people"}),
        (1, 2),
        schema="Our App",
        schemas=("people", "Our App"),
        databases=("postgresql",),
    ),
    "bind": Shape(model("users", "id", pk(sa.Integer), __bind_key__="people"), (1, 2)),
}
CASES = [
    pytest.param(name, database, id=f"{name}-{database}".replace(" ", "_"))
    for name, shape in SHAPES.items()
    for database in shape.databases
]


@pytest.mark.parametrize(("name", "database"), CASES)
def test_shape(
    request: pytest.FixtureRequest, dump: Dump, flask_db: FlaskDb, name: str, database: str
) -> None:
    shape = SHAPES[name]
    new = request.getfixturevalue(f"new_{database}_url")
    default, people = new(), new()
    url = people if name == "bind" else default
    if shape.schemas:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            for schema in shape.schemas:
                connection.exec_driver_sql(f'CREATE SCHEMA "{schema}"')
        engine.dispose()
    host = make_shape(
        default,
        shape.declare,
        schema=shape.schema,
        migrate={"include_schemas": bool(shape.schemas)},
        SQLALCHEMY_BINDS={"people": people},
    )
    host.create_tables()
    flask_db(host, "init")
    flask_db(host, "stamp")
    before = dump(url)

    host.cli("db", "upgrade")
    host.cli("db", "check")
    assert "(head)" in host.cli("db", "current").stdout
    if name == "bind":
        assert not any("referral" in line for line in dump(default))
    flask_db(host, "check")

    store_rows(host, shape)
    if database == "postgresql":
        for key, claim in zip(shape.keys, shape.claims or map(str, shape.keys), strict=True):
            assert visible(host, claim) == [key]

    host.cli("db", "downgrade", "base")
    assert dump(url) == before
    host.close()


def store_rows(host: Host, shape: Shape) -> None:
    """Put a row into each table, with references to users."""
    models = host.app.extensions["referral"].state.models
    alice, bob = shape.keys
    with host.app.app_context(), host.referral.state.engine.begin() as connection:
        users = models.user_key.table
        for key in shape.keys:
            connection.execute(sa.insert(users).values({models.user_key.key: key}))
        for key, code in zip(shape.keys, ("AAAAAAAA", "BBBBBBBB"), strict=True):
            connection.execute(
                sa.insert(models.ReferralCode.__table__).values(user_id=key, code=code)
            )
        click = {"referral_code": "AAAAAAAA", "referrer_user_id": alice, "referred_user_id": bob}
        connection.execute(sa.insert(models.ReferralClick.__table__).values(click))
        connection.execute(
            sa.insert(models.ReferralConversion.__table__).values(
                **click, whop_membership_id="mem_1", bonus_cents=1000
            )
        )
        stored = connection.scalar(sa.select(models.ReferralConversion.referrer_user_id))
        assert unpadded(stored) == alice


def visible(host: Host, claim: str) -> list[t.Any]:
    """Return whose codes row level security shows to somebody."""
    codes = host.app.extensions["referral"].state.models.ReferralCode.__table__
    with host.app.app_context(), host.referral.state.engine.connect() as connection:
        # The role goes with the rollback.
        connection.exec_driver_sql('CREATE ROLE "shape of users"')
        if codes.schema:
            connection.exec_driver_sql(
                f'GRANT USAGE ON SCHEMA "{codes.schema}" TO "shape of users"'
            )
        name = connection.dialect.identifier_preparer.format_table(codes)
        connection.exec_driver_sql(f'GRANT SELECT ON {name} TO "shape of users"')
        connection.exec_driver_sql('SET LOCAL ROLE "shape of users"')
        connection.execute(
            sa.text("SELECT set_config('request.jwt.claims', :claims, true)"),
            {"claims": json.dumps({"sub": claim})},
        )
        return [unpadded(key) for key in connection.scalars(sa.select(codes.c.user_id))]


def unpadded(key: t.Any) -> t.Any:
    # PostgreSQL fills CHAR with spaces.
    return key.rstrip() if isinstance(key, str) else key


def test_claim_longer_than_the_key(new_postgresql_url: t.Callable[[], str]) -> None:
    """A cast to ``varchar(n)`` or ``char(n)`` would cut it to what is another user's id."""
    for kind in (sa.String(8), sa.CHAR(8)):
        host = make_shape(new_postgresql_url(), model("users", "id", pk(kind)))
        host.create_tables()
        host.cli("db", "upgrade")
        store_rows(host, Shape(lambda db: None, ("AAAAAAAA", "BBBBBBBB")))
        assert visible(host, "AAAAAAAA") == ["AAAAAAAA"]
        assert visible(host, "AAAAAAAAX") == []
        host.close()
