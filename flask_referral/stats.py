"""Station 6: what a referrer's code has brought, in all and day by day (UTC).

Clicks of closed days come from ``referral_daily``, where there are sums for this referrer; what
is newer than the referrer's last sum is counted in the covering index. Both are read by one
statement, so that a roll-up that commits in between neither loses nor doubles a click.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import typing as t

import sqlalchemy as sa

from . import codes
from .db import days
from .db import sql
from .db.models import Models
from .db.models import PAID
from .db.models import RewardRole
from .db.models import RewardStatus
from .errors import is_whole_number
from .errors import ReferralError
from .results import Stats
from .results import StatsDay
from .results import StatsTotals

DEFAULT_DAYS = 30
MOST_DAYS = 366


def checked_days(value: t.Any) -> int:
    """Return a number of days, or refuse it.

    :raises ReferralError: where it is no whole number from 1 to :data:`MOST_DAYS`.
    """
    if not is_whole_number(value, 1, MOST_DAYS):
        raise ReferralError(f"days must be a whole number from 1 to {MOST_DAYS}.")
    return value


def collect(
    db: sql.Connection,
    models: Models,
    user_id: t.Any,
    number: int,
    *,
    now: dt.datetime,
    link: t.Callable[[str], str | None],
    reading: contextlib.AbstractContextManager[None] | None = None,
) -> Stats:
    """Return a referrer's statistics. Three statements, whatever the number of clicks.

    A user who has no code yet has had no clicks; that takes two statements and makes no code.

    :param number: how many days the series has; today is the last.
    :param link: returns the share link of a code.
    :param reading: what the statements are made in, as row level security.
    :raises ReferralError: where ``number`` is out of bounds.
    :raises UnknownUser: where there is no such user.
    """
    last = days.day_of(now)
    first = last - dt.timedelta(days=checked_days(number) - 1)
    visits: t.Sequence[t.Any] = ()
    conversions: t.Sequence[t.Any] = ()
    with reading or contextlib.nullcontext():
        code = codes.find(db, models, user_id)
        if code is not None:
            begin = days.begin(first, db.dialect.name)
            visits = _visits(db, models, user=user_id, first=first, begin=begin)
            conversions = _conversions(db, models, user=user_id, begin=begin)
    if code is None:
        codes.require_user(db, models, user_id)
    visits_of = {row.day: row for row in visits}
    conversions_of = {row.day: row for row in conversions}

    def on(day: dt.date) -> StatsDay:
        seen, bought = visits_of.get(day), conversions_of.get(day)
        return StatsDay(
            date=day,
            clicks=seen.clicks if seen else 0,
            signups=seen.signups if seen else 0,
            conversions=bought.conversions if bought else 0,
            earned_cents=bought.earned_cents if bought else 0,
        )

    return Stats(
        code=None if code is None else code.code,
        link=None if code is None else link(code.code),
        days=number,
        totals=StatsTotals(
            clicks=sum(row.clicks for row in visits),
            signups=sum(row.signups for row in visits),
            conversions=sum(row.conversions for row in conversions),
            earned_cents=sum(row.earned_cents for row in conversions),
            pending_cents=sum(row.pending_cents for row in conversions),
            reversed_cents=sum(row.reversed_cents for row in conversions),
        ),
        daily=tuple(on(first + dt.timedelta(days=index)) for index in range(number)),
    )


@sql.statement
def _visits(models: Models, dialect: str) -> sa.Select[t.Any]:
    """One row for each day of the series that had a click, and one (NULL) for what was before.

    Each part is a range of one index.
    """
    click = models.ReferralClick.__table__
    daily = models.ReferralDaily.__table__.c
    user = sa.bindparam("user", type_=models.user_key.type)
    first = sa.bindparam("first", type_=sa.Date())
    begin = sa.bindparam("begin", type_=days.type_of(dialect))
    at = days.column(click.c.clicked_at, dialect)
    own = click.c.referrer_user_id == user
    last_closed = sa.select(sa.func.max(daily.day)).where(daily.referrer_user_id == user)
    live = sa.and_(own, at >= days.after(last_closed.scalar_subquery(), dialect))
    signups = sa.and_(own, click.c.referred_user_id.is_not(None))
    closed = daily.referrer_user_id == user
    before = sa.cast(sa.null(), sa.Date()).label("day")
    day = days.date_of(click.c.clicked_at, dialect)
    none: sa.ColumnElement[int] = sa.literal_column("0")
    count = sa.func.count()

    def part(*columns: t.Any, where: t.Any) -> sa.Select[t.Any]:
        return sa.select(*columns).where(where)

    parts = sa.union_all(
        part(
            before,
            sa.func.coalesce(sa.func.sum(daily.clicks), 0).label("clicks"),
            none.label("signups"),
            where=sa.and_(closed, daily.day < first),
        ),
        part(daily.day, daily.clicks, none, where=sa.and_(closed, daily.day >= first)),
        part(before, count, none, where=sa.and_(live, at < begin)),
        part(day, count, none, where=sa.and_(live, at >= begin)).group_by(day),
        part(before, none, count, where=sa.and_(signups, at < begin)),
        part(day, none, count, where=sa.and_(signups, at >= begin)).group_by(day),
    ).subquery()
    return sa.select(
        parts.c.day, _sum(parts.c.clicks, "clicks"), _sum(parts.c.signups, "signups")
    ).group_by(parts.c.day)


@sql.statement
def _conversions(models: Models, dialect: str) -> sa.Select[t.Any]:
    """As :func:`_visits`, for what the referrer's rewards came to.

    They outlive the buyers' accounts, and so do these figures.
    """
    reward = models.ReferralReward.__table__.c
    begin = sa.bindparam("begin", type_=days.type_of(dialect))
    in_series = days.column(reward.created_at, dialect) >= begin
    status, taken = reward.status, reward.reversed_cents
    paid = status.in_(sql.words(*PAID))
    waiting = status.in_(sql.words(RewardStatus.pending, RewardStatus.held))
    qualified = sa.and_(reward.number == 1, status != RewardStatus.void)
    rows = (
        sa.select(
            sa.case((in_series, days.date_of(reward.created_at, dialect))).label("day"),
            sa.case((qualified, 1), else_=0).label("conversions"),
            sa.case((paid, reward.cents), else_=0).label("earned_cents"),
            sa.case((waiting, reward.cents - taken), else_=0).label("pending_cents"),
            sa.case((paid, taken), else_=0).label("reversed_cents"),
        )
        .where(
            reward.user_id == sa.bindparam("user", type_=models.user_key.type),
            reward.role == RewardRole.referrer,
            reward.created_at.is_not(None),
        )
        .subquery()
    )
    day, *figures = rows.c
    return sa.select(day, *(_sum(figure, figure.name) for figure in figures)).group_by(day)


def _sum(figure: sa.ColumnElement[t.Any], name: str) -> sa.Label[int]:
    # PostgreSQL's sum of a BIGINT is NUMERIC.
    return sa.cast(sa.func.sum(figure), sa.BigInteger()).label(name)
