"""What a user's wallet says: each movement, and which invitation it came from."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t

import sqlalchemy as sa

from .extensions import referral
from .models import db
from .models import Payment
from .models import User
from .models import WalletTransaction

#: At most so many movements are shown.
SHOWN = 50


@dataclasses.dataclass(frozen=True)
class Line:
    """A movement of money, or one that is still to come.

    :param at: when (UTC); of a reward that waits, when it is due, or None while it is reviewed.
    :param what: a sentence.
    :param why: one more, or None.
    :param balance_cents: what the wallet had after it, or None.
    """

    at: dt.datetime | None
    what: str
    why: str | None
    cents: int
    balance_cents: int | None = None


def balance_of(user: User) -> int:
    """Return what is in a user's wallet, in cents."""
    newest = _newest_first(user).limit(1)
    return db.session.scalar(newest.with_only_columns(WalletTransaction.balance_after_cents)) or 0


def lines_of(user: User) -> list[Line]:
    """Return the latest movements of a user's wallet, newest first."""
    rows = db.session.scalars(_newest_first(user).limit(SHOWN)).all()
    own = {str(each.id): each for each in db.session.scalars(_rewards(user))}
    names = _names(own.values())
    payments = _payments(own.values())
    lines = []
    for row in rows:
        earned = own.get(row.reference_id or "")
        what, why = row.description or row.type, None
        if earned is not None:
            if row.type == "adjustment":
                why = _why(row, payments.get(earned.payment_id))
                if earned.role == "referrer":
                    what = f"{what}: {_about(earned, names)}"
            else:
                what = _about(earned, names)
        lines.append(Line(row.created_at, what, why, row.amount_cents, row.balance_after_cents))
    return lines


def coming_to(user: User) -> list[Line]:
    """Return what a user has earned and does not have yet, the next due first."""
    reward = referral.models.ReferralReward
    waiting = _rewards(user).where(reward.status.in_(("pending", "held")))
    is_due = sa.case((reward.status == "pending", reward.available_at))
    rows = db.session.scalars(waiting.order_by(is_due.nulls_last(), reward.created_at)).all()
    names = _names(rows)
    lines = []
    for row in rows:
        is_held = row.status == "held"
        why = "We are looking at it first: many people signed up at once." if is_held else None
        lines.append(
            Line(
                None if is_held else row.available_at,
                _about(row, names),
                why,
                row.cents - row.reversed_cents,
            )
        )
    return lines


def _newest_first(user: User) -> sa.Select[tuple[WalletTransaction]]:
    return (
        sa.select(WalletTransaction)
        .where(WalletTransaction.user_id == user.id)
        .order_by(WalletTransaction.created_at.desc(), WalletTransaction.id.desc())
    )


def _rewards(user: User) -> sa.Select[t.Any]:
    reward = referral.models.ReferralReward
    return sa.select(reward).where(reward.user_id == user.id)


def _names(rewards: t.Iterable[t.Any]) -> dict[int, str]:
    ids = {each.referred_user_id for each in rewards}
    found = db.session.execute(sa.select(User.id, User.name).where(User.id.in_(ids)))
    return {row.id: row.name for row in found}


def _payments(rewards: t.Iterable[t.Any]) -> dict[str, Payment]:
    ids = {each.payment_id for each in rewards}
    found = db.session.scalars(sa.select(Payment).where(Payment.payment_id.in_(ids)))
    return {each.payment_id: each for each in found}


def _about(reward: t.Any, names: dict[int, str]) -> str:
    if reward.role == "referred":
        return "Your welcome bonus"
    name = names.get(reward.referred_user_id, "Somebody who has left")
    return f"{name} subscribed" if reward.number == 1 else f"{name} stayed, payment {reward.number}"


def _why(row: WalletTransaction, payment: Payment | None) -> str | None:
    if payment is None:
        return None
    if row.amount_cents > 0:
        return "The bank decided for Larkmail."
    refunded = "The payment was refunded." if not payment.left_cents else None
    if payment.refunded_cents and refunded is None:
        refunded = "A part of the payment was refunded."
    if payment.dispute is None:
        return refunded
    disputed = "The buyer's bank asked the payment back."
    return f"{refunded} {disputed}" if refunded else disputed
