"""CHECKs are found in any CREATE TABLE that SQLite takes, with SQLite as the judge."""

from __future__ import annotations

import contextlib
import sqlite3

import hypothesis.strategies as st
import pytest
from hypothesis import assume
from hypothesis import given

from flask_referral.schema.wallet_checks.sqlite_ddl import balanced
from flask_referral.schema.wallet_checks.sqlite_ddl import MalformedSQL
from flask_referral.schema.wallet_checks.sqlite_ddl import mentioned
from flask_referral.schema.wallet_checks.sqlite_ddl import parse_table
from flask_referral.schema.wallet_checks.sqlite_ddl import tokens

space = st.sampled_from([" ", "\n", "\t", "  ", "/* ) CHECK ( ' */ ", "-- (' \" CHECK (\n", "/**/"])
nasty = st.text(st.sampled_from("ab'\"`[]()-/*,; éCHECK"), max_size=8)


def quoted(text: str, style: str) -> str:
    """Quote an identifier in one of SQLite's four ways."""
    if style == "[":
        return "[" + text.replace("]", "") + "]"
    return style + text.replace(style, style * 2) + style


identifiers = st.builds(quoted, nasty.filter(str.strip), st.sampled_from('"`['))
strings = st.builds(quoted, nasty, st.just("'"))
atoms = st.one_of(
    strings, st.sampled_from(["1", "0x1F", "1e3", ".5", "x'00'", "type", "NULL", "abs(1)"])
)
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("({}{}{})".format, inner, space, space),
        st.builds("{}{}={}{}".format, inner, space, space, inner),
        st.builds("{} IN ({},{}{})".format, inner, inner, space, inner),
        st.builds("CASE WHEN {} THEN {} END".format, inner, inner),
    ),
    max_leaves=6,
)
columns = st.tuples(
    identifiers,
    st.sampled_from(["", " TEXT", " VARCHAR(20)", " DECIMAL(10, 2)", " DEFAULT (1 + (2))"]),
    st.sampled_from(["", " COLLATE NOCASE", " NOT NULL", " UNIQUE", " DEFAULT 'CHECK (1)'"]),
    st.lists(st.tuples(st.none() | identifiers, space, expressions, space), max_size=2),
)
WORDS = st.sampled_from(["CHECK", "check", "Check"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[tuple[str | None, str]]]:
    """Draw a CREATE TABLE and the (name, inside) of its CHECKs."""
    checks: list[tuple[str | None, str]] = []
    items = ["type TEXT"]
    for name, kind, option, clauses in draw(st.lists(columns, max_size=3)):
        item = name + kind + option
        for label, before, inside, after in clauses:
            constraint = "" if label is None else f" CONSTRAINT {label}"
            item += f"{constraint}{before}{draw(WORDS)}{after}({inside})"
            checks.append((label, inside))
        items.append(item)
    separator = draw(st.sampled_from([",", " , ", ",\n-- CHECK (\n"]))
    constraints = draw(st.lists(st.tuples(st.none() | identifiers, space, expressions), max_size=2))
    body = separator.join(items)
    for index, (label, before, inside) in enumerate(constraints):
        # SQLite does not ask for a comma between two constraints of the table.
        comma = "," if index == 0 else draw(st.sampled_from([",", " "]))
        constraint = "" if label is None else f"CONSTRAINT {label}"
        body += f"{comma}{constraint}{before}CHECK({inside})"
        checks.append((label, inside))
    tail = draw(st.sampled_from(["", " STRICT", " /* CHECK (x) */"]))
    return f"CREATE TABLE {draw(identifiers)}{draw(space)}({draw(space)}{body})" + tail, checks


@given(tables())
def test_every_check_is_found_and_nothing_else(
    table: tuple[str, list[tuple[str | None, str]]],
) -> None:
    sql, expected = table
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(sql)
        except sqlite3.Error:
            assume(False)
        stored, name = connection.execute("SELECT sql, name FROM sqlite_master").fetchone()
        parsed = parse_table(stored)
        assert [parsed.inside(check) for check in parsed.checks] == [
            inside for _, inside in expected
        ]
        assert [check.name is None for check in parsed.checks] == [n is None for n, _ in expected]
        info = connection.execute("SELECT name FROM pragma_table_xinfo(?)", (name,)).fetchall()
        assert [column.name for column in parsed.columns] == [row[0] for row in info]

        assert parsed.edited({}) == stored
        edited = parsed.edited({c: f"({parsed.inside(c)}) OR 1 /* ours */" for c in parsed.checks})
        connection.execute(f'DROP TABLE "{name.replace(chr(34), chr(34) * 2)}"')
        connection.execute(edited)
        again = parse_table(connection.execute("SELECT sql FROM sqlite_master").fetchone()[0])
        restored = {c: again.inside(c)[1:].removesuffix(") OR 1 /* ours */") for c in again.checks}
        assert again.edited(restored) == stored
        connection.close()


@given(st.text(st.sampled_from("aC('\")[]`-/*\n, é\x00") | st.characters(), max_size=40))
def test_no_text_is_too_odd(text: str) -> None:
    try:
        found = list(tokens(text))
    except MalformedSQL:
        assert not balanced(text)
        return
    positions = [position for token in found for position in (token.start, token.end)]
    assert positions == sorted(positions)
    assert all(text[token.start : token.end] == token.text for token in found)
    balanced(text)
    mentioned(text, ["a", "C"])
    try:
        parse_table(f"CREATE TABLE t ({text}")
    except MalformedSQL:
        return


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        ("type IN ('reference_type')", {"type"}),
        ('"Type" = [reference_type]', {"type", "reference_type"}),
        ("wallet.`type` <> 'x' -- reference_type", {"type"}),
        ("type(1) = 'type' /* type */", set()),
        ("mytype = types OR étype", set()),
    ],
)
def test_the_columns_of_an_expression(expression: str, columns: set[str]) -> None:
    assert mentioned(expression, ["type", "reference_type", "status"]) == columns


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        "CREATE TABLE t",
        "CREATE TABLE t (a",
        "CREATE TABLE t (a 'b)",
        "",
    ],
)
def test_what_is_no_table_is_refused(sql: str) -> None:
    with pytest.raises(MalformedSQL):
        parse_table(sql)
