"""Pending and held rewards: crediting what is due, a reviewer's yes and no."""

from __future__ import annotations

import contextlib
import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa

from .. import clock
from ..db import sql
from ..db.models import Models
from ..db.models import RewardStatus
from ..errors import ReferralError
from ..errors import WalletRefused
from ..events import ConversionReleased
from . import claims
from . import facts
from . import reversals
from . import rewards
from .facts import Fact
from .facts import Kind
from .rewards import Row
from .transaction import Transaction

BATCH = 100
#: When a reward whose wallet refused it is due again.
AGAIN = dt.timedelta(days=1)

_CURES = {
    RewardStatus.credited: "; use reverse to take it back",
    RewardStatus.pending: "; it is credited by mature when it is due, or given up by void",
}


def count_due(tx: Transaction, now: dt.datetime) -> int:
    """Return how many rewards are due. One statement."""
    return int(_count_due(tx.db, tx.models, now=now).scalar())


def mature(
    tx: Transaction,
    now: dt.datetime,
    *,
    batch: int = BATCH,
    refused: list[WalletRefused] | None = None,
) -> int | None:
    """Credit up to ``batch`` rewards that are due; the caller commits and calls again.

    Two runs at once credit nothing twice: the wallets are locked, then what is still pending is
    read again.

    :param now: aware; what was available before is due.
    :param refused: takes what wallets said that refused a credit, which is due again in a day;
        nobody else has to wait for it. Without it the first refusal is raised.
    :return: how many were credited, or None where nothing was due.
    """
    due = [Row.of(row) for row in _due(tx.db, tx.models, now=now, batch=batch)]
    if not due:
        return None
    tx.refuse_autocommit()
    # Somebody else may have credited, voided or removed them while this waited for the wallets.
    pending = [row for row in rewards.lock(tx, due) if row.status is RewardStatus.pending]
    credited = 0
    for row in pending:
        try:
            with tx.savepoint() if refused is not None else contextlib.nullcontext():
                _credit(tx, row, now)
                credited += 1
        except WalletRefused as error:
            if refused is None:
                raise
            refused.append(error)
            rewards.save(tx, row, available_at=now + AGAIN)
    return credited


def release(tx: Transaction, reward_id: uuid.UUID, now: dt.datetime) -> Row:
    """Let a held reward go: credited at once, or pending until its hold is over.

    :raises ReferralError: where there is none, or it is not held.
    """
    row = _decide(tx, reward_id, Kind.release, (RewardStatus.held,), "released by a reviewer", now)
    row = rewards.save(tx, row, status=RewardStatus.pending)
    if row.available_at is None or row.available_at <= now:
        row = _credit(tx, row, now)
    rewards.announce(tx, ConversionReleased, row, status=row.status)
    return row


def void(tx: Transaction, reward_id: uuid.UUID, now: dt.datetime) -> reversals.Outcome:
    """Give a held or pending reward up, for good.

    :return: the outcome for this reward, whichever role it has.
    :raises ReferralError: where there is none, or it was credited.
    """
    statuses = (RewardStatus.held, RewardStatus.pending)
    row = _decide(tx, reward_id, Kind.void, statuses, "voided by a reviewer", now)
    return reversals.reconcile(tx, [row])


def _credit(tx: Transaction, row: Row, now: dt.datetime) -> Row:
    with tx.all_or_nothing():
        # Whatever moment is asked about, this is when it happens.
        credited_at = min(now, clock.now())
        row = rewards.save(tx, row, status=RewardStatus.credited, credited_at=credited_at)
        rewards.credit(tx, [row])
    return row


def _decide(
    tx: Transaction,
    reward_id: uuid.UUID,
    kind: Kind,
    statuses: tuple[RewardStatus, ...],
    reason: str,
    now: dt.datetime,
) -> Row:
    """Lock a reward that a reviewer decides on, and record the decision."""
    row = _get(rewards.by_ids(tx, [reward_id]), reward_id)
    tx.refuse_autocommit()
    # The payment before the wallet, as refunds do; the other way round they would deadlock.
    claims.lock_payment(tx, row.provider, row.payment_id)
    row = _get(rewards.lock(tx, [row]), reward_id)
    if row.status not in statuses:
        cure = _CURES.get(row.status, "; there is nothing left to decide")
        raise ReferralError(
            f"Reward {reward_id} is {row.status}, not {' or '.join(statuses)}{cure}."
        )
    facts.record(
        tx,
        Fact(
            kind=kind,
            provider=row.provider,
            payment_id=row.payment_id,
            membership_id=row.membership_id,
            id=str(reward_id),
            reason=reason,
            occurred_at=now,
        ),
    )
    return row


def _get(rows: t.Sequence[Row], reward_id: uuid.UUID) -> Row:
    if not rows:
        raise ReferralError(f"There is no reward {reward_id}.")
    return rows[0]


def _is_due(models: Models) -> sa.ColumnElement[bool]:
    reward = models.ReferralReward.__table__.c
    return sa.and_(
        reward.status == sql.word(RewardStatus.pending),
        reward.available_at <= sql.parameter("now", reward.available_at),
    )


@sql.statement
def _count_due(models: Models, dialect: str) -> sa.Select[t.Any]:
    return (
        sa.select(sa.func.count())
        .select_from(models.ReferralReward.__table__)
        .where(_is_due(models))
    )


@sql.statement
def _due(models: Models, dialect: str) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__
    return (
        sa.select(reward)
        .where(_is_due(models))
        .order_by(reward.c.available_at)
        .limit(sa.bindparam("batch", type_=sa.Integer()))
    )
