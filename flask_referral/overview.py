"""Station 6, over the whole program: what it brought, what it cost, day by day (UTC) and by origin.

Clicks of closed days come from ``referral_daily`` and ``referral_daily_sources``: days are closed
in order, for all referrers, so only what is newer than the last closed day is counted in
``referral_clicks``. Sign-ups are counted in one index that holds nothing else. All of it is read by
one statement, so that a roll-up that commits meanwhile neither loses nor doubles a click.
"""

from __future__ import annotations

import collections
import datetime as dt
import typing as t

import sqlalchemy as sa

from .db import days
from .db import sql
from .db.models import Models
from .db.models import PAID
from .db.models import RewardRole
from .db.models import RewardStatus
from .results import Overview
from .results import OverviewCampaign
from .results import OverviewTagged
from .results import OverviewTotals
from .results import OverviewWaiting
from .results import StatsDay
from .results import StatsSource
from .stats import checked_days
from .stats import listed

#: How many campaigns are listed.
MOST_CAMPAIGNS = 100
_MONEY = ("earned_cents", "pending_cents", "reversed_cents", "shortfall_cents")
_REWARDED = ("conversions", "payments", *_MONEY)
#: What each row of the statement is about, as far as it is about one.
_KEY = ("day", "source", "utm", "campaign")
#: What each row of the statement has; the clicks of an origin are apart from those of a day.
_FIGURES = ("clicks", "summed_clicks", "signups", *_REWARDED)
#: Of a day, and of a source.
_SHOWN = ("clicks", "signups", "conversions", "earned_cents")

Figures = collections.Counter[str]


def collect(
    db: sql.Connection, models: Models, number: int, *, now: dt.datetime, deliveries: int
) -> Overview:
    """Return what the whole program brought and cost, and what waits. Two statements.

    :param number: how many days the series has; today is the last.
    :param deliveries: how many of those wait.
    :raises ReferralError: where ``number`` is out of bounds.
    """
    first = days.day_of(now) - dt.timedelta(days=checked_days(number) - 1)
    begin = days.begin(first, db.dialect.name)
    totals, period = Figures(), Figures()
    by: dict[str, dict[t.Any, Figures]] = {name: collections.defaultdict(Figures) for name in _KEY}
    for row in _figures(db, models, first=first, begin=begin):
        figures = Figures({name: getattr(row, name) for name in _FIGURES})
        totals.update(figures)
        if row.day is not None:
            period.update(figures)
        # Counted in their days already.
        figures["clicks"] += figures["summed_clicks"]
        for name, of in by.items():
            if (key := getattr(row, name)) is not None:
                of[key].update(figures)
    sources = {
        key: tuple(figures[name] for name in _SHOWN) for key, figures in by["source"].items()
    }
    (waits,) = _waiting(db, models, now=now)
    return Overview(
        number,
        _totals(totals),
        _totals(period),
        tuple(
            StatsDay(date, *(by["day"][date][name] for name in _SHOWN))
            for date in (first + dt.timedelta(days=each) for each in range(number))
        ),
        tuple(StatsSource(**source) for source in listed(sources, totals)),
        tuple(
            OverviewCampaign(name, *(figures[each] for each in _REWARDED))
            for name, figures in _largest(by["campaign"], "payments")
        ),
        tuple(
            OverviewTagged(name, figures["clicks"], figures["signups"])
            for name, figures in _largest(by["utm"], "clicks")
        ),
        OverviewWaiting(waits.held, waits.due, deliveries),
    )


def _totals(figures: Figures) -> OverviewTotals:
    return OverviewTotals(
        **{name: figures[name] for name in ("clicks", "signups", "conversions", *_MONEY)}
    )


def _largest(of: dict[t.Any, Figures], name: str) -> list[tuple[t.Any, Figures]]:
    found = sorted(of.items(), key=lambda item: (-item[1][name], item[0]))
    return found[:MOST_CAMPAIGNS]


@sql.statement
def _figures(models: Models, dialect: str) -> sa.Select[t.Any]:
    """Rows of clicks, sign-ups and rewards; the day is that of the series, NULL before it."""
    click = models.ReferralClick.__table__.c
    daily = models.ReferralDaily.__table__.c
    by_source = models.ReferralDailySource.__table__.c
    reward = models.ReferralReward.__table__.c
    first = sa.bindparam("first", type_=sa.Date())
    begin = sa.bindparam("begin", type_=days.type_of(dialect))
    none: sa.ColumnElement[int] = sa.literal_column("0")
    one: sa.ColumnElement[int] = sa.literal_column("1")
    count = sa.cast(sa.func.count(), sa.BigInteger())
    no_day, no_text = sa.cast(sa.null(), sa.Date()), sa.cast(sa.null(), sa.Text())

    def day(moment: sa.Column[t.Any]) -> sa.ColumnElement[t.Any]:
        in_series = days.column(moment, dialect) >= begin
        return sa.case((in_series, days.date_of(moment, dialect)))

    def total(figure: sa.ColumnElement[t.Any]) -> sa.ColumnElement[int]:
        # A sum of BIGINT is NUMERIC.
        return sa.cast(sa.func.sum(figure), sa.BigInteger())

    def part(**columns: t.Any) -> sa.Select[t.Any]:
        nothing = {"day": no_day, **dict.fromkeys(_KEY[1:], no_text)}
        every = {**nothing, **dict.fromkeys(_FIGURES, none), **columns}
        # By their places: a parameter in an expression would make it another one.
        places = [str(place) for place, name in enumerate(_KEY, 1) if name in columns]
        return sa.select(*(column.label(name) for name, column in every.items())).group_by(
            *map(sa.literal_column, places)
        )

    last_closed = sa.select(sa.func.max(daily.day)).scalar_subquery()
    clicked_at = days.column(click.clicked_at, dialect)
    is_open = sa.and_(
        clicked_at >= days.after(last_closed, dialect), clicked_at <= days.forever(dialect)
    )
    is_paid = reward.status.in_(sql.words(*PAID))
    is_waiting = reward.status.in_(sql.words(RewardStatus.pending, RewardStatus.held))
    is_referrers = reward.role == sql.word(RewardRole.referrer)
    has_qualified = sa.and_(
        is_referrers, reward.number == one, reward.status != sql.word(RewardStatus.void)
    )
    origin = {"source": click.source, "utm": click.utm_campaign}
    left = reward.cents - reward.reversed_cents
    parts = sa.union_all(
        part(day=sa.case((daily.day >= first, daily.day)), clicks=total(daily.clicks)),
        part(source=by_source.source, summed_clicks=total(by_source.clicks)).where(
            by_source.source != sql.word("")
        ),
        part(utm=by_source.campaign, summed_clicks=total(by_source.clicks)).where(
            by_source.campaign != sql.word("")
        ),
        part(day=day(click.clicked_at), **origin, clicks=count).where(is_open),
        part(day=day(click.bound_at), **origin, signups=count).where(click.bound_at.is_not(None)),
        part(
            day=day(reward.created_at),
            source=reward.source,
            campaign=reward.campaign,
            conversions=total(sa.case((has_qualified, one), else_=none)),
            payments=total(sa.case((is_referrers, one), else_=none)),
            earned_cents=total(sa.case((is_paid, reward.cents), else_=none)),
            pending_cents=total(sa.case((is_waiting, left), else_=none)),
            reversed_cents=total(sa.case((is_paid, reward.reversed_cents), else_=none)),
            shortfall_cents=total(reward.shortfall_cents),
        ),
    ).subquery()
    return sa.select(*parts.c)


@sql.statement
def _waiting(models: Models, dialect: str) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__.c

    def count(*where: sa.ColumnElement[bool]) -> sa.ScalarSelect[t.Any]:
        return sa.select(sa.func.count(reward.id)).where(*where).scalar_subquery()

    return sa.select(
        count(reward.status == sql.word(RewardStatus.held)).label("held"),
        count(
            reward.status == sql.word(RewardStatus.pending),
            reward.available_at <= sql.parameter("now", reward.available_at),
        ).label("due"),
    )
