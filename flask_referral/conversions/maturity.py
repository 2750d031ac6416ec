"""Pending and held conversions: crediting what is due, a reviewer's yes and no."""

from __future__ import annotations

import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa

from .. import clock
from .. import signals
from ..errors import ReferralError
from ..results import ReversalResult
from . import facts
from .facts import Fact
from .facts import Kind
from .ledger import announce_credit
from .ledger import credit
from .ledger import Ledger
from .reversals import apply

if t.TYPE_CHECKING:
    from ..db.models import ReferralConversionMixin
BATCH = 100


def mature(ledger: Ledger, now: dt.datetime, *, batch: int = BATCH) -> int | None:
    """Credit up to ``batch`` conversions that are due; the caller commits and calls again.

    Two runs at once credit nothing twice: the wallets are locked, then what is still pending is
    read again.

    :param now: aware; what was available before is due.
    :return: how many were credited, or None where nothing was due.
    """
    conversion = ledger.models.ReferralConversion
    due = ledger.session.scalars(
        sa.select(conversion)
        .where(conversion.status == "pending", conversion.available_at <= now)
        .order_by(conversion.available_at)
        .limit(batch)
    ).all()
    if not due:
        return None
    credited = 0
    # Somebody else may have credited, voided or removed them while this waited for the wallets.
    for found in ledger.lock_wallets(due):
        if found.status == "pending":
            _credit(ledger, found, now)
            credited += 1
    ledger.session.flush()
    return credited


def release(ledger: Ledger, conversion_id: uuid.UUID, now: dt.datetime) -> ReferralConversionMixin:
    """Let a held conversion go: credited at once, or pending until its hold is over.

    :raises ReferralError: where there is none, or it is not held.
    """
    conversion = _held(ledger, conversion_id, ("held",))
    hold = dt.timedelta(days=ledger.settings.hold_days)
    conversion.available_at = clock.as_utc(conversion.converted_at) + hold
    conversion.status = "pending"
    if conversion.available_at <= now:
        _credit(ledger, conversion, now)
    ledger.session.flush()
    signals.send_after_commit(
        ledger.session,
        signals.conversion_released,
        conversion_id=conversion.id,
        referrer_id=conversion.referrer_user_id,
        status=conversion.status,
    )
    return conversion


def void(ledger: Ledger, conversion_id: uuid.UUID) -> ReversalResult:
    """Give a held or pending conversion up, for good.

    :raises ReferralError: where there is none, or it was credited.
    """
    membership_id = _get(ledger, conversion_id).whop_membership_id
    # The membership before the wallet, as refunds do; the other way round they would deadlock.
    facts.claim(ledger.session, ledger.models, membership_id, facts.TOMBSTONE)
    _held(ledger, conversion_id, ("held", "pending"))
    return apply(ledger, Fact(Kind.void, membership_id, str(conversion_id), "voided by a reviewer"))


def _credit(ledger: Ledger, conversion: ReferralConversionMixin, now: dt.datetime) -> None:
    conversion.status = "credited"
    conversion.credited_at = now
    credit(ledger, conversion)
    announce_credit(ledger, conversion)


def _held(
    ledger: Ledger, conversion_id: uuid.UUID, statuses: tuple[str, ...]
) -> ReferralConversionMixin:
    locked = ledger.lock_wallets([_get(ledger, conversion_id)])
    if not locked:
        raise _unknown(conversion_id)
    conversion = locked[0]
    if conversion.status not in statuses:
        cure = {
            "credited": "; use reverse to take it back",
            "pending": "; it is credited by mature when it is due, or given up by void",
        }.get(conversion.status, "; there is nothing left to decide")
        raise ReferralError(
            f"Conversion {conversion_id} is {conversion.status}, not {' or '.join(statuses)}{cure}."
        )
    return conversion


def _get(ledger: Ledger, conversion_id: uuid.UUID) -> ReferralConversionMixin:
    conversion = ledger.session.get(ledger.models.ReferralConversion, conversion_id)
    if conversion is None:
        raise _unknown(conversion_id)
    return conversion


def _unknown(conversion_id: uuid.UUID) -> ReferralError:
    return ReferralError(f"There is no conversion {conversion_id}.")
