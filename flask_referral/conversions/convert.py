"""Station 4: a referred user's purchase becomes one bonus.

Every change of a conversion is made under two locks, taken in this order: the membership's row
in ``referral_events`` (so that a refund and the purchase it belongs to see each other) and the
referrer's wallet (so that the balance is right).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite

from .. import signals
from .. import wallet
from ..errors import ReferralError
from ..results import ConversionReason
from ..results import ConversionResult
from ..results import Purchase
from ..results import Reward
from ..results import RewardPolicy
from . import facts
from .ledger import announce_credit
from .ledger import credit
from .ledger import Ledger
from .reversals import reconcile

if t.TYPE_CHECKING:
    from ..db.models import ReferralConversionMixin
    from ..settings import Settings
_REASONS = {
    "credited": ConversionReason.converted,
    "pending": ConversionReason.pending,
    "held": ConversionReason.held,
}


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is known before anything is locked."""

    referrer_id: t.Any
    code: str | None
    conversion: ReferralConversionMixin | None
    may_lock_rows: bool


def convert(
    ledger: Ledger,
    referred_id: t.Any,
    membership_id: str,
    *,
    policy: RewardPolicy | None,
    bonus_cents: int | None,
    paid_cents: int | None,
    metadata: dict[str, t.Any] | None,
    now: dt.datetime,
) -> ConversionResult:
    """See :meth:`flask_referral.Referral.convert`.

    Five statements with a credit; one more with a velocity limit.
    """
    session, models = ledger.session, ledger.models
    membership_id = facts.checked_id(membership_id, "membership id")
    found = _look(ledger, referred_id, membership_id)
    if found.conversion is not None:
        return _already(found.conversion)
    if found.referrer_id is None:
        return ConversionResult(ConversionReason.not_referred, None, False, 0)
    assert found.code is not None
    purchase = Purchase(
        found.referrer_id, referred_id, found.code, membership_id, paid_cents, metadata or {}
    )
    reward = _reward(purchase, ledger.settings, policy, bonus_cents)
    if reward.referrer_cents == 0 and reward.referred_cents == 0:
        return ConversionResult(ConversionReason.no_bonus, None, False, 0)

    wallet.refuse_autocommit(session, models)
    conversion_id = uuid.uuid4()
    outcome = facts.claim(session, models, membership_id, f"{facts.CONVERTED}{conversion_id}")
    before = facts.converted_by(outcome)
    if before is not None and before != conversion_id:
        # Credited by somebody faster, or long ago to a user who has been removed since.
        return _already(session.get(models.ReferralConversion, before))
    wallet.lock(
        session,
        models,
        [found.referrer_id, referred_id] if reward.referred_cents else [found.referrer_id],
        may_lock_rows=found.may_lock_rows,
    )
    conversion = _insert(ledger, conversion_id, purchase, reward, now)
    if conversion is None:
        # This user converted through another membership a moment ago.
        facts.set_outcome(session, models, membership_id, facts.TOMBSTONE)
        return _already(_of_user(ledger, referred_id))
    reason = _REASONS[conversion.status]
    if conversion.status == "credited":
        credit(ledger, conversion)
    _announce(ledger, conversion)
    if before is None:
        # Known before its purchase: its refunds came first.
        facts.set_outcome(session, models, membership_id, f"{facts.CONVERTED}{conversion_id}")
        reconcile(ledger, conversion)
    return ConversionResult(reason, conversion, True, conversion.bonus_cents)


def _look(ledger: Ledger, referred_id: t.Any, membership_id: str) -> _Found:
    models = ledger.models
    click, conversion = models.ReferralClick, models.ReferralConversion
    dialect = ledger.session.get_bind(conversion).dialect
    # Something to join to where the user was never referred.
    one = sa.select(sa.literal(1).label("one")).subquery()
    rows = ledger.session.execute(
        sa.select(
            click.referrer_user_id,
            click.referral_code,
            conversion,
            wallet.lockable(models, dialect).label("may_lock_rows"),
        )
        .select_from(one)
        .outerjoin(click, click.referred_user_id == referred_id)
        .outerjoin(
            conversion,
            sa.or_(
                conversion.referred_user_id == referred_id,
                conversion.whop_membership_id == membership_id,
            ),
        )
    ).all()
    # Two where the user and the membership have converted apart from one another.
    row = next((row for row in rows if row[2] and row[2].referred_user_id == referred_id), rows[0])
    return _Found(row[0], row[1], row[2], bool(row[3]))


def _reward(
    purchase: Purchase,
    settings: Settings,
    policy: RewardPolicy | None,
    bonus_cents: int | None,
) -> Reward:
    decided: t.Any = bonus_cents
    if decided is None:
        decided = settings.bonus_cents if policy is None else policy(purchase)
    reward = decided if isinstance(decided, Reward) else Reward(decided)
    for cents in (reward.referrer_cents, reward.referred_cents):
        if type(cents) is not int or not 0 <= cents <= facts.MOST_CENTS:
            raise ReferralError(
                f"A bonus of {cents!r} cents cannot be credited: bonus_cents and what a "
                f"reward_policy returns are whole numbers of cents from 0 to {facts.MOST_CENTS}."
            )
    return reward


def _insert(
    ledger: Ledger,
    conversion_id: uuid.UUID,
    purchase: Purchase,
    reward: Reward,
    now: dt.datetime,
) -> ReferralConversionMixin | None:
    conversion = ledger.models.ReferralConversion
    hold = dt.timedelta(days=ledger.settings.hold_days)
    values: dict[str, t.Any] = {
        "id": conversion_id,
        "referrer_user_id": purchase.referrer_id,
        "referred_user_id": purchase.referred_id,
        "referral_code": purchase.code,
        "whop_membership_id": purchase.membership_id,
        "bonus_cents": reward.referrer_cents,
        "referred_bonus_cents": reward.referred_cents,
        "metadata_": dict(purchase.metadata) or None,
        "converted_at": now,
    }
    if _is_over_velocity(ledger, purchase.referrer_id, now):
        # Without a date: it is due when somebody says so.
        values |= {"status": "held"}
    elif hold:
        values |= {"status": "pending", "available_at": now + hold}
    else:
        values |= {"status": "credited", "credited_at": now}
    table = conversion.__table__
    is_sqlite = ledger.session.get_bind(conversion).dialect.name == "sqlite"
    insert: t.Any = (sqlite if is_sqlite else postgresql).insert(table)
    statement = insert.values(values).on_conflict_do_nothing().returning(table)
    stored: ReferralConversionMixin | None = ledger.session.scalars(
        sa.select(conversion).from_statement(statement)
    ).first()
    return stored


def _is_over_velocity(ledger: Ledger, referrer_id: t.Any, now: dt.datetime) -> bool:
    limit = ledger.settings.velocity_limit
    if limit is None:
        return False
    conversion = ledger.models.ReferralConversion
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    # Exact, because the referrer's wallet is locked.
    count = ledger.session.scalar(
        sa.select(sa.func.count()).where(
            conversion.referrer_user_id == referrer_id, conversion.converted_at >= today
        )
    )
    return (count or 0) >= limit


def _of_user(ledger: Ledger, referred_id: t.Any) -> ReferralConversionMixin | None:
    conversion = ledger.models.ReferralConversion
    found: ReferralConversionMixin | None = ledger.session.scalars(
        sa.select(conversion).where(conversion.referred_user_id == referred_id)
    ).first()
    return found


def _already(conversion: ReferralConversionMixin | None) -> ConversionResult:
    cents = 0 if conversion is None else conversion.bonus_cents
    return ConversionResult(ConversionReason.already_converted, conversion, False, cents)


def _announce(ledger: Ledger, conversion: ReferralConversionMixin) -> None:
    signals.send_after_commit(
        ledger.session,
        signals.conversion_created,
        conversion_id=conversion.id,
        referrer_id=conversion.referrer_user_id,
        referred_id=conversion.referred_user_id,
        membership_id=conversion.whop_membership_id,
        status=conversion.status,
        bonus_cents=conversion.bonus_cents,
        referred_bonus_cents=conversion.referred_bonus_cents,
    )
    if conversion.status == "credited":
        announce_credit(ledger, conversion)
