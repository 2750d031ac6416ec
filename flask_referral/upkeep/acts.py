"""What operators did, here and on the command line: who, when, why, before and after.

Kept in ``referral_events`` (kind ``operator``). An act concerns a user, and goes with that user's
row, as rewards do.
"""

from __future__ import annotations

import datetime as dt
import enum
import typing as t
import uuid

import sqlalchemy as sa

from .. import disabled
from ..clock import as_utc
from ..conversions.payment import HOST
from ..conversions.rewards import Row
from ..db import qualified
from ..db.models import Models
from ..db.plain import plain
from ..errors import ReferralError
from ..texts import checked_reason
from ..texts import cleaned_text

#: Of rows in ``referral_events``.
KIND = "operator"
#: What of a reward an act may change.
_CHANGING = ("status", "reversed_cents", "shortfall_cents", "available_at")


class Act(enum.StrEnum):
    """What an operator did."""

    #: Recorded a payment by hand.
    convert = enum.auto()
    #: Took a reward back, in whole or in part.
    reverse = enum.auto()
    #: Let a held reward go.
    release = enum.auto()
    #: Gave a reward up before it was credited.
    void = enum.auto()
    #: Handled a delivery once more.
    retry = enum.auto()
    #: Moved a user to another referrer.
    reattribute = enum.auto()
    set_code = enum.auto()
    rotate_code = enum.auto()
    disable = enum.auto()
    enable = enum.auto()
    erase = enum.auto()


class Operator(t.NamedTuple):
    """Who acts, and why; see :func:`operator`."""

    name: str
    reason: str


def operator(name: str, reason: str) -> Operator:
    """Return who acts and why, for the record.

    :param name: as the host calls its operators; 1 to 255 characters.
    :param reason: 1 to 500 characters.
    :raises ReferralError: where one of them is empty or too long.
    """
    name = cleaned_text(name).strip()
    if not 0 < len(name) <= 255:
        raise ReferralError("Who does this is not known: give a name of 1 to 255 characters.")
    return Operator(name, checked_reason(reason))


def record(
    db: sa.Connection,
    models: Models,
    by: Operator,
    act: Act,
    *,
    now: dt.datetime,
    user_id: t.Any = None,
    reference: str | None = None,
    provider: str = HOST,
    payment_id: str | None = None,
    membership_id: str | None = None,
    before: t.Mapping[str, t.Any] | None = None,
    after: t.Mapping[str, t.Any] | None = None,
) -> None:
    """Keep an act, in the transaction of what it did. One statement.

    :param user_id: whom it concerns: the beneficiary of a reward, the owner of a code.
    :param reference: what was acted on: the id of a reward or a delivery, a code.
    :param before: what was changed, as JSON.
    :param after: what it is now.
    """
    event = models.ReferralEvent.__table__
    values = {
        "provider": provider,
        "kind": KIND,
        "event_id": str(uuid.uuid4()),
        "type": act,
        "payment_id": payment_id,
        "membership_id": membership_id,
        "reference": reference,
        "outcome": by.reason,
        "occurred_at": now,
        "received_at": now,
        "user_id": user_id,
        "details": {"by": by.name, "before": dict(before or {}), "after": dict(after or {})},
    }
    qualified.execute(db, sa.insert(event).values(values))


def record_reward(
    db: sa.Connection,
    models: Models,
    by: Operator,
    act: Act,
    *,
    now: dt.datetime,
    before: Row | None,
    after: Row,
) -> None:
    """Keep what was done to a reward. One statement.

    :param before: None where the act made it.
    """
    record(
        db,
        models,
        by,
        act,
        now=now,
        user_id=after.user_id,
        reference=str(after.id),
        provider=after.provider,
        payment_id=after.payment_id,
        membership_id=after.membership_id,
        before=None if before is None else _told(before),
        after=_told(after),
    )


def switch(
    db: sa.Connection, models: Models, by: Operator, act: Act, user_id: t.Any, *, now: dt.datetime
) -> bool:
    """Switch a user's code off or on, and keep that. Return whether it was not so before.

    :param act: :attr:`Act.disable` or :attr:`Act.enable`.
    :raises UnknownUser: where there is no such user.
    """
    if act is Act.disable:
        changed = disabled.disable(db, models, user_id, by.reason, now)
    else:
        changed = disabled.enable(db, models, user_id)
    if changed or act is Act.disable:
        is_off = act is Act.disable
        before, after = {"disabled": is_off is not changed}, {"disabled": is_off}
        record(db, models, by, act, now=now, user_id=user_id, before=before, after=after)
    return changed


def record_retry(
    db: sa.Connection,
    models: Models,
    by: Operator,
    delivery: t.Any,
    outcome: str,
    *,
    now: dt.datetime,
) -> None:
    """Keep that a delivery was handled once more. One statement.

    :param delivery: its row in ``referral_events``, as it was before.
    """
    record(
        db,
        models,
        by,
        Act.retry,
        now=now,
        reference=delivery.event_id,
        provider=delivery.provider,
        payment_id=delivery.payment_id,
        membership_id=delivery.membership_id,
        before={"outcome": delivery.outcome},
        after={"outcome": outcome},
    )


class Entry(t.NamedTuple):
    """An act that was kept."""

    act: str
    by: str
    reason: str
    #: UTC
    at: dt.datetime
    #: As in :func:`record`.
    user_id: t.Any
    reference: str | None
    before: dict[str, t.Any]
    after: dict[str, t.Any]

    @classmethod
    def of(cls, row: t.Any) -> Entry:
        """Return an act of a row of ``referral_events``."""
        details = row.details
        return cls(
            act=row.type,
            by=details["by"],
            reason=row.outcome,
            at=as_utc(row.received_at),
            user_id=row.user_id,
            reference=row.reference,
            before=details["before"],
            after=details["after"],
        )


def of_reward(db: sa.Connection, models: Models, reward: Row) -> list[Entry]:
    """Return what operators did to a reward, the last first. One statement."""
    event = models.ReferralEvent.__table__
    query = sa.select(event).where(
        event.c.payment_id == reward.payment_id,
        event.c.provider == reward.provider,
        event.c.kind == KIND,
        event.c.reference == str(reward.id),
    )
    newest = query.order_by(event.c.received_at.desc(), event.c.event_id)
    return [Entry.of(row) for row in qualified.execute(db, newest)]


def forget_user(connection: sa.Connection, models: Models, user_id: t.Any) -> None:
    """Remove what operators wrote about a user; what they did with money stays."""
    event, off = models.ReferralEvent.__table__, models.ReferralDisabled.__table__
    is_about = sa.and_(event.c.user_id == user_id, event.c.kind == KIND)
    is_money = event.c.payment_id.is_not(None)
    for statement in (
        sa.delete(event).where(is_about, ~is_money),
        sa.update(event).where(is_about, is_money).values(outcome=""),
        sa.update(off).where(off.c.user_id == user_id).values(reason=""),
    ):
        qualified.execute(connection, statement)


def _told(reward: Row) -> dict[str, t.Any]:
    return {name: plain(getattr(reward, name)) for name in _CHANGING}
