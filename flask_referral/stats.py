"""Station 6: what a referrer's code has brought, in all, day by day (UTC) and by source.

Clicks of closed days come from ``referral_daily`` and ``referral_daily_sources``, where there are
sums for this referrer; what is newer than the referrer's last sum is counted in the covering
indexes. All of it is read by one statement, so that a roll-up that commits meanwhile neither loses
nor doubles a click, and what has no source is what the sources leave of the totals.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import typing as t

import sqlalchemy as sa

from . import codes
from . import sources
from .db import days
from .db import sql
from .db.models import Models
from .db.models import PAID
from .db.models import RewardRole
from .db.models import RewardStatus
from .errors import is_whole_number
from .errors import ReferralError
from .words import gettext_noop

DEFAULT_DAYS = 30
MOST_DAYS = 366
#: How many sources are listed by themselves.
MOST_SOURCES = 20

_FIGURES = ("clicks", "signups", "conversions", "earned_cents", "pending_cents", "reversed_cents")
#: Those of each day of the series, and of each source.
_SHOWN = _FIGURES[:4]
#: What is counted of sources apart from their days.
_OF_SOURCE = ("source_clicks", "source_signups")
_NOTHING = (0,) * len(_SHOWN)


def checked_days(value: t.Any) -> int:
    """Return a number of days, or refuse it.

    :raises ReferralError: where it is no whole number from 1 to :data:`MOST_DAYS`.
    """
    if not is_whole_number(value, 1, MOST_DAYS):
        sentence = gettext_noop("days must be a whole number from 1 to %(most)s.")
        raise ReferralError(sentence, most=MOST_DAYS)
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
) -> dict[str, t.Any]:
    """Return a referrer's statistics as JSON has them: the fields of ``results.Stats``.

    One statement, whatever the number of clicks; one more where the user has no code. It makes
    none.

    :param number: how many days the series has; today is the last.
    :param link: returns the share link of a code.
    :param reading: what the statement is made in, as row level security.
    :raises ReferralError: where ``number`` is out of bounds.
    :raises UnknownUser: where there is no such user.
    """
    first = days.day_of(now) - dt.timedelta(days=checked_days(number) - 1)
    begin = days.begin(first, db.dialect.name)
    with reading or contextlib.nullcontext():
        rows = _figures(db, models, user=user_id, first=first, begin=begin)
    code = rows[0].code
    if code is None:
        codes.require_user(db, models, user_id)
    on: dict[dt.date, tuple[int, ...]] = {}
    of: dict[str | None, tuple[int, ...]] = {}
    for row in rows:
        if row.day is not None:
            shown = row.clicks, row.signups, row.conversions, row.earned_cents
            _add(on, row.day, shown)
        if row.source is not None:
            shown = row.source_clicks, row.source_signups, row.conversions, row.earned_cents
            _add(of, row.source, shown)
    _, _, *sums, _ = (*zip(*rows, strict=True),)
    totals = dict(zip(_FIGURES, map(sum, sums), strict=False))
    daily = []
    for ordinal in range(first.toordinal(), first.toordinal() + number):
        day = dt.date.fromordinal(ordinal)
        clicks, signups, conversions, earned_cents = on.get(day, _NOTHING)
        daily.append(
            {
                "date": day.isoformat(),
                "clicks": clicks,
                "signups": signups,
                "conversions": conversions,
                "earned_cents": earned_cents,
            }
        )
    return {
        "code": code,
        "link": None if code is None else link(code),
        "days": number,
        "totals": totals,
        "daily": daily,
        "sources": listed(of, totals),
    }


K = t.TypeVar("K")


def _add(figures: dict[K, tuple[int, ...]], key: K, more: tuple[int, ...]) -> None:
    known = figures.get(key)
    figures[key] = more if known is None else _sum((known, more))


def _sum(figures: t.Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(_NOTHING, *figures, strict=True)))


def listed(
    of: t.Mapping[t.Any, tuple[int, ...]], totals: t.Mapping[str, int]
) -> list[dict[str, t.Any]]:
    """Return the sources, most clicks first; none is left out of the sums.

    :param of: clicks, sign-ups, conversions and earned cents of each that has a name.
    :param totals: the same of all, by name.
    """
    named = _sum(of.values())
    nameless = tuple(totals[name] - sum for name, sum in zip(_SHOWN, named, strict=True))
    found = [item for item in (*of.items(), (None, nameless)) if any(item[1])]
    found.sort(key=lambda item: ([-figure for figure in item[1]], item[0] or ""))
    if rest := found[MOST_SOURCES:]:
        found[MOST_SOURCES:] = [(sources.OTHER, _sum(figures for _, figures in rest))]
    return [
        {"source": source, **dict(zip(_SHOWN, figures, strict=True))} for source, figures in found
    ]


@sql.statement
def _figures(models: Models, dialect: str) -> sa.Select[t.Any]:
    """One row for each day of the series that had anything, and one (NULL) for all before.

    The same for each source: its rewards by day, all its clicks and sign-ups in the row without.

    Rewards outlive the buyers' accounts and the referrer's code, and so do these figures.
    """
    click = models.ReferralClick.__table__.c
    daily = models.ReferralDaily.__table__.c
    by_source = models.ReferralDailySource.__table__.c
    reward = models.ReferralReward.__table__.c
    user = sa.bindparam("user", type_=models.user_key.type)
    first = sa.bindparam("first", type_=sa.Date())
    begin = sa.bindparam("begin", type_=days.type_of(dialect))
    clicked_at = days.column(click.clicked_at, dialect)
    clicked_on = days.date_of(click.clicked_at, dialect)
    of_user, signed_up = click.referrer_user_id == user, click.bound_at.is_not(None)
    last_closed = sa.select(sa.func.max(daily.day)).where(daily.referrer_user_id == user)
    opened = days.after(last_closed.scalar_subquery(), dialect)
    # Of a range that ends somewhere PostgreSQL expects a two-hundredth of the rows, of one that
    # does not a third.
    is_open = sa.and_(clicked_at >= opened, clicked_at <= days.forever(dialect))
    earned_at = days.column(reward.created_at, dialect)
    is_paid = reward.status.in_(sql.words(*PAID))
    is_waiting = reward.status.in_(sql.words(RewardStatus.pending, RewardStatus.held))
    has_qualified = sa.and_(
        reward.number == sa.literal_column("1"), reward.status != sql.word(RewardStatus.void)
    )
    none: sa.ColumnElement[int] = sa.literal_column("0")
    nothing = sa.cast(sa.null(), sa.Date())
    unnamed = sa.cast(sa.null(), sa.Text())
    # An integer, because PostgreSQL's sum of BIGINT is NUMERIC.
    count = sa.cast(sa.func.count(), sa.Integer())

    names = (*_FIGURES, *_OF_SOURCE)

    def part(day: t.Any, source: t.Any = unnamed, **figures: t.Any) -> sa.Select[t.Any]:
        columns = (figures.get(name, none).label(name) for name in names)
        return sa.select(day.label("day"), source.label("source"), *columns)

    # Each is a range of one index; the first is there for who has nothing.
    parts = sa.union_all(
        part(nothing).where(_alone(dialect)),
        part(sa.case((daily.day >= first, daily.day)), clicks=daily.clicks).where(
            daily.referrer_user_id == user
        ),
        # What was before the series is not worth a look at its days.
        part(nothing, clicks=count).where(of_user, is_open, clicked_at < begin),
        part(clicked_on, clicks=count)
        .where(of_user, is_open, clicked_at >= begin)
        .group_by(clicked_on),
        part(nothing, signups=count).where(of_user, signed_up, clicked_at < begin),
        part(clicked_on, signups=count)
        .where(of_user, signed_up, clicked_at >= begin)
        .group_by(clicked_on),
        part(nothing, by_source.source, source_clicks=by_source.clicks).where(
            by_source.referrer_user_id == user, by_source.source != sql.word("")
        ),
        part(nothing, click.source, source_clicks=count)
        .where(of_user, is_open, click.source.is_not(None))
        .group_by(click.source),
        part(nothing, click.source, source_signups=count)
        .where(of_user, signed_up, click.source.is_not(None))
        .group_by(click.source),
        part(
            sa.case((earned_at >= begin, days.date_of(reward.created_at, dialect))),
            reward.source,
            conversions=sa.case((has_qualified, sa.literal_column("1")), else_=none),
            earned_cents=sa.case((is_paid, reward.cents), else_=none),
            pending_cents=sa.case((is_waiting, reward.cents - reward.reversed_cents), else_=none),
            reversed_cents=sa.case((is_paid, reward.reversed_cents), else_=none),
        ).where(
            reward.user_id == user,
            reward.role == sql.word(RewardRole.referrer),
            reward.created_at.is_not(None),
        ),
    ).subquery()
    sums = (sa.func.sum(parts.c[name]).label(name) for name in names)
    shown = codes.shown(models, user)
    key = parts.c.day, parts.c.source
    return sa.select(*key, *sums, shown.label("code")).group_by(*key)


def _alone(dialect: str) -> sa.ColumnElement[bool]:
    """Return a condition that is true, and keeps PostgreSQL from starting parallel workers.

    It would for a large referrer, whose sign-ups it thinks many: 15 ms instead of 9, measured with
    a million clicks and 50,000 sign-ups, and two more processes for each who looks at them.
    ``set_config`` is marked parallel unsafe; the setting is nobody's and goes with the transaction.
    """
    if dialect != "postgresql":
        return sa.true()
    arguments: list[sa.ColumnElement[t.Any]] = [
        sa.literal_column(text) for text in ("'flask_referral.alone'", "''", "true")
    ]
    condition: sa.ColumnElement[bool] = sa.func.pg_catalog.set_config(*arguments).is_not(None)
    return condition
