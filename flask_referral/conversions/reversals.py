"""Taking bonuses back, and giving them back again."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .. import signals
from .. import wallet
from ..errors import ReferralError
from ..results import ReversalReason
from ..results import ReversalResult
from . import facts
from .facts import Fact
from .facts import Kind
from .ledger import Ledger

if t.TYPE_CHECKING:
    from ..db.models import ReferralConversionMixin
_WAITING = ("pending", "held", "void")


def reverse(
    ledger: Ledger,
    membership_id: str,
    *,
    reason: str,
    refund_id: str | None,
    amount_cents: int | None,
) -> ReversalResult:
    """See :meth:`flask_referral.Referral.reverse`."""
    if amount_cents is not None and (
        not isinstance(amount_cents, int)
        or isinstance(amount_cents, bool)
        or not 0 < amount_cents <= facts.MOST_CENTS
    ):
        raise ReferralError(
            f"amount_cents={amount_cents!r} cannot be taken back: pass a whole number of cents "
            f"from 1 to {facts.MOST_CENTS}, or leave it out for all that is left."
        )
    if refund_id is None:
        refund_id = membership_id
    return apply(ledger, Fact(Kind.refund, membership_id, refund_id, reason, amount_cents))


def apply(ledger: Ledger, fact: Fact) -> ReversalResult:
    """Keep a fact about a membership, and bring its conversion in line with all that are known."""
    session, models = ledger.session, ledger.models
    facts.checked_id(fact.membership_id, "membership id")
    facts.checked_id(fact.id, "id of a refund or dispute")
    wallet.refuse_autocommit(session, models)
    facts.claim(session, models, fact.membership_id, facts.TOMBSTONE)
    news = facts.record(session, models, fact)
    conversion = _find(ledger, fact.membership_id)
    if not news:
        return ReversalResult(ReversalReason.already_reversed, conversion, 0, 0)
    if conversion is None:
        return ReversalResult(ReversalReason.unknown_membership, None, 0, 0)
    locked = ledger.lock_wallets([conversion])
    if not locked:
        # Removed with its users a moment ago.
        return ReversalResult(ReversalReason.unknown_membership, None, 0, 0)
    return reconcile(ledger, locked[0])


def reconcile(ledger: Ledger, conversion: ReferralConversionMixin) -> ReversalResult:
    """Take back, or give back, what the known facts ask for.

    The wallets have to be locked and the conversion to be fresh.
    """
    part = facts.due_back(
        ledger.session, ledger.models, conversion.whop_membership_id, conversion.bonus_cents
    )
    due = facts.cents(part, conversion.bonus_cents)
    # The referred user's own bonus goes in the same proportion.
    referred_due = facts.cents(part, conversion.referred_bonus_cents)
    if conversion.status in _WAITING:
        return _before_maturity(ledger, conversion, due, referred_due)
    return _after_credit(ledger, conversion, due, referred_due)


def _before_maturity(
    ledger: Ledger, conversion: ReferralConversionMixin, due: int, referred_due: int
) -> ReversalResult:
    change = due - conversion.reversed_cents
    referred_change = referred_due - conversion.referred_reversed_cents
    conversion.reversed_cents = due
    conversion.referred_reversed_cents = referred_due
    if _is_everything(conversion, due, referred_due):
        conversion.status = "void"
    else:
        conversion.status = "held" if conversion.available_at is None else "pending"
    ledger.session.flush()
    if change < 0 or referred_change < 0:
        # Credited with the rest, at maturity.
        _announce(ledger, signals.conversion_reinstated, conversion, credited_cents=0)
    elif change or referred_change:
        _announce(ledger, signals.conversion_voided, conversion, reversed_cents=change)
        return ReversalResult(ReversalReason.voided, conversion, change, 0)
    return ReversalResult(ReversalReason.nothing_to_reverse, conversion, 0, 0)


def _after_credit(
    ledger: Ledger, conversion: ReferralConversionMixin, due: int, referred_due: int
) -> ReversalResult:
    taken = _move(ledger, conversion, conversion.referrer_user_id, due - conversion.reversed_cents)
    referred_taken = _move(
        ledger,
        conversion,
        conversion.referred_user_id,
        referred_due - conversion.referred_reversed_cents,
    )
    conversion.reversed_cents += taken
    conversion.referred_reversed_cents += referred_taken
    shortfall = due - conversion.reversed_cents
    before = conversion.shortfall_cents
    conversion.shortfall_cents = shortfall + referred_due - conversion.referred_reversed_cents
    everything = _is_everything(conversion, due, referred_due)
    conversion.status = "reversed" if everything else "credited"
    ledger.session.flush()
    if taken < 0 or referred_taken < 0:
        _announce(ledger, signals.conversion_reinstated, conversion, credited_cents=max(0, -taken))
    if taken > 0 or referred_taken > 0 or conversion.shortfall_cents > before:
        taken = max(0, taken)
        _announce(
            ledger,
            signals.conversion_reversed,
            conversion,
            reversed_cents=taken,
            shortfall_cents=shortfall,
        )
        return ReversalResult(ReversalReason.reversed, conversion, taken, shortfall)
    return ReversalResult(ReversalReason.nothing_to_reverse, conversion, 0, 0)


def _is_everything(conversion: ReferralConversionMixin, due: int, referred_due: int) -> bool:
    return due >= conversion.bonus_cents and referred_due >= conversion.referred_bonus_cents


def _move(ledger: Ledger, conversion: ReferralConversionMixin, user_id: t.Any, cents: int) -> int:
    """Take cents out of a wallet, or put -cents in; return what was taken."""
    if cents == 0 or ledger.wallet is None:
        return cents
    bonus = "Referral" if user_id == conversion.referrer_user_id else "Welcome"
    entry = wallet.Entry(
        user_id,
        -cents,
        wallet.ADJUSTMENT,
        conversion.id,
        f"{bonus} bonus {'taken' if cents > 0 else 'given'} back",
        {"whop_membership_id": conversion.whop_membership_id},
    )
    if cents > 0:
        return wallet.debit(ledger.session, ledger.wallet, entry)
    wallet.post(ledger.session, ledger.wallet, [entry])
    return cents


def _announce(
    ledger: Ledger, signal: t.Any, conversion: ReferralConversionMixin, **cents: int
) -> None:
    signals.send_after_commit(
        ledger.session,
        signal,
        conversion_id=conversion.id,
        referrer_id=conversion.referrer_user_id,
        **cents,
    )


def _find(ledger: Ledger, membership_id: str) -> ReferralConversionMixin | None:
    conversion = ledger.models.ReferralConversion
    found: ReferralConversionMixin | None = ledger.session.scalars(
        sa.select(conversion).where(conversion.whop_membership_id == membership_id)
    ).first()
    return found
