"""The shipped migrations make the declared tables, under the documented names."""

from __future__ import annotations

import re
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral import schema
from tests.hosts import Host
from tests.hosts import KEYS

from .catalogue import catalogue
from .conftest import Dump

UID = {"int": "integer", "uuid": "uuid", "str": "character varying(26)"}

#: table: columns as (name, type, NOT NULL, default)
COLUMNS: dict[str, list[tuple[str, str, bool, str | None]]] = {
    "referral_codes": [
        ("id", "uuid", True, "gen_random_uuid()"),
        ("user_id", "<uid>", True, None),
        ("code", "text", True, None),
        ("created_at", "timestamp with time zone", False, "now()"),
    ],
    "referral_clicks": [
        ("id", "uuid", True, "gen_random_uuid()"),
        ("referral_code", "text", True, None),
        ("referrer_user_id", "<uid>", True, None),
        ("referred_user_id", "<uid>", False, None),
        ("clicked_at", "timestamp with time zone", False, "now()"),
        ("referrer_url", "text", False, None),
        ("user_agent", "text", False, None),
        ("ip_hash", "text", False, None),
    ],
    "referral_conversions": [
        ("id", "uuid", True, "gen_random_uuid()"),
        ("referrer_user_id", "<uid>", True, None),
        ("referred_user_id", "<uid>", True, None),
        ("referral_code", "text", True, None),
        ("whop_membership_id", "text", True, None),
        ("bonus_cents", "integer", True, None),
        ("converted_at", "timestamp with time zone", False, "now()"),
        ("metadata", "jsonb", False, None),
    ],
}

CONSTRAINTS = {
    "referral_codes": {
        "referral_codes_pkey PRIMARY KEY (id)",
        "referral_codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE",
    },
    "referral_clicks": {
        "referral_clicks_pkey PRIMARY KEY (id)",
        "referral_clicks_referral_code_fkey FOREIGN KEY (referral_code) "
        "REFERENCES referral_codes(code) ON DELETE CASCADE",
        "referral_clicks_referrer_user_id_fkey FOREIGN KEY (referrer_user_id) "
        "REFERENCES users(id) ON DELETE CASCADE",
        "referral_clicks_referred_user_id_fkey FOREIGN KEY (referred_user_id) "
        "REFERENCES users(id) ON DELETE SET NULL",
        "referral_clicks_referred_user_id_referral_code_key "
        "UNIQUE (referred_user_id, referral_code)",
    },
    "referral_conversions": {
        "referral_conversions_pkey PRIMARY KEY (id)",
        "referral_conversions_referrer_user_id_fkey FOREIGN KEY (referrer_user_id) "
        "REFERENCES users(id) ON DELETE CASCADE",
        "referral_conversions_referred_user_id_fkey FOREIGN KEY (referred_user_id) "
        "REFERENCES users(id) ON DELETE CASCADE",
        "referral_conversions_referral_code_fkey FOREIGN KEY (referral_code) "
        "REFERENCES referral_codes(code) ON DELETE CASCADE",
        "referral_conversions_referrer_not_referred_check "
        "CHECK ((referrer_user_id <> referred_user_id))",
    },
}

#: table: index as (name, unique, columns), as it is on both databases
INDEXES = {
    "referral_codes": {
        ("idx_referral_codes_user_id", True, "user_id"),
        ("idx_referral_codes_code", True, "code"),
    },
    "referral_clicks": {
        ("idx_referral_clicks_referral_code", False, "referral_code"),
        ("idx_referral_clicks_referrer_user_id", False, "referrer_user_id, clicked_at"),
        ("idx_referral_clicks_clicked_at", False, "clicked_at"),
    },
    "referral_conversions": {
        ("idx_referral_conversions_referrer_user_id", False, "referrer_user_id, converted_at"),
        ("idx_referral_conversions_referred_user_id", False, "referred_user_id"),
        ("idx_referral_conversions_referred_user_unique", True, "referred_user_id"),
    },
}
INCLUDED = {"idx_referral_clicks_referrer_user_id": " INCLUDE (referred_user_id)"}


INDEX_OF_CODES = ("index", "referral_codes")


def read(host: Host) -> set[tuple[str, str, str]]:
    with host.app.app_context(), host.db.engine.connect() as connection:
        return catalogue(connection)


@pytest.mark.parametrize("convention", [False, True], ids=["plain", "convention"])
@pytest.mark.parametrize("key", KEYS)
def test_migrations_and_models_agree(
    new_database_url: t.Callable[[], str],
    host_on: t.Callable[..., Host],
    key: str,
    convention: bool,
) -> None:
    migrated = host_on(new_database_url(), key=key, convention=convention)
    declared = host_on(new_database_url(), migrate=False, key=key, convention=convention)
    with declared.app.app_context():
        declared.db.create_all()
    # Rules for values are made by the revisions alone: hosts have scripts for both databases.
    rules = re.compile(
        "referral_(codes_(code|created_at)|clicks_(clicked|bound)_at|clicks_utm_\\w+"
        "|(clicks|rewards)_source)_check "
    )
    left, right = (
        {row for row in read(host) if row[0] != "trigger" and not rules.match(row[2])}
        for host in (migrated, declared)
    )
    assert {table for _, table, _ in left} >= COLUMNS.keys()
    assert left - right == set()
    assert right - left == set()


@pytest.mark.parametrize("convention", [False, True], ids=["plain", "convention"])
@pytest.mark.parametrize("key", KEYS)
def test_postgresql_names(
    postgresql_url: str, host_on: t.Callable[..., Host], key: str, convention: bool
) -> None:
    host = host_on(postgresql_url, key=key, convention=convention)
    found = read(host)
    for table, columns in COLUMNS.items():
        for place, (name, kind, not_null, default) in enumerate(columns, 1):
            text = f"{place}. {name} {kind.replace('<uid>', UID[key])}"
            text += " NOT NULL" if not_null else ""
            text += f" DEFAULT {default}" if default else ""
            assert ("column", table, text) in found
        # PostgreSQL compares varchar as text.
        constraints = {
            re.sub(r"\((\w+)\)::text", r"\1", sql)
            for kind, name, sql in found
            if (kind, name) == ("constraint", table)
        }
        assert CONSTRAINTS[table] <= constraints
        for name, unique, keys in INDEXES[table]:
            kind = "UNIQUE INDEX" if unique else "INDEX"
            text = f"CREATE {kind} {name} ON public.{table} USING btree ({keys})"
            assert ("index", table, text + INCLUDED.get(name, "")) in found
    # A unique index is the constraint: one object, not two.
    codes = [sql.split()[-1] for kind, table, sql in found if (kind, table) == INDEX_OF_CODES]
    assert sorted(codes) == ["(code)", "(id)", "(user_id)", "id)"]


def squeezed(sql: str) -> str:
    return sql.replace(" ", "").replace("((", "(").replace("))", ")")


@pytest.mark.parametrize("convention", [False, True], ids=["plain", "convention"])
def test_sqlite_names(sqlite_url: str, host_on: t.Callable[..., Host], convention: bool) -> None:
    host = host_on(sqlite_url, convention=convention)
    found = read(host)
    for table, indexes in INDEXES.items():
        constraints = {
            squeezed(sql) for kind, name, sql in found if (kind, name) == ("constraint", table)
        }
        for name, unique, keys in indexes:
            kind = "UNIQUE INDEX" if unique else "INDEX"
            assert ("index", table, f"CREATE {kind} {name} ON {table} ({keys})") in found
        for constraint in CONSTRAINTS[table]:
            assert squeezed(constraint) in constraints
        with host.app.app_context():
            columns = sa.inspect(host.db.engine).get_columns(table)
        expected = [(name, not_null) for name, _, not_null, _ in COLUMNS[table]]
        found_columns = [(column["name"], not column["nullable"]) for column in columns]
        assert found_columns[: len(expected)] == expected


def test_up_down_and_up_again(
    database_url: str, host_on: t.Callable[..., Host], dump: Dump
) -> None:
    host = host_on(database_url, migrate=False)
    host.create_tables()

    def state() -> list[str]:
        return dump(database_url, without="referral_alembic_version")

    before_us = dump(database_url)
    steps = [before_us]
    for revision in schema.history():
        host.cli("db", "upgrade", revision.revision)
        steps.append(state())
    head = steps.pop()
    for before in reversed(steps):
        host.cli("db", "downgrade")
        assert state() == before
    assert host.cli("db", "current", "--json").stdout.count("null") == 1

    host.cli("db", "upgrade")
    assert state() == head
    host.cli("db", "downgrade", "base")
    assert dump(database_url) == before_us
    host.cli("db", "upgrade")
    assert state() == head
