"""Lists that are read page by page, newest first, by time and key.

A page costs the same at the first and the millionth row: it begins where the last one ended, in an
index, and nothing is counted or skipped.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import typing as t

import sqlalchemy as sa

from ...db import days
from ...db import qualified
from ...db import sql
from ...errors import ReferralError
from ...host.identity import convert_key

#: Rows of a page, and of a batch of an export.
PAGE, BATCH = 25, 1_000

Where = sa.ColumnElement[bool]


@dataclasses.dataclass(frozen=True)
class Listing:
    """The order of a list.

    :param at: the column of the time.
    :param key: what tells rows of one moment apart; an index has the time and then these.
    :param where: what all rows have in common.
    """

    at: sa.Column[t.Any]
    key: tuple[sa.Column[t.Any], ...]
    where: tuple[Where, ...] = ()

    def shown(
        self, dialect: str, branches: t.Sequence[Where], before: str | None, size: int
    ) -> sa.Subquery:
        """Return the time (``place``) and the key of a page's rows.

        :param branches: conditions of which a row meets one; each is read by an index of its own.
        """
        at = days.column(self.at, dialect)
        order = [at, *self.key]
        query = sa.select(at.label("place"), *self.key).where(self.at.is_not(None), *self.where)
        if before is not None:
            passed = self._place(before, dialect)
            # The time by itself too: of tuples PostgreSQL cannot tell how few rows lie between.
            query = query.where(at <= passed[0], sa.tuple_(*order) < sa.tuple_(*passed))
        newest = query.order_by(*(column.desc() for column in order)).limit(size)
        if len(branches) == 1:
            return newest.where(branches[0]).subquery("shown")
        parts = [sa.select(newest.where(branch).subquery()) for branch in branches]
        every = sa.union(*parts).subquery()
        places = [every.c.place, *(every.c[column.name] for column in self.key)]
        return (
            sa.select(every)
            .order_by(*(place.desc() for place in places))
            .limit(size)
            .subquery("shown")
        )

    def joined(self, shown: sa.Subquery) -> Where:
        """Return what joins a page with its table."""
        return sa.and_(*(shown.c[column.name] == column for column in self.key))

    def order(self, shown: sa.Subquery) -> list[sa.ColumnElement[t.Any]]:
        """Return the order of a page."""
        return [shown.c.place.desc(), *(shown.c[column.name].desc() for column in self.key)]

    def cursor(self, row: t.Any) -> str:
        """Return what the next page begins after."""
        at = row.place if isinstance(row.place, str) else row.place.isoformat()
        parts = [at, *(str(getattr(row, f"key_{column.name}")) for column in self.key)]
        return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")

    def _place(self, cursor: str, dialect: str) -> list[sa.ColumnElement[t.Any]]:
        try:
            parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            at, *key = (str(part) for part in parts)
            values = [convert_key(column, part) for column, part in zip(self.key, key, strict=True)]
            moment = at if dialect == "sqlite" else dt.datetime.fromisoformat(at)
        except (ValueError, TypeError, ReferralError):
            raise ReferralError(
                "This is no place in the list; begin at its first page once more."
            ) from None
        return [
            sa.literal(moment, days.type_of(dialect)),
            *(
                sa.literal(value, column.type)
                for column, value in zip(self.key, values, strict=True)
            ),
        ]


class Page(t.NamedTuple):
    """Some rows, and what the next page begins after; None where this is the last."""

    rows: list[t.Any]
    next: str | None


#: Makes the statement of a page's rows out of their places.
Describe = t.Callable[[sa.Subquery], sa.Select[t.Any]]


def page(
    db: sql.Connection,
    listing: Listing,
    describe: Describe,
    branches: t.Sequence[Where] | None,
    *,
    before: str | None = None,
    size: int = PAGE,
) -> Page:
    """Return a page. One statement; none where nothing can be meant.

    :param branches: as :meth:`Listing.shown`; None: all rows.
    :raises ReferralError: where ``before`` is no cursor.
    """
    if branches is None:
        branches = [sa.true()]
    if not branches:
        return Page([], None)
    # One more tells whether there is a next page.
    shown = listing.shown(db.dialect.name, branches, before, size + 1)
    keys = [shown.c[column.name].label(f"key_{column.name}") for column in listing.key]
    query = describe(shown).add_columns(shown.c.place, *keys).order_by(None)
    rows = list(qualified.execute(db, query.order_by(*listing.order(shown)), {}))
    is_last = len(rows) <= size
    return Page(rows[:size], None if is_last else listing.cursor(rows[size - 1]))
