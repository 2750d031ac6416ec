"""Days in UTC, whatever zone the database server is set to."""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

_UTC: sa.ColumnElement[str] = sa.literal_column("'UTC'", sa.Text())


def day_of(moment: dt.datetime) -> dt.date:
    """Return the UTC day of an aware moment."""
    return moment.astimezone(dt.UTC).date()


def column(moment: sa.Column[t.Any], dialect: str) -> sa.ColumnElement[t.Any]:
    """Return a column of moments in the form that compares with :func:`begin` by an index."""
    return sa.type_coerce(moment, type_of(dialect))


def type_of(dialect: str) -> sa.types.TypeEngine[t.Any]:
    """Return the type of what :func:`begin` returns."""
    return sa.Text() if dialect == "sqlite" else sa.DateTime(timezone=True)


def begin(day: dt.date, dialect: str) -> str | dt.datetime:
    """Return the moment at which a day begins.

    SQLite compares moments as texts, some of which have a fraction of a second and some none;
    a date alone is less than all of its day's.
    """
    if dialect == "sqlite":
        return day.isoformat()
    return dt.datetime.combine(day, dt.time(), dt.UTC)


def after(day: sa.ColumnElement[t.Any], dialect: str) -> sa.ColumnElement[t.Any]:
    """Return the moment at which a day of the database's has ended; before all where it is NULL."""
    if dialect == "sqlite":
        return sa.func.coalesce(sa.func.date(day, "+1 day"), "", type_=sa.Text())
    ended = sa.func.timezone(_UTC, sa.cast(day + sa.literal_column("1"), sa.DateTime()))
    return sa.func.coalesce(
        ended, sa.literal_column("'-infinity'::timestamptz"), type_=sa.DateTime(timezone=True)
    )


def forever(dialect: str) -> sa.ColumnElement[t.Any]:
    """Return what no moment is after."""
    # To SQLite, too, this comes after each of its texts.
    cast = "" if dialect == "sqlite" else "::timestamptz"
    return sa.literal_column(f"'infinity'{cast}", type_of(dialect))


def date_of(moment: sa.Column[t.Any], dialect: str) -> sa.ColumnElement[dt.date]:
    """Return a moment's day, to group by and to show."""
    if dialect == "sqlite":
        return sa.func.date(moment, type_=sa.Date())
    return sa.cast(sa.func.timezone(_UTC, moment), sa.Date())
