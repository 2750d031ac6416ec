"""The mapped objects of what happened, for hosts."""

from __future__ import annotations

import typing as t

from ..db.models import attach
from ..results import ConversionResult
from ..results import ReversalResult
from . import convert
from . import reversals
from .transaction import Transaction

if t.TYPE_CHECKING:
    import uuid

    from ..db.models import ReferralConversionMixin
    from ..db.models import ReferralRewardMixin


def conversion_result(tx: Transaction, outcome: convert.Outcome) -> ConversionResult:
    """Return a conversion with its mapped objects.

    Those that were stored just now are not asked for again.
    """
    session, models = tx.session, tx.models
    rewards: tuple[ReferralRewardMixin, ...]
    conversion: ReferralConversionMixin | None
    if outcome.created:
        rewards = tuple(
            attach(session, models.ReferralReward, **row.values()) for row in outcome.rewards
        )
    else:
        loaded = (session.get(models.ReferralReward, row.id) for row in outcome.rewards)
        rewards = tuple(reward for reward in loaded if reward is not None)
    if outcome.stored is not None:
        conversion = attach(session, models.ReferralConversion, **outcome.stored)
    else:
        conversion = _conversion(tx, outcome.conversion_id)
    return ConversionResult(
        outcome.reason, conversion, rewards, outcome.created, outcome.bonus_cents
    )


def reversal_result(tx: Transaction, outcome: reversals.Outcome) -> ReversalResult:
    """Return a reversal with its mapped conversion."""
    conversion = _conversion(tx, outcome.conversion_id)
    return ReversalResult(outcome.reason, conversion, outcome.cents, outcome.shortfall_cents)


def _conversion(tx: Transaction, id: uuid.UUID | None) -> ReferralConversionMixin | None:
    return None if id is None else tx.session.get(tx.models.ReferralConversion, id)
