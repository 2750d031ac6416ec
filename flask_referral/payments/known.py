"""What is known of a payment besides what an event of it says."""

from __future__ import annotations

import dataclasses
import typing as t

import sqlalchemy as sa

from ..conversions import aliases
from ..conversions import facts
from ..conversions.transaction import Transaction
from ..db import sql
from ..db.models import Models
from .events import EventKind
from .events import WebhookEvent

#: The kind of a delivery's row in ``referral_events``.
DELIVERY = "delivery"


def complete(tx: Transaction, provider: str, event: WebhookEvent) -> WebhookEvent:
    """Return an event with the id under which its payment is kept, and what it left out.

    That is what was paid, where a refund says only what it gave back, and the buyer, where a
    renewal names only the membership. For a provider with one id for each payment at most two
    statements.
    """

    def paid(payment_id: str) -> int | None:
        cents: int | None = _paid(tx.db, tx.models, provider=provider, payment=payment_id).scalar()
        return cents

    changes: dict[str, t.Any] = {}
    payment_id = event.payment_id
    if payment_id is not None and event.aliases is not None:
        ids = (payment_id, *event.aliases)
        changes["payment_id"] = payment_id = aliases.resolve(tx, provider, ids, paid=paid)
    if event.kind is EventKind.purchase:
        if payment_id is not None and event.amount_cents:
            facts.tell_total(tx, provider, payment_id, event.amount_cents)
        if event.user is None and event.membership_id is not None:
            buyer = _buyer(tx.db, tx.models, provider=provider, membership=event.membership_id)
            changes["user"] = buyer.scalar()
    elif payment_id is not None and _may_be_part(event):
        changes["total_cents"] = paid(payment_id)
    return dataclasses.replace(event, **changes) if changes else event


def _may_be_part(event: WebhookEvent) -> bool:
    is_refund = event.kind is EventKind.refund and event.reference is not None
    return is_refund and bool(event.amount_cents) and event.total_cents is None


@sql.statement
def _paid(models: Models, dialect: str) -> sa.Select[t.Any]:
    event = models.ReferralEvent.__table__
    provider = sql.parameter("provider", event.c.provider)
    payment = sql.parameter("payment", event.c.payment_id)
    # A purchase may have been told before its ids were known to be of one payment.
    ids = aliases.ids_of(models, provider, payment)
    return (
        sa.select(event.c.amount_cents)
        .where(
            event.c.provider == provider,
            event.c.kind == sql.word(DELIVERY),
            event.c.type == sql.word(EventKind.purchase),
            sa.or_(event.c.payment_id == payment, event.c.payment_id.in_(ids)),
            event.c.amount_cents > 0,
        )
        .order_by(event.c.received_at)
        .limit(1)
    )


@sql.statement
def _buyer(models: Models, dialect: str) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__.c
    return (
        sa.select(reward.referred_user_id)
        .where(
            reward.provider == sql.parameter("provider", reward.provider),
            reward.membership_id == sql.parameter("membership", reward.membership_id),
            reward.referred_user_id.is_not(None),
        )
        .order_by(reward.created_at.desc())
        .limit(1)
    )
