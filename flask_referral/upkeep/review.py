"""What operators decide on rewards and deliveries; each act is kept with who, why and what."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t
import uuid

from ..conversions import maturity
from ..conversions import reversals
from ..conversions.reversals import Outcome
from ..conversions.rewards import Row
from ..conversions.transaction import Transaction
from ..db.models import RewardStatus
from ..payments import retries
from .acts import Act
from .acts import Operator
from .acts import record_retry
from .acts import record_reward

if t.TYPE_CHECKING:
    from ..host.state import State


def release(tx: Transaction, by: Operator, reward_id: uuid.UUID, now: dt.datetime) -> Row:
    """Let a held reward go: credited at once, or pending until its hold is over.

    :raises ReferralError: where there is none, or it is not held.
    """
    row = maturity.release(tx, reward_id, now)
    held = dataclasses.replace(row, status=RewardStatus.held)
    record_reward(tx.db, tx.models, by, Act.release, now=now, before=held, after=row)
    return row


def void(tx: Transaction, by: Operator, reward_id: uuid.UUID, now: dt.datetime) -> Outcome:
    """Give a held or pending reward up, for good.

    :raises ReferralError: where there is none, or it was credited.
    """
    return _kept(tx, by, Act.void, maturity.void(tx, reward_id, now), now)


def take_back(
    tx: Transaction,
    by: Operator,
    membership_id: str,
    *,
    payment_id: str | None,
    provider: str,
    refund_id: str | None,
    amount_cents: int | None,
    now: dt.datetime,
) -> Outcome:
    """Take the rewards of a payment back, as :meth:`flask_referral.Referral.reverse` does.

    :raises ReferralError: as that.
    """
    outcome = reversals.refund(
        tx,
        membership_id,
        reason=by.reason,
        payment_id=payment_id,
        provider=provider,
        refund_id=refund_id,
        amount_cents=amount_cents,
        now=now,
    )
    return _kept(tx, by, Act.reverse, outcome, now)


def retry(state: State, by: Operator, delivery: t.Any, now: dt.datetime) -> str:
    """Handle a delivery that waits once more, in ``db.session``, and return the outcome.

    :param delivery: its row in ``referral_events``.
    :raises Exception: of a loader, a policy or a wallet; the caller rolls back.
    """
    outcome = retries.once_more(state, delivery)
    db = state.models.connection(state.db.session())
    record_retry(db, state.models, by, delivery, outcome, now=now)
    return outcome


def _kept(tx: Transaction, by: Operator, act: Act, outcome: Outcome, now: dt.datetime) -> Outcome:
    for before, after in zip(outcome.before, outcome.rows, strict=False):
        record_reward(tx.db, tx.models, by, act, now=now, before=before, after=after)
    return outcome
