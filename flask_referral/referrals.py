"""Station 6, person by person: whom a referrer brought, and what each of them earned.

A referral is a click that somebody signed up by (``bound_at``). It stays in the list when that
account is gone, and who it was is not read here: row level security hides it from referrers.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import typing as t
import uuid

import sqlalchemy as sa

from .clock import as_utc
from .db import sql
from .db.models import Models
from .db.models import PAID
from .db.models import RewardRole
from .db.models import RewardStatus
from .errors import is_whole_number
from .errors import ReferralError
from .results import ReferralEntry
from .results import ReferralNote
from .results import ReferralState
from .words import gettext_noop

DEFAULT_LIMIT = 20
MOST = 100

#: Microseconds since 1970 (UTC), of years that dates know, and the click's id.
CURSOR = re.compile("([0-9]{1,17})-([0-9a-f]{32})")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Page(t.NamedTuple):
    """Some referrals, newest first."""

    entries: list[ReferralEntry]
    #: The click of each.
    click_ids: list[uuid.UUID]
    #: What the next page begins after, or None.
    next: str | None


def checked_limit(value: t.Any) -> int:
    """Return how many entries are asked for, or refuse it.

    :raises ReferralError: where it is no whole number from 1 to :data:`MOST`.
    """
    if not is_whole_number(value, 1, MOST):
        raise ReferralError(
            gettext_noop("limit must be a whole number from 1 to %(most)s."), most=MOST
        )
    return value


def checked_cursor(value: t.Any) -> tuple[dt.datetime, uuid.UUID] | None:
    """Return where a page begins, or refuse it.

    :raises ReferralError: where it is no ``cursor`` of an entry.
    """
    if value is None:
        return None
    found = CURSOR.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ReferralError(gettext_noop("before must be the cursor of an entry, as it was given."))
    return _EPOCH + dt.timedelta(microseconds=int(found[1])), uuid.UUID(found[2])


def page(
    db: sql.Connection,
    models: Models,
    user_id: t.Any,
    *,
    limit: int = DEFAULT_LIMIT,
    before: str | None = None,
    reading: contextlib.AbstractContextManager[None] | None = None,
) -> Page:
    """Return a referrer's referrals, newest first; nobody has a name. One statement.

    :param limit: 1 to :data:`MOST`.
    :param before: the ``cursor`` of the last entry that was seen.
    :param reading: what the statement is made in, as row level security.
    :raises ReferralError: for another limit or another text.
    """
    limit, begin = checked_limit(limit), checked_cursor(before)
    # One more tells whether there is a next page.
    values = {"user": user_id, "limit": limit + 1}
    with reading or contextlib.nullcontext():
        if begin is None:
            rows = _newest(db, models, **values)
        else:
            rows = _older(db, models, at=begin[0], click=begin[1], **values)
    found = [(entry(row), row.id) for row in rows[:limit]]
    entries = [entry for entry, _ in found]
    is_last = len(rows) <= limit
    return Page(entries, [id for _, id in found], None if is_last else entries[-1].cursor)


def users_of(
    db: sql.Connection, models: Models, click_ids: t.Sequence[uuid.UUID]
) -> dict[uuid.UUID, t.Any]:
    """Return who signed up by clicks, where that account still is. One statement."""
    return {row.id: row.referred_user_id for row in _users(db, models, clicks=[*click_ids])}


def entry(row: t.Any) -> ReferralEntry:
    """Return a row of :func:`summed`; nobody has a name."""
    at = as_utc(row.bound_at)
    state, reason = _state(row)
    is_waiting = state is ReferralState.pending and row.available_at is not None
    return ReferralEntry(
        cursor=f"{(at - _EPOCH) // dt.timedelta(microseconds=1)}-{row.id.hex}",
        signed_up_at=at,
        state=state,
        name=None,
        converted_at=row.converted_at and as_utc(row.converted_at),
        available_at=as_utc(row.available_at) if is_waiting else None,
        earned_cents=row.earned_cents,
        pending_cents=row.pending_cents,
        reversed_cents=row.reversed_cents,
        payments=row.payments,
        reason=reason,
    )


def _state(row: t.Any) -> tuple[ReferralState, ReferralNote | None]:
    """Return how far a referral is: what is left of its rewards decides, the best of them first."""
    if row.earned_cents > row.reversed_cents:
        return ReferralState.earned, ReferralNote.partly_refunded if row.reversed_cents else None
    if row.pending:
        return ReferralState.pending, None
    if row.held:
        return ReferralState.held, ReferralNote.review
    if row.earned_cents:
        return ReferralState.reversed, ReferralNote.refunded
    if row.void:
        return ReferralState.void, ReferralNote.cancelled
    return ReferralState.signed_up, None


@sql.statement
def _newest(models: Models, dialect: str) -> sa.Select[t.Any]:
    return _page(models)


@sql.statement
def _older(models: Models, dialect: str) -> sa.Select[t.Any]:
    click = models.ReferralClick.__table__.c
    last = (sql.parameter("at", click.bound_at), sql.parameter("click", click.id))
    # The time by itself too: of pairs PostgreSQL cannot tell how few rows lie between.
    return _page(
        models, click.bound_at <= last[0], sa.tuple_(click.bound_at, click.id) < sa.tuple_(*last)
    )


def _page(models: Models, *where: sa.ColumnElement[bool]) -> sa.Select[t.Any]:
    click = models.ReferralClick.__table__.c
    user = sa.bindparam("user", type_=models.user_key.type)
    shown = (
        sa.select(click.id, click.bound_at)
        .where(click.referrer_user_id == user, click.bound_at.is_not(None), *where)
        .order_by(click.bound_at.desc(), click.id.desc())
        .limit(sa.bindparam("limit", type_=sa.Integer()))
        .subquery("shown")
    )
    return summed(models, shown, user)


def summed(
    models: Models,
    shown: sa.Subquery,
    user: sa.ColumnElement[t.Any],
    *columns: sa.ColumnElement[t.Any],
) -> sa.Select[t.Any]:
    """Return referrals with what each of them earned its referrer, newest first.

    :param shown: clicks, with ``id`` and ``bound_at``.
    :param user: their referrer, a parameter or a column of ``shown``.
    :param columns: further columns of ``shown``.
    """
    reward = models.ReferralReward.__table__.c
    is_paid = reward.status.in_(sql.words(*PAID))
    is_void = reward.status == sql.word(RewardStatus.void)
    is_pending = reward.status == sql.word(RewardStatus.pending)
    is_held = reward.status == sql.word(RewardStatus.held)
    none: sa.ColumnElement[int] = sa.literal_column("0")
    one: sa.ColumnElement[int] = sa.literal_column("1")

    def total(amount: t.Any, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        # An integer, because PostgreSQL's sum of BIGINT is NUMERIC.
        summed = sa.func.coalesce(sa.func.sum(sa.case((condition, amount), else_=none)), none)
        return sa.cast(summed, sa.BigInteger())

    counted = sa.and_(reward.id.is_not(None), sa.not_(is_void))
    rewards = sa.and_(
        reward.click_id == shown.c.id,
        reward.user_id == user,
        reward.role == sql.word(RewardRole.referrer),
    )
    first_paid = sa.case((sa.not_(is_void), reward.created_at))
    due = sa.case((is_pending, reward.available_at))
    return (
        sa.select(
            shown.c.id,
            shown.c.bound_at,
            *columns,
            total(one, counted).label("payments"),
            total(one, is_pending).label("pending"),
            total(one, is_held).label("held"),
            total(one, is_void).label("void"),
            total(reward.cents, is_paid).label("earned_cents"),
            total(reward.reversed_cents, is_paid).label("reversed_cents"),
            total(reward.cents - reward.reversed_cents, sa.or_(is_pending, is_held)).label(
                "pending_cents"
            ),
            sa.func.min(first_paid, type_=reward.created_at.type).label("converted_at"),
            sa.func.min(due, type_=reward.available_at.type).label("available_at"),
        )
        .select_from(shown)
        .outerjoin(models.ReferralReward.__table__, rewards)
        .group_by(shown.c.id, shown.c.bound_at, *columns)
        .order_by(shown.c.bound_at.desc(), shown.c.id.desc())
    )


@sql.statement
def _users(models: Models, dialect: str) -> sa.Select[t.Any]:
    click = models.ReferralClick.__table__.c
    ids = sa.bindparam("clicks", type_=click.id.type, expanding=True)
    return sa.select(click.id, click.referred_user_id).where(
        click.id.in_(ids), click.referred_user_id.is_not(None)
    )
