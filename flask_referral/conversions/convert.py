"""Station 4: a payment of a referred user becomes rewards.

What is told of a payment is looked up without a lock, the policy is asked, and then everything
is written under locks that are taken in this order: the payment (its row in ``referral_events``,
so that a refund and the payment it belongs to see each other), the wallets in the order of their
keys (so that the balances are right), the code and the bound click (so that nobody is moved to
another referrer meanwhile). The statement that writes looks again: where the binding or the
number of payments has changed since the look, it writes nothing and all begins anew.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t
import uuid

from .. import wallet
from ..db.models import RewardRole
from ..db.models import RewardStatus
from ..errors import ReferralError
from ..events import ConversionCreated
from ..results import ConversionReason
from ..results import Purchase
from ..results import Reward
from ..results import RewardPolicy
from . import claims
from . import facts
from . import reversals
from . import rewards
from .facts import Fact
from .facts import Kind
from .payment import checked_cents
from .payment import Payment
from .rewards import Row
from .store import count_since
from .store import Look
from .store import look_up
from .store import midnight
from .store import new_conversion
from .store import sign_ups_before
from .store import store
from .store import Stored
from .transaction import Transaction

ATTEMPTS = 5
LONGEST_HOLD = 3650
_LONGEST_CAMPAIGN = 255
_WAITING = {
    RewardStatus.pending: ConversionReason.pending,
    RewardStatus.held: ConversionReason.held,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What :func:`convert` did, as plain rows.

    :param conversion: the columns of the referred user's conversion, or None.
    :param is_user: whether there is such a user; told where nobody referred them.
    """

    reason: ConversionReason
    conversion: dict[str, t.Any] | None = None
    rewards: tuple[Row, ...] = ()
    created: bool = False
    bonus_cents: int = 0
    is_user: bool = True


def convert(
    tx: Transaction,
    referred_id: t.Any,
    payment: Payment,
    *,
    policy: RewardPolicy | None,
    bonus_cents: int | None,
    now: dt.datetime,
) -> Outcome:
    """Turn a payment of a referred user into its rewards and credits, exactly once.

    Three statements with a credit: the look, the claim with the locks, and what is written; on
    SQLite, and where the wallet or its lock are not plain, up to five. Two more with a velocity
    limit. A payment that earns nothing takes one and stores nothing.

    :raises ReferralError: for a bonus that cannot be stored.
    :raises WalletRefused: where the wallet's own rules refuse the credit.
    """
    provider, payment_id = payment.provider, payment.id
    reward_id = uuid.uuid4()
    claim: claims.Claim | None = None
    for _ in range(ATTEMPTS):
        look = look_up(tx, referred_id, payment)
        # Two spellings of a key may be equal to the database alone.
        referred_id = referred_id if look.user_id is None else look.user_id
        purchase = _purchase(look, referred_id, payment)
        refusal = _refusal(tx, look, purchase)
        if refusal is not None:
            return refusal
        reward = _reward(purchase, tx, policy, bonus_cents)
        if reward.referrer_cents == 0 and reward.referred_cents == 0:
            return Outcome(ConversionReason.no_bonus)
        tx.refuse_autocommit()
        with tx.all_or_nothing():
            # The buyer, too, whose row could be deleted on the way to it.
            users = (look.referrer_id, referred_id)
            if claim is None:
                claim = claims.claim(
                    tx,
                    provider,
                    payment_id,
                    payment.membership_id,
                    reward_id,
                    users,
                    may_lock_rows=look.may_lock_rows,
                )
            else:
                wallet.lock(tx.db, tx.models, users, may_lock_rows=look.may_lock_rows)
            if claim.reward_id not in (None, reward_id):
                # Somebody else was faster.
                return _known(tx, look_up(tx, referred_id, payment), purchase)
            hold = _why_held(tx, look, now)
            rows = _rows(tx, look, purchase, reward, reward_id, now, is_held=hold is not None)
            stored = store(tx, look, payment, rows)
            if stored is not None:
                return _settle(tx, look, payment, claim, rows, stored, hold, now=now)
            # Whatever the policy says next, or raises: a claim without a reward must not stay.
            claims.set_reward(tx, provider, payment_id, None)
            claim = claim._replace(was_known=True)
    raise ReferralError(
        f"The referral of user {referred_id!r} changed {ATTEMPTS} times while payment "
        f"{payment.id!r} was converted; roll back and try again."
    )


def _purchase(look: Look, referred_id: t.Any, payment: Payment) -> Purchase:
    return Purchase(
        referrer_id=look.referrer_id,
        referred_id=referred_id,
        code=look.code or "",
        provider=payment.provider,
        payment_id=payment.id,
        membership_id=payment.membership_id,
        number=look.last_number + 1,
        paid_cents=payment.converted_cents,
        currency=payment.currency,
        paid_amount=payment.paid_amount,
        metadata=payment.metadata,
        first_paid_at=look.first_paid_at,
    )


def _refusal(tx: Transaction, look: Look, purchase: Purchase) -> Outcome | None:
    """Return why a payment earns nothing, before the policy is asked."""
    if claims.rewarded_by(look.outcome) is not None:
        return _known(tx, look, purchase)
    if look.referrer_id is None:
        return Outcome(ConversionReason.not_referred, is_user=look.user_id is not None)
    if look.is_disabled:
        return Outcome(ConversionReason.disabled)
    limit = tx.settings.renewals
    if limit is not None and purchase.number > limit + 1:
        return _already(look)
    paid = purchase.paid_cents
    if paid is not None and paid < tx.settings.min_payment_cents:
        return Outcome(ConversionReason.no_bonus)
    return None


def _known(tx: Transaction, look: Look, purchase: Purchase) -> Outcome:
    """Answer for a payment that earned its rewards before."""
    # Another buyer's are nobody else's to see.
    rows = tuple(
        row
        for row in rewards.of_payment(tx, purchase.provider, purchase.payment_id)
        if row.referred_user_id in (None, purchase.referred_id)
    )
    first = next((row for row in rows if row.role is RewardRole.referrer), None)
    if first is None:
        return dataclasses.replace(_already(look), rewards=rows)
    reason = ConversionReason.already_converted
    return Outcome(reason, look.conversion, rows, False, first.cents)


def _already(look: Look) -> Outcome:
    reason = ConversionReason.already_converted
    bonus_cents = 0 if look.conversion is None else look.conversion["bonus_cents"]
    return Outcome(reason, look.conversion, bonus_cents=bonus_cents)


def _reward(
    purchase: Purchase, tx: Transaction, policy: RewardPolicy | None, bonus_cents: int | None
) -> Reward:
    decided: t.Any = bonus_cents
    if decided is None and policy is not None:
        decided = policy(purchase)
    if decided is None:
        decided = tx.settings.bonus_cents
    reward = decided if isinstance(decided, Reward) else Reward(decided)
    checked_cents(reward.referrer_cents, "A bonus of bonus_cents", least=0)
    checked_cents(reward.referred_cents, "A bonus of referred_cents", least=0)
    if reward.hold_days is not None:
        days = reward.hold_days
        if not isinstance(days, int) or isinstance(days, bool) or not 0 <= days <= LONGEST_HOLD:
            raise ReferralError(
                f"hold_days={days!r:.40} is no hold: a reward_policy returns whole days from 0 to "
                f"{LONGEST_HOLD}, or None for REFERRAL_HOLD_DAYS."
            )
    if reward.campaign is not None and not (
        isinstance(reward.campaign, str)
        and 0 < len(reward.campaign) <= _LONGEST_CAMPAIGN
        and reward.campaign.isprintable()
    ):
        raise ReferralError(
            f"campaign={reward.campaign!r:.80} is no label: a reward_policy returns 1 to "
            f"{_LONGEST_CAMPAIGN} printable characters, or None."
        )
    return reward


def _rows(
    tx: Transaction,
    look: Look,
    purchase: Purchase,
    reward: Reward,
    reward_id: uuid.UUID,
    now: dt.datetime,
    *,
    is_held: bool,
) -> list[Row]:
    """Return the rewards of a payment, the referrer's first; its wallet has to be locked."""
    days = tx.settings.hold_days if reward.hold_days is None else reward.hold_days
    available_at = now + dt.timedelta(days=days)
    if is_held:
        status = RewardStatus.held
    else:
        status = RewardStatus.pending if days else RewardStatus.credited
    is_paid = status is RewardStatus.credited
    row = Row(
        id=reward_id,
        conversion_id=reward_id if look.conversion is None else look.conversion["id"],
        user_id=look.referrer_id,
        referred_user_id=purchase.referred_id,
        role=RewardRole.referrer,
        provider=purchase.provider,
        payment_id=purchase.payment_id,
        membership_id=purchase.membership_id,
        number=purchase.number,
        cents=reward.referrer_cents,
        status=status,
        available_at=None if is_paid else available_at,
        credited_at=now if is_paid else None,
        created_at=now,
        campaign=reward.campaign,
        source=look.source,
        click_id=look.click_id,
    )
    if not reward.referred_cents:
        return [row]
    welcome = dataclasses.replace(
        row,
        id=uuid.uuid4(),
        user_id=purchase.referred_id,
        role=RewardRole.referred,
        cents=reward.referred_cents,
    )
    return [row, welcome]


def _why_held(tx: Transaction, look: Look, now: dt.datetime) -> str | None:
    """Return why a reward waits for a review; None where it does not."""
    limit = tx.settings.velocity_limit
    if limit is None:
        return None
    # Exact, because the referrer's wallet is locked.
    if count_since(tx, look.referrer_id, midnight(now)) >= limit:
        return "over REFERRAL_VELOCITY_LIMIT"
    if look.bound_at is not None and sign_ups_before(tx, look) >= limit:
        return "over REFERRAL_VELOCITY_LIMIT on the day of the sign-up"
    return None


def _settle(
    tx: Transaction,
    look: Look,
    payment: Payment,
    claim: claims.Claim,
    rows: list[Row],
    stored: Stored,
    hold: str | None,
    *,
    now: dt.datetime,
) -> Outcome:
    """Credit what was stored, and apply the facts that came before it."""
    first = rows[0]
    provider, payment_id = payment.provider, payment.id
    assert first.conversion_id is not None
    tx.announce(
        ConversionCreated(
            conversion_id=first.conversion_id,
            referrer_id=first.user_id,
            referred_id=first.referred_user_id,
            provider=provider,
            payment_id=payment_id,
            membership_id=payment.membership_id,
            number=first.number,
            status=first.status,
            bonus_cents=first.cents,
            referred_bonus_cents=sum(row.cents for row in rows[1:]),
            campaign=first.campaign,
        )
    )
    if first.status is RewardStatus.credited:
        rewards.credit(tx, rows, owes=stored.owes, is_written=stored.is_credited)
    elif hold is not None:
        for row in rows:
            facts.record(
                tx,
                Fact(
                    kind=Kind.hold,
                    provider=provider,
                    payment_id=payment_id,
                    membership_id=payment.membership_id,
                    id=str(row.id),
                    reason=hold,
                    occurred_at=now,
                ),
            )
    if claim.was_known:
        claims.set_reward(tx, provider, payment_id, first.id)
    if claim.has_waiting:
        facts.adopt(tx, provider, payment.membership_id, payment_id)
        claims.set_waiting(tx, provider, payment.membership_id, False)
    if claim.was_known or claim.has_waiting:
        rows = reversals.reconcile(tx, rows).rows
    paid = ConversionReason.converted if first.number == 1 else ConversionReason.renewed
    return Outcome(
        _WAITING.get(first.status, paid),
        look.conversion or new_conversion(look, payment, first),
        tuple(rows),
        True,
        first.cents,
    )
