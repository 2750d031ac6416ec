"""Stations 1 to 4, for users whose code an operator has switched off.

Their links lead on without being counted, sign-ups are not bound, and purchases of people whom they
referred earn nothing. What was earned stays, and their codes stay theirs.
"""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from . import codes
from .db import sql
from .db.models import Models
from .texts import checked_reason


def disable(
    db: sql.Connection, models: Models, user_id: t.Any, reason: str, now: dt.datetime
) -> bool:
    """Switch a user's code off; return whether it was on. Of one that is off the reason changes.

    One statement; two where it was off.

    :param reason: why, for operators; 1 to 500 characters.
    :raises ReferralError: where ``reason`` is empty or too long.
    :raises UnknownUser: where there is no such user.
    """
    reason = checked_reason(reason)
    if _disable(db, models, user=user_id, reason=reason, now=now).first() is not None:
        return True
    if _explain(db, models, user=user_id, reason=reason).first() is None:
        codes.require_user(db, models, user_id)
    return False


def enable(db: sql.Connection, models: Models, user_id: t.Any) -> bool:
    """Switch a user's code on again; return whether it was off.

    One statement; two where it was on.

    :raises UnknownUser: where there is no such user.
    """
    if _enable(db, models, user=user_id).first() is not None:
        return True
    codes.require_user(db, models, user_id)
    return False


def is_disabled(models: Models, user_id: sa.ColumnElement[t.Any]) -> sa.ColumnElement[bool]:
    """Whether a user's code is off."""
    disabled = models.ReferralDisabled.__table__.c
    return sa.exists().where(disabled.user_id == user_id)


@sql.statement
def _disable(models: Models, dialect: str) -> sa.Executable:
    disabled, key = models.ReferralDisabled.__table__, models.user_key
    chosen = sa.select(
        key,
        sa.cast(sql.parameter("reason", disabled.c.reason), sa.Text()),
        sql.parameter("now", disabled.c.since),
    ).where(key == sql.parameter("user", key))
    insert: sa.Executable = (
        sql.insert(dialect, disabled)
        .from_select(["user_id", "reason", "since"], chosen)
        .on_conflict_do_nothing()
        .returning(disabled.c.user_id)
    )
    return insert


@sql.statement
def _explain(models: Models, dialect: str) -> sa.Executable:
    disabled = models.ReferralDisabled.__table__
    return (
        sa.update(disabled)
        .where(disabled.c.user_id == sql.parameter("user", disabled.c.user_id))
        .values(reason=sql.parameter("reason", disabled.c.reason))
        .returning(disabled.c.user_id)
    )


@sql.statement
def _enable(models: Models, dialect: str) -> sa.Executable:
    disabled = models.ReferralDisabled.__table__
    return (
        sa.delete(disabled)
        .where(disabled.c.user_id == sql.parameter("user", disabled.c.user_id))
        .returning(disabled.c.user_id)
    )
