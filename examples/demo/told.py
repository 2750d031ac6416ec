"""What an event of the payment provider's changed, in plain words."""

from __future__ import annotations

import typing as t
import uuid

import sqlalchemy as sa

from .extensions import referral
from .models import db
from .models import Payment
from .models import User
from .words import day
from .words import money


class Reward(t.NamedTuple):
    """A bonus, as it stood."""

    whose: str
    cents: int
    status: str
    reversed_cents: int
    available_at: t.Any


Rewards = dict[uuid.UUID, Reward]


def rewards_of(payment: Payment) -> Rewards:
    """Return what a payment has earned so far."""
    reward = referral.models.ReferralReward
    found = db.session.execute(
        sa.select(
            reward.id,
            reward.role,
            User.name,
            reward.cents,
            reward.status,
            reward.reversed_cents,
            reward.available_at,
        )
        .join(User, User.id == reward.user_id)
        .where(reward.provider == "whop", reward.payment_id == payment.payment_id)
        .order_by(reward.role.desc())
    )
    return {
        row.id: Reward(
            f"{row.name}'s {'bonus' if row.role == 'referrer' else 'welcome bonus'}",
            row.cents,
            row.status,
            row.reversed_cents,
            row.available_at,
        )
        for row in found
    }


def sentences(before: Rewards, payment: Payment, outcome: str) -> list[str]:
    """Say what became of bonuses since ``before``, or why nothing did."""
    # What the webhook committed is not in this session's transaction.
    db.session.rollback()
    found = [
        sentence
        for id, now in rewards_of(payment).items()
        if (sentence := _change(before.get(id), now)) is not None
    ]
    return found or [_UNCHANGED.get(outcome, "No bonus changed.")]


_UNCHANGED = {
    "duplicate": "It was known already, so nothing changed.",
    "already_converted": "Nobody gets a bonus for it: the invitation has earned all that it can.",
    "already_reversed": "It was known already, so nothing changed.",
    "no_bonus": "It is too small for a bonus.",
    "not_referred": "Nobody invited this buyer, so nobody gets a bonus.",
}


def _change(before: Reward | None, now: Reward) -> str | None:
    amount = f"{now.whose} of {money(now.cents)}"
    if before is None:
        if now.status == "pending":
            return f"{amount} is noted, and credited on {day(now.available_at)}."
        if now.status == "held":
            return f"{amount} is noted, and somebody looks at it first."
        return f"{amount} was credited."
    taken = now.reversed_cents - before.reversed_cents
    if not taken:
        return None
    part = amount if abs(taken) == now.cents else f"{money(abs(taken))} of {now.whose}"
    if taken < 0:
        return f"{part} was given back."
    if before.status in ("pending", "held"):
        return f"{part} was given up before it was credited."
    return f"{part} was taken back."
