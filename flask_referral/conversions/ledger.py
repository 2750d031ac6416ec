"""What conversions, reversals and maturity have in common: a bonus goes into the wallet."""

from __future__ import annotations

import dataclasses
import typing as t

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import signals
from .. import wallet

if t.TYPE_CHECKING:
    from ..db.models import Models
    from ..db.models import ReferralConversionMixin
    from ..settings import Settings


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Where conversions are kept and credited.

    :param wallet: the host's wallet table, or None: nothing is credited.
    """

    session: Session
    models: Models
    settings: Settings
    wallet: sa.Table | None

    def lock_wallets(
        self, conversions: t.Sequence[ReferralConversionMixin]
    ) -> t.Sequence[ReferralConversionMixin]:
        """Lock the wallets that conversions touch, then read what changed until then.

        :return: those that are still there, oldest first.
        """
        users = {conversion.referrer_user_id for conversion in conversions}
        users |= {
            conversion.referred_user_id
            for conversion in conversions
            if conversion.referred_bonus_cents
        }
        wallet.refuse_autocommit(self.session, self.models)
        wallet.lock(self.session, self.models, users)
        conversion = self.models.ReferralConversion
        return self.session.scalars(
            sa.select(conversion)
            .where(conversion.id.in_([found.id for found in conversions]))
            .order_by(conversion.converted_at, conversion.id)
            .execution_options(populate_existing=True)
        ).all()


def credit(ledger: Ledger, conversion: ReferralConversionMixin) -> None:
    """Write what a conversion is worth into the wallets, which have to be locked.

    Both bonuses less what was taken back of them before maturity.
    """
    if ledger.wallet is None:
        return
    metadata = {"whop_membership_id": conversion.whop_membership_id}
    owed = [
        (
            conversion.referrer_user_id,
            conversion.bonus_cents - conversion.reversed_cents,
            wallet.BONUS,
            "Referral bonus",
        ),
        (
            # One bonus for each conversion is what the wallet's index allows, hence the type.
            conversion.referred_user_id,
            conversion.referred_bonus_cents - conversion.referred_reversed_cents,
            wallet.ADJUSTMENT,
            "Welcome bonus",
        ),
    ]
    entries = [
        wallet.Entry(user_id, cents, type_, conversion.id, description, metadata)
        for user_id, cents, type_, description in owed
        if cents
    ]
    if entries:
        wallet.post(ledger.session, ledger.wallet, entries)


def announce_credit(ledger: Ledger, conversion: ReferralConversionMixin) -> None:
    """Send :data:`~flask_referral.signals.conversion_credited` after the commit."""
    signals.send_after_commit(
        ledger.session,
        signals.conversion_credited,
        conversion_id=conversion.id,
        referrer_id=conversion.referrer_user_id,
        bonus_cents=conversion.bonus_cents - conversion.reversed_cents,
    )
