"""Find the CHECK clauses in the text of a SQLite CREATE TABLE.

SQLite keeps the text as it was written, and only a table made from a changed text has changed
CHECKs. Everything here works with positions in that text, so that all else stays byte for byte.
Lexical rules: https://www.sqlite.org/lang_keywords.html and SQLite's ``tokenize.c``.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing as t

#: Opening quotes of identifiers and strings, with what closes them.
_CLOSING = {"'": "'", '"': '"', "`": "`", "[": "]"}
_WORD = re.compile(r"[^\W\d][\w$]*|[\u0080-\U0010ffff_][\w$\u0080-\U0010ffff]*")
_NUMBER = re.compile(r"\d[\w.]*|\.\d[\w.]*")
_SPACE = re.compile(r"[ \t\n\f\r]+")


class MalformedSQL(ValueError):
    """The text is no CREATE TABLE statement with a list of columns."""


@dataclasses.dataclass(frozen=True)
class Token:
    """A lexical element that means something: no white space, no comment."""

    kind: t.Literal["word", "quoted", "string", "number", "symbol"]
    text: str
    start: int
    end: int

    @property
    def keyword(self) -> str:
        """The word in capitals, or nothing: a quoted word is never a keyword."""
        return self.text.upper() if self.kind == "word" else ""

    @property
    def name(self) -> str:
        """The identifier without its quotes."""
        if self.kind not in ("quoted", "string"):
            return self.text
        close = _CLOSING[self.text[0]]
        inner = self.text[1:-1]
        return inner if close == "]" else inner.replace(close * 2, close)


@dataclasses.dataclass(frozen=True)
class CheckClause:
    """One CHECK: its name if it has one, and where the text between its brackets lies."""

    name: str | None
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class ColumnText:
    """What only the text tells about a column."""

    name: str
    collation: str | None
    generated: str | None


@dataclasses.dataclass(frozen=True)
class TableText:
    """A CREATE TABLE statement, taken apart."""

    sql: str
    checks: tuple[CheckClause, ...]
    columns: tuple[ColumnText, ...]
    without_rowid: bool

    def inside(self, check: CheckClause) -> str:
        """Return the text between the brackets of a CHECK."""
        return self.sql[check.start : check.end]

    def edited(self, replacements: t.Mapping[CheckClause, str]) -> str:
        """Return the statement with the inside of some CHECKs replaced."""
        out, position = [], 0
        for check in self.checks:
            out.append(self.sql[position : check.start])
            out.append(replacements.get(check, self.inside(check)))
            position = check.end
        return "".join(out) + self.sql[position:]


def tokens(sql: str) -> t.Iterator[Token]:
    """Yield the tokens of a piece of SQL.

    :param sql: any SQL text.
    :raises MalformedSQL: for a string or quoted name that never ends.
    """
    position = 0
    while position < len(sql):
        position, token = _next(sql, position)
        if token is not None:
            yield token


def parse_table(sql: str) -> TableText:
    """Take a CREATE TABLE statement apart.

    :param sql: the text as ``sqlite_master`` has it.
    :raises MalformedSQL: when it is something else, for example CREATE VIRTUAL TABLE.
    """
    found = list(tokens(sql))
    if [token.keyword for token in found[:2]] != ["CREATE", "TABLE"]:
        raise MalformedSQL("not a CREATE TABLE statement")
    opening = next((i for i, token in enumerate(found) if token.text == "("), None)
    if opening is None:
        raise MalformedSQL("no list of columns")
    closing = _matching(found, opening)
    tail = [token.keyword for token in found[closing + 1 :]]
    items = list(_items(found[opening + 1 : closing]))
    return TableText(
        sql=sql,
        checks=tuple(check for item in items for check in _checks(item)),
        columns=tuple(column for item in items for column in _column(sql, item)),
        without_rowid=("WITHOUT", "ROWID") in itertools.pairwise(tail),
    )


def balanced(sql: str) -> bool:
    """Say whether every bracket of an expression closes inside of it."""
    depth = 0
    try:
        for token in tokens(sql):
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth < 0:
                return False
    except MalformedSQL:
        return False
    return depth == 0


def mentioned(expression: str, columns: t.Iterable[str]) -> frozenset[str]:
    """Return those of the columns that an expression names, spelled as in ``columns``."""
    names = {column.lower(): column for column in columns}
    found = list(tokens(expression))
    result = set()
    for index, token in enumerate(found):
        called = [following.text for following in found[index + 1 : index + 2]] == ["("]
        if token.kind == "quoted" or (token.kind == "word" and not called):
            result.add(names.get(token.name.lower()))
    return frozenset(column for column in result if column is not None)


def _next(sql: str, position: int) -> tuple[int, Token | None]:
    """Return where the next token ends, and the token unless it is space or a comment."""
    char = sql[position]
    if space := _SPACE.match(sql, position):
        return space.end(), None
    if sql.startswith("--", position):
        end = sql.find("\n", position)
        return (len(sql) if end < 0 else end + 1), None
    if sql.startswith("/*", position):
        end = sql.find("*/", position + 2)
        return (len(sql) if end < 0 else end + 2), None
    if char in _CLOSING:
        end = _quoted_end(sql, position)
        kind: t.Literal["string", "quoted"] = "string" if char == "'" else "quoted"
        return end, Token(kind, sql[position:end], position, end)
    if word := _WORD.match(sql, position):
        return word.end(), Token("word", word.group(), position, word.end())
    if number := _NUMBER.match(sql, position):
        return number.end(), Token("number", number.group(), position, number.end())
    return position + 1, Token("symbol", char, position, position + 1)


def _quoted_end(sql: str, position: int) -> int:
    close = _CLOSING[sql[position]]
    end = position + 1
    while True:
        end = sql.find(close, end)
        if end < 0:
            raise MalformedSQL(f"a {sql[position]} that is never closed")
        # In [brackets] nothing can be escaped; elsewhere a doubled quote means itself.
        if close == "]" or not sql.startswith(close * 2, end):
            return end + 1
        end += 2


def _matching(found: list[Token], opening: int) -> int:
    depth = 0
    for index in range(opening, len(found)):
        depth += {"(": 1, ")": -1}.get(found[index].text, 0)
        if depth == 0:
            return index
    raise MalformedSQL("a bracket that is never closed")


def _items(body: list[Token]) -> t.Iterator[list[tuple[Token, int]]]:
    """Yield the columns and constraints of a table: tokens with their depth of brackets."""
    item: list[tuple[Token, int]] = []
    depth = 0
    for token in body:
        if token.text == "," and depth == 0:
            yield item
            item = []
            continue
        depth -= token.text == ")"
        item.append((token, depth))
        depth += token.text == "("
    yield item


def _checks(item: list[tuple[Token, int]]) -> t.Iterator[CheckClause]:
    # CHECK is a reserved word: unquoted, and outside of brackets, it can be nothing else.
    for index, (token, depth) in enumerate(item):
        if token.keyword != "CHECK" or depth != 0 or index + 1 == len(item):
            continue
        named = index >= 2 and item[index - 2][0].keyword == "CONSTRAINT"
        opening = item[index + 1][0]
        closing = _closing(item, index + 1)
        yield CheckClause(item[index - 1][0].name if named else None, opening.end, closing.start)


def _column(sql: str, item: list[tuple[Token, int]]) -> t.Iterator[ColumnText]:
    if not item or item[0][0].keyword in ("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"):
        return
    collation = generated = None
    for index, (token, depth) in enumerate(item[1:-1], start=1):
        if depth != 0:
            continue
        following = item[index + 1][0]
        if token.keyword == "COLLATE":
            collation = following.name
        elif token.keyword == "AS" and following.text == "(":
            generated = sql[following.end : _closing(item, index + 1).start]
    yield ColumnText(item[0][0].name, collation, generated)


def _closing(item: list[tuple[Token, int]], opening: int) -> Token:
    return next(token for token, depth in item[opening + 1 :] if token.text == ")" and depth == 0)
