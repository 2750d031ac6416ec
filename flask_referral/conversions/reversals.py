"""Taking rewards back, and giving them back again."""

from __future__ import annotations

import dataclasses
import typing as t
import uuid

import sqlalchemy as sa

from .. import signals
from ..db import sql
from ..db.models import Models
from ..db.models import RewardRole
from ..db.models import RewardStatus
from ..results import ReversalReason
from . import facts
from . import rewards
from .facts import Fact
from .facts import Facts
from .payment import checked_id
from .rewards import Row
from .transaction import Transaction


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What became of one reward.

    :param cents: what was taken back, or given up before maturity; negative: given back.
    """

    row: Row
    reason: ReversalReason
    cents: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What was taken back of a payment's rewards.

    :param cents: of the referrer's, as :class:`flask_referral.ReversalResult` tells.
    """

    reason: ReversalReason
    conversion_id: uuid.UUID | None = None
    cents: int = 0
    shortfall_cents: int = 0
    rows: list[Row] = dataclasses.field(default_factory=list)


def apply(tx: Transaction, fact: Fact) -> Outcome:
    """Keep a fact about a payment, and bring its rewards in line with all that are known.

    :raises ReferralError: for an id that makes no sense, and for a part of a bonus that cannot be
        told from a repetition.
    """
    for value, what in (
        (fact.membership_id, "membership id"),
        (fact.payment_id, "payment id"),
        (fact.id, "id of a refund or dispute"),
        (fact.provider, "provider"),
    ):
        if value is not None:
            checked_id(value, what)
    tx.refuse_autocommit()
    fact, is_news = _record(tx, fact)
    rows: list[Row] = []
    if fact.payment_id is not None:
        rows = rewards.of_payment(tx, fact.provider, fact.payment_id)
    conversion_id = rows[0].conversion_id if rows else None
    if not is_news:
        return Outcome(ReversalReason.already_reversed, conversion_id, rows=rows)
    rows = rewards.lock(tx, rows) if rows else rows
    if not rows:
        # Not paid yet, or removed with the users.
        return Outcome(ReversalReason.unknown_membership)
    return reconcile(tx, rows)


def _record(tx: Transaction, fact: Fact) -> tuple[Fact, bool]:
    """Keep a fact under its payment, or under its membership while that has none.

    :return: the fact with its payment, where it has one, and whether it is news.
    """
    has_id = fact.id is not None
    if fact.payment_id is None:
        assert fact.membership_id is not None
        facts.lock_membership(tx, fact.provider, fact.membership_id)
        payment_id = facts.payment_of(tx, fact) if has_id else None
        if payment_id is None:
            payment_id = _qualifying(
                tx.db, tx.models, provider=fact.provider, membership=fact.membership_id
            ).scalar()
        if payment_id is None:
            is_news = facts.record(tx, fact)
            if is_news:
                facts.wait(tx, fact)
            elif fact.amount_cents is not None and not has_id:
                facts.refuse_ambiguous(fact)
            return fact, is_news
        fact = dataclasses.replace(fact, payment_id=payment_id)
    assert fact.payment_id is not None
    payment_id = fact.payment_id
    if not has_id:
        fact = dataclasses.replace(fact, id=payment_id)
    facts.lock_payment(tx, fact.provider, payment_id)
    is_news = facts.record(tx, fact)
    if not is_news and not has_id and fact.amount_cents is not None:
        facts.refuse_ambiguous(fact)
    return fact, is_news


def reconcile(tx: Transaction, rows: t.Sequence[Row]) -> Outcome:
    """Take back, or give back, what the known facts of a payment ask for.

    The wallets have to be locked and the rewards, all of one payment, to be fresh.
    """
    first = rows[0]
    known = facts.of_payment(tx, first.provider, first.payment_id)
    bonus = next((row.cents for row in rows if row.role is RewardRole.referrer), 0)
    changes = [_reconcile(tx, row, known, bonus) for row in rows]
    # The referrer's reward speaks for the payment; the other one where nothing came of that.
    told = next(
        (change for change in changes if change.reason is not ReversalReason.nothing_to_reverse),
        changes[0],
    )
    # Where a reviewer decides on a welcome bonus, that one is meant.
    is_told = first.role is RewardRole.referrer or len(rows) == 1
    return Outcome(
        told.reason,
        first.conversion_id,
        max(0, changes[0].cents) if is_told else 0,
        changes[0].row.shortfall_cents if is_told else 0,
        [change.row for change in changes],
    )


def _reconcile(tx: Transaction, row: Row, known: Facts, bonus_cents: int) -> Change:
    part = known.due_back(row, bonus_cents)
    due = facts.cents(part, row.cents)
    # One of 0 cents stays, and with it the conversion, until all is taken back.
    is_gone = due >= row.cents if row.cents else part == 1
    if row.is_paid:
        return _after_credit(tx, row, due, is_gone)
    waiting = RewardStatus.held if known.is_in_review(row) else RewardStatus.pending
    return _before_maturity(tx, row, due, RewardStatus.void if is_gone else waiting)


def _before_maturity(tx: Transaction, row: Row, due: int, status: RewardStatus) -> Change:
    change = due - row.reversed_cents
    if change == 0 and status is row.status:
        return Change(row, ReversalReason.nothing_to_reverse)
    row = rewards.save(tx, row, reversed_cents=due, status=status)
    if change < 0:
        # Credited with the rest, at maturity.
        rewards.announce(tx, signals.conversion_reinstated, row, cents=0)
    elif change > 0:
        rewards.announce(tx, signals.conversion_voided, row, cents=change)
        return Change(row, ReversalReason.voided, change)
    return Change(row, ReversalReason.nothing_to_reverse)


def _after_credit(tx: Transaction, row: Row, due: int, is_gone: bool) -> Change:
    change = due - row.reversed_cents
    taken = rewards.take(tx, row, change) if change > 0 else change
    missing = max(0, change - taken)
    before = row.shortfall_cents
    status = RewardStatus.reversed if is_gone else RewardStatus.credited
    if taken or missing != before or status is not row.status:
        row = rewards.save(
            tx,
            row,
            reversed_cents=row.reversed_cents + taken,
            shortfall_cents=missing,
            status=status,
        )
    if taken < 0:
        rewards.give_back(tx, row, -taken)
        rewards.announce(tx, signals.conversion_reinstated, row, cents=-taken)
    elif taken > 0 or missing > before:
        rewards.announce(tx, signals.conversion_reversed, row, cents=taken, shortfall_cents=missing)
        return Change(row, ReversalReason.reversed, taken)
    return Change(row, ReversalReason.nothing_to_reverse, taken)


@sql.statement
def _qualifying(models: Models, dialect: str) -> sa.Select[t.Any]:
    """The payment that a fact about a membership is about: its newest that qualified."""
    reward = models.ReferralReward.__table__.c
    is_first = sa.case((reward.number == 1, 0), else_=1)
    return (
        sa.select(reward.payment_id)
        .where(
            reward.provider == sql.parameter("provider", reward.provider),
            reward.membership_id == sql.parameter("membership", reward.membership_id),
        )
        .order_by(is_first, reward.created_at.desc(), reward.id)
        .limit(1)
    )
