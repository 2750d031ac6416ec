"""The mapped objects of what happened, for hosts."""

from __future__ import annotations

import typing as t

from sqlalchemy.orm.util import identity_key

from ..db.models import attach
from ..db.models import M
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
        conversion = _entity(tx, models.ReferralConversion, outcome.conversion)
    rewards = tuple(_entity(tx, models.ReferralReward, row.values()) for row in outcome.rewards)
    return ConversionResult(
        outcome.reason, conversion, rewards, outcome.created, outcome.bonus_cents
    )


def reversal_result(tx: Transaction, outcome: reversals.Outcome) -> ReversalResult:
    """Return a reversal with its mapped conversion."""
    id = outcome.conversion_id
    conversion = None if id is None else tx.session.get(tx.models.ReferralConversion, id)
    return ReversalResult(outcome.reason, conversion, outcome.cents, outcome.shortfall_cents)


def _entity(tx: Transaction, model: type[M], values: dict[str, t.Any]) -> M:
    known: M | None = tx.session.identity_map.get(identity_key(model, values["id"]))
    return attach(tx.session, model, **values) if known is None else known
