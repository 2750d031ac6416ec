"""The mapped objects of what happened, for hosts."""

from __future__ import annotations

from ..db.entities import attach
from ..results import ConversionResult
from ..results import ReversalResult
from . import convert
from . import reversals
from .transaction import Transaction


def conversion_result(tx: Transaction, outcome: convert.Outcome) -> ConversionResult:
    """Return a conversion with its mapped objects; nothing is read again for them."""
    models = tx.models
    conversion = None
    if outcome.conversion is not None:
        conversion = attach(tx.session, models.ReferralConversion, **outcome.conversion)
    rewards = tuple(
        attach(tx.session, models.ReferralReward, **row.values()) for row in outcome.rewards
    )
    return ConversionResult(
        outcome.reason, conversion, rewards, outcome.created, outcome.bonus_cents
    )


def reversal_result(tx: Transaction, outcome: reversals.Outcome) -> ReversalResult:
    """Return a reversal with its mapped conversion."""
    id = outcome.conversion_id
    conversion = None if id is None else tx.session.get(tx.models.ReferralConversion, id)
    return ReversalResult(outcome.reason, conversion, outcome.cents, outcome.shortfall_cents)
