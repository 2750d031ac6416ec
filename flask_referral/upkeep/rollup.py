"""Sums of closed days, so that a popular referrer's statistics stay cheap.

A UTC day is closed an hour after its end: by then the last click that was dated in it has been
committed. Days are closed in order, each in a transaction, which keeps a promise that the
statistics and the purge rely on: where a referrer has a sum for a day, all the referrer's clicks
up to the end of that day are in the sums. No lock is taken that a click would wait for.
"""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from ..clock import as_utc
from ..db import days
from ..db import qualified
from ..db import sql

if t.TYPE_CHECKING:
    from ..db.models import Models
#: How long after its end a day is closed.
GRACE = dt.timedelta(hours=1)
ATTEMPTS = 10


class Closed(t.NamedTuple):
    """A day that has its sums."""

    day: dt.date
    #: How many referrers had clicks on it, without those that somebody else summed up.
    referrers: int


def last_closable(now: dt.datetime) -> dt.date:
    """Return the newest day that may be closed."""
    return days.day_of(now - GRACE) - dt.timedelta(days=1)


def first_open(connection: sa.Connection, models: Models) -> dt.date | None:
    """Return the first day with clicks after the last that has sums, or None. Two statements."""
    last = qualified.execute(
        connection, sa.select(sa.func.max(models.ReferralDaily.__table__.c.day))
    ).scalar()
    return _next_day(connection, models, last)


def close(connection: sa.Connection, models: Models, now: dt.datetime) -> t.Iterator[Closed]:
    """Sum up the days that have ended, oldest first.

    After each day what was done is yielded, for the caller to commit. It can be interrupted,
    repeated, and run twice at once: each sum is written once.

    :param connection: in READ COMMITTED or on SQLite, since a day has to be read again where a
        user was deleted while it was summed up.
    :param now: aware.
    """
    day = first_open(connection, models)
    while day is not None and day <= last_closable(now):
        yield Closed(day, _sum_up(connection, models, day))
        day = _next_day(connection, models, day)


def _next_day(connection: sa.Connection, models: Models, last: dt.date | None) -> dt.date | None:
    clicked_at = models.ReferralClick.__table__.c.clicked_at
    query = sa.select(sa.func.min(clicked_at))
    if last is not None:
        dialect = connection.dialect.name
        begin = days.begin(last + dt.timedelta(days=1), dialect)
        query = query.where(days.column(clicked_at, dialect) >= begin)
    oldest = qualified.execute(connection, query).scalar()
    return None if oldest is None else days.day_of(as_utc(oldest))


def _sum_up(connection: sa.Connection, models: Models, day: dt.date) -> int:
    if connection.dialect.name == "sqlite":
        # One writer at a time: nobody is deleted meanwhile.
        sql.begin_writing(connection)
        by_source, by_referrer = _summing(models, "sqlite", day)
        qualified.execute(connection, by_source)
        return qualified.execute(connection, by_referrer).rowcount
    (statement,) = _summing(models, connection.dialect.name, day)
    failures = 0
    while True:
        try:
            with connection.begin_nested():
                return int(qualified.execute(connection, statement).scalar_one())
        except sa.exc.DBAPIError as error:
            # A referrer was deleted between the reading and the writing of the sum, and the next
            # attempt does not find the clicks any more.
            failures += 1
            lost = (
                isinstance(error, sa.exc.IntegrityError)
                or sql.sqlstate(error) == sql.DEADLOCK_DETECTED
            )
            if not lost or failures == ATTEMPTS:
                raise


def _summing(models: Models, dialect: str, day: dt.date) -> list[t.Any]:
    """Return the statements that write a day's sums, those by source where the day's is new.

    So the sums by source are of the very clicks that the day's counts, whoever sums up beside.
    PostgreSQL needs one, which answers how many referrers have new sums.
    """
    click = models.ReferralClick.__table__.c
    daily, by_source = models.ReferralDaily.__table__, models.ReferralDailySource.__table__
    at = days.column(click.clicked_at, dialect)
    source, campaign = (
        sa.func.coalesce(column, sql.word("")) for column in (click.source, click.utm_campaign)
    )
    counting = (
        sa.select(
            click.referrer_user_id,
            sa.literal(day, sa.Date()).label("day"),
            source.label("source"),
            campaign.label("campaign"),
            sa.func.count().label("clicks"),
        )
        .where(
            at >= days.begin(day, dialect),
            at < days.begin(day + dt.timedelta(days=1), dialect),
        )
        .group_by(click.referrer_user_id, source, campaign)
    )
    # Of what begins with WITH, Python's driver for SQLite does not say how many rows it wrote.
    is_sqlite = dialect == "sqlite"
    counted = counting.subquery("counted") if is_sqlite else counting.cte("counted")
    # In the order of the keys, so that two runs wait for one another in the same order.
    sums = (
        sa.select(
            counted.c.referrer_user_id,
            counted.c.day,
            sa.cast(sa.func.sum(counted.c.clicks), sa.Integer()),
        )
        .group_by(counted.c.referrer_user_id, counted.c.day)
        .order_by(counted.c.referrer_user_id)
    )
    parts = sa.select(counted).where(
        sa.or_(counted.c.source != sql.word(""), counted.c.campaign != sql.word(""))
    )
    write_sums = (
        sql.insert(dialect, daily)
        .from_select(["referrer_user_id", "day", "clicks"], sums)
        .on_conflict_do_nothing()
    )
    write_parts = sql.insert(dialect, by_source)
    names = list(counted.c.keys())
    if is_sqlite:
        is_known = sa.exists().where(
            daily.c.referrer_user_id == counted.c.referrer_user_id, daily.c.day == counted.c.day
        )
        return [write_parts.from_select(names, parts.where(~is_known)), write_sums]
    written = write_sums.returning(daily.c.referrer_user_id).cte("written")
    is_new = parts.join(written, written.c.referrer_user_id == counted.c.referrer_user_id)
    write = write_parts.from_select(names, is_new).cte("sources")
    return [sa.select(sa.func.count()).select_from(written).add_cte(write)]
