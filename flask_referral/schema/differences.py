"""What Alembic finds different between the database and the models, in words."""

from __future__ import annotations

import typing as t


def describe(differences: t.Iterable[t.Any]) -> str:
    """Put Alembic's differences into words."""
    return "; ".join(_words(each) for each in differences)


def _words(difference: t.Any) -> str:
    # https://alembic.sqlalchemy.org/en/latest/api/autogenerate.html: what changed about one
    # column comes as a list, everything else as a tuple.
    if isinstance(difference, list):
        return ", ".join(_words(each) for each in difference)
    operation, *rest = difference
    verb, _, kind = operation.partition("_")
    kind = {"fk": "foreign key"}.get(kind, kind)
    if verb == "modify":
        _, table, column, *_ = rest
        return f"the {kind} of column {table}.{column} differs"
    if kind == "column":
        name = f"{rest[1]}.{rest[2].name}"
    else:
        name = getattr(rest[0], "name", None) or "without a name"
    return f"{kind} {name} is {'missing' if verb == 'add' else 'not ours'}"
