"""Station 6, over all referrers: who brought the most customers."""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from .db import days as days_of
from .db import sql
from .db.models import Models
from .db.models import PAID
from .db.models import RewardRole
from .db.models import RewardStatus
from .referrals import checked_limit
from .stats import checked_days

DEFAULT_LIMIT = 10


class Row(t.NamedTuple):
    """A referrer's place."""

    user_id: t.Any
    signups: int
    conversions: int
    #: Credited, less what was taken back.
    earned_cents: int


def top(
    db: sql.Connection,
    models: Models,
    *,
    days: int | None = None,
    limit: int = DEFAULT_LIMIT,
    now: dt.datetime,
) -> list[Row]:
    """Return the referrers with the most conversions; of as many, who earned more goes first.

    Two statements. Only who has a conversion is listed; a void one is none.

    :param days: of how many days (UTC), today included; None: of all time.
    :raises ReferralError: for other numbers.
    """
    begin = None
    if days is not None:
        first = days_of.day_of(now) - dt.timedelta(days=checked_days(days) - 1)
        begin = days_of.begin(first, db.dialect.name)
    values: dict[str, t.Any] = {"limit": checked_limit(limit)}
    if begin is None:
        found = _of_all_time(db, models, **values)
        signups = _sign_ups(db, models, users=[row.user_id for row in found])
    else:
        found = _since(db, models, begin=begin, **values)
        signups = _sign_ups_since(db, models, begin=begin, users=[row.user_id for row in found])
    by_user = {row.user_id: row.signups for row in signups}
    return [
        Row(row.user_id, by_user.get(row.user_id, 0), row.conversions, row.earned_cents)
        for row in found
    ]


@sql.statement
def _of_all_time(models: Models, dialect: str) -> sa.Select[t.Any]:
    return _top(models)


@sql.statement
def _since(models: Models, dialect: str) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__.c
    begin = sa.bindparam("begin", type_=days_of.type_of(dialect))
    return _top(models, days_of.column(reward.created_at, dialect) >= begin)


def _top(models: Models, *where: sa.ColumnElement[bool]) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__.c
    none: sa.ColumnElement[int] = sa.literal_column("0")
    one: sa.ColumnElement[int] = sa.literal_column("1")
    has_qualified = sa.and_(reward.number == one, reward.status != sql.word(RewardStatus.void))
    is_paid = reward.status.in_(sql.words(*PAID))
    conversions = sa.func.sum(sa.case((has_qualified, one), else_=none))
    earned = sa.func.sum(sa.case((is_paid, reward.cents - reward.reversed_cents), else_=none))
    return (
        sa.select(
            reward.user_id,
            sa.cast(conversions, sa.BigInteger()).label("conversions"),
            sa.cast(earned, sa.BigInteger()).label("earned_cents"),
        )
        .where(reward.role == sql.word(RewardRole.referrer), *where)
        .group_by(reward.user_id)
        .having(conversions > none)
        # Of equals the one whose first customer came first, and always the same one.
        .order_by(conversions.desc(), earned.desc(), sa.func.min(reward.created_at), reward.user_id)
        .limit(sa.bindparam("limit", type_=sa.Integer()))
    )


@sql.statement
def _sign_ups(models: Models, dialect: str) -> sa.Select[t.Any]:
    return _counted(models)


@sql.statement
def _sign_ups_since(models: Models, dialect: str) -> sa.Select[t.Any]:
    click = models.ReferralClick.__table__.c
    begin = sa.bindparam("begin", type_=days_of.type_of(dialect))
    return _counted(models, days_of.column(click.bound_at, dialect) >= begin)


def _counted(models: Models, *where: sa.ColumnElement[bool]) -> sa.Select[t.Any]:
    click = models.ReferralClick.__table__.c
    users = sa.bindparam("users", type_=models.user_key.type, expanding=True)
    return (
        sa.select(click.referrer_user_id.label("user_id"), sa.func.count().label("signups"))
        .where(click.referrer_user_id.in_(users), click.bound_at.is_not(None), *where)
        .group_by(click.referrer_user_id)
    )
