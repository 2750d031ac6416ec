"""Taking rewards back, and giving them back again."""

from __future__ import annotations

import dataclasses
import datetime as dt
import fractions
import typing as t
import uuid

from ..db.models import RewardRole
from ..db.models import RewardStatus
from ..errors import ReferralError
from ..events import ConversionReinstated
from ..events import ConversionReversed
from ..events import ConversionVoided
from ..results import ReversalReason
from . import claims
from . import facts
from . import rewards
from .facts import Fact
from .facts import Facts
from .facts import Kind
from .payment import checked_cents
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
    #: The same as they were before; none where nothing was looked at.
    before: t.Sequence[Row] = ()


def refund(
    tx: Transaction,
    membership_id: str | None,
    *,
    reason: str,
    payment_id: str | None,
    provider: str,
    refund_id: str | None,
    amount_cents: int | None,
    now: dt.datetime,
) -> Outcome:
    """Take a bonus back, as :meth:`flask_referral.Referral.reverse` tells.

    :raises ReferralError: as :func:`apply`, and for an amount that makes no sense.
    """
    if amount_cents is not None:
        checked_cents(amount_cents, "amount_cents", least=1)
    fact = Fact(
        kind=Kind.refund,
        provider=provider,
        payment_id=payment_id,
        membership_id=membership_id,
        id=refund_id,
        reason=reason,
        amount_cents=amount_cents,
        occurred_at=now,
    )
    return apply(tx, fact)


def apply(tx: Transaction, fact: Fact) -> Outcome:
    """Keep a fact about a payment, and bring its rewards in line with all that are known.

    :raises ReferralError: for an id that makes no sense, and for a part of a bonus that cannot be
        told from a repetition.
    """
    checked_id(fact.provider, "provider")
    if fact.membership_id is not None or fact.payment_id is None:
        checked_id(fact.membership_id, "membership id")
    for value, what in ((fact.payment_id, "payment id"), (fact.id, "id of a refund or dispute")):
        if value is not None:
            checked_id(value, what)
    if not isinstance(fact.reason, str):
        raise ReferralError(f"reason={fact.reason!r:.40} is no text: say why in a few words.")
    tx.refuse_autocommit()
    with tx.all_or_nothing():
        fact, is_news = _record(tx, fact)
        rows: list[Row] = []
        if fact.payment_id is not None:
            rows = rewards.of_payment(tx, fact.provider, fact.payment_id)
        if is_news and rows and (locked := rewards.lock(tx, rows)):
            return reconcile(tx, locked)
    if is_news:
        # Not paid yet, or removed with the users.
        return Outcome(ReversalReason.unknown_membership)
    if fact.id is None and fact.amount_cents is not None:
        raise ReferralError(
            f"A refund of {fact.amount_cents} cents cannot be told from the one before: pass "
            "refund_id, the provider's id of each refund. Nothing was changed."
        )
    conversion_id = rows[0].conversion_id if rows else None
    return Outcome(ReversalReason.already_reversed, conversion_id, rows=rows)


def _record(tx: Transaction, fact: Fact) -> tuple[Fact, bool]:
    """Keep a fact under its payment, or under its membership while that has none.

    :return: the fact with its payment, where it has one, and whether it is news.
    """
    if fact.payment_id is None:
        assert fact.membership_id is not None
        claims.lock_membership(tx, fact.provider, fact.membership_id)
        fact = dataclasses.replace(fact, payment_id=facts.payment_of(tx, fact))
    if fact.payment_id is not None:
        claims.lock_payment(tx, fact.provider, fact.payment_id)
    is_news = facts.record(tx, fact)
    if is_news and fact.payment_id is None and fact.membership_id is not None:
        claims.set_waiting(tx, fact.provider, fact.membership_id, True)
    return fact, is_news


def reconcile(tx: Transaction, rows: t.Sequence[Row]) -> Outcome:
    """Take back, or give back, what the known facts of a payment ask for.

    The wallets have to be locked and the rewards, all of one payment, to be fresh.
    """
    first = rows[0]
    known = facts.of_payment(tx, first.provider, first.payment_id)
    bonus = next((row.cents for row in rows if row.role is RewardRole.referrer), 0)
    if bonus and known.is_unmeasured:
        # While the bonus is known: it may go with the referrer's account.
        facts.measure(tx, first.provider, first.payment_id, bonus)
        known = facts.of_payment(tx, first.provider, first.payment_id)
    changes = [_reconcile(tx, row, known) for row in rows]
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
        rows,
    )


def _reconcile(tx: Transaction, row: Row, known: Facts) -> Change:
    part = known.due_back(row)
    # Rounded half up.
    due = int(part * row.cents + fractions.Fraction(1, 2))
    # A reward of 0 cents is gone with its payment.
    is_gone = due == row.cents if row.cents else part == 1
    if row.is_paid:
        return _after_credit(
            tx, row, due, RewardStatus.reversed if is_gone else RewardStatus.credited
        )
    waiting = RewardStatus.held if known.is_in_review(row) else RewardStatus.pending
    return _before_maturity(tx, row, due, RewardStatus.void if is_gone else waiting)


def _before_maturity(tx: Transaction, row: Row, due: int, status: RewardStatus) -> Change:
    change = due - row.reversed_cents
    if change == 0 and status is row.status:
        return Change(row, ReversalReason.nothing_to_reverse)
    row = rewards.save(tx, row, reversed_cents=due, status=status)
    if change < 0:
        # Credited with the rest, at maturity.
        rewards.announce(tx, ConversionReinstated, row, cents=0)
    elif change > 0:
        rewards.announce(tx, ConversionVoided, row, cents=change)
        return Change(row, ReversalReason.voided, change)
    return Change(row, ReversalReason.nothing_to_reverse)


def _after_credit(tx: Transaction, row: Row, due: int, status: RewardStatus) -> Change:
    change = due - row.reversed_cents
    taken = rewards.take(tx, row, change) if change > 0 else change
    missing = max(0, change - taken)
    before = row.shortfall_cents
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
        rewards.announce(tx, ConversionReinstated, row, cents=-taken)
    elif taken > 0 or missing > before:
        rewards.announce(tx, ConversionReversed, row, cents=taken, shortfall_cents=missing)
        return Change(row, ReversalReason.reversed, taken)
    return Change(row, ReversalReason.nothing_to_reverse, taken)
