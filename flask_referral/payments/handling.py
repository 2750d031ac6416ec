"""What payment providers report, whatever their format: each event takes effect once."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .. import clock
from ..conversions import facts
from ..conversions import reversals
from ..conversions.convert import convert
from ..conversions.facts import Fact
from ..conversions.facts import Kind
from ..conversions.payment import Payment
from ..conversions.transaction import Transaction
from ..db import sql
from ..db.models import Models
from ..errors import UnknownUser
from ..host import identity
from . import known
from .events import EventKind
from .events import Outcome
from .events import WebhookEvent
from .known import DELIVERY

if t.TYPE_CHECKING:
    from ..host.state import State

#: Outcomes that somebody may have mended since: the next delivery is handled anew.
RETRIED = (Outcome.unknown_user,)

_FACTS: dict[str, Kind] = {
    EventKind.refund: Kind.refund,
    EventKind.refund_failed: Kind.refund_failed,
    EventKind.dispute_opened: Kind.dispute_opened,
    EventKind.dispute_won: Kind.dispute_won,
}


def handle(state: State, provider: str, event: WebhookEvent) -> str:
    """Let an event take effect in ``db.session``, unless it did before; the caller commits.

    :return: the outcome, which is kept with the event: an :class:`~.events.Outcome`, why the event
        was ignored, or the reason of the conversion or reversal.
    """
    tx = Transaction.begin(state.db.session(), state.models, state.settings, state.wallet_table)
    # First, so that a second delivery waits for the outcome of this one.
    new = _receive(
        tx.db,
        tx.models,
        new_provider=provider,
        new_id=event.id,
        new_type=event.kind,
        new_payment=event.payment_id,
        new_membership=event.membership_id,
        new_amount=event.amount_cents,
        new_base=event.total_cents,
    ).first()
    if new is None:
        return Outcome.duplicate
    outcome = _effect(state, tx, provider, known.complete(tx, provider, event))
    _finish(tx.db, tx.models, row_provider=provider, row_id=event.id, new_outcome=outcome)
    return outcome


def _effect(state: State, tx: Transaction, provider: str, event: WebhookEvent) -> str:
    if event.kind is EventKind.ignored:
        return event.reason or event.kind
    if event.amount_cents == 0 and event.kind in (EventKind.purchase, EventKind.refund):
        # A trial or a free plan, and a refund of nothing.
        return Outcome.no_money
    if event.kind is EventKind.purchase:
        return _purchase(state, tx, provider, event)
    return reversals.apply(tx, _fact(provider, event)).reason


def _fact(provider: str, event: WebhookEvent) -> Fact:
    now = clock.now()
    # What has no id of its own could not be told from the next part.
    is_measured = event.is_sum or event.is_part
    if event.kind is EventKind.refund and event.total_cents is None:
        is_measured = event.amount_cents is not None and event.reference is not None
    is_failed = event.kind is EventKind.refund_failed
    return Fact(
        kind=Kind.refund_sum if event.is_sum else _FACTS[event.kind],
        provider=provider,
        payment_id=event.payment_id,
        membership_id=event.membership_id,
        id=event.reference,
        reason=event.reason or event.kind,
        amount_cents=event.amount_cents if is_measured or is_failed else None,
        base_cents=(event.total_cents or facts.NOT_TOLD) if is_measured else None,
        # A clock that is ahead must not keep the last word in a dispute.
        occurred_at=min(event.occurred_at or now, now),
    )


def _purchase(state: State, tx: Transaction, provider: str, event: WebhookEvent) -> str:
    if event.user is None:
        return Outcome.unknown_user
    try:
        user_id = identity.user_id(state, event.user)
    except UnknownUser:
        return Outcome.unknown_user
    outcome = convert(
        tx,
        user_id,
        _payment(provider, event, state.settings.currency),
        policy=state.reward_policy,
        bonus_cents=None,
        now=clock.now(),
    )
    return outcome.reason if outcome.is_user else Outcome.unknown_user


def _payment(provider: str, event: WebhookEvent, wallet_currency: str) -> Payment:
    ids = [id for id in (event.payment_id, event.membership_id) if id is not None]
    currency = event.currency
    if currency is None and event.amount_cents is not None:
        currency = wallet_currency
    converted = None
    if currency == wallet_currency:
        converted = event.amount_cents
    elif event.converted_currency == wallet_currency:
        converted = event.converted_cents
    return Payment(
        provider=provider,
        id=ids[0],
        membership_id=ids[-1],
        paid=event.amount_cents,
        currency=currency,
        converted_cents=converted,
        metadata=event.metadata or {},
    )


@sql.statement
def _receive(models: Models, dialect: str) -> t.Any:
    event = models.ReferralEvent.__table__
    columns = {
        "provider": "provider",
        "event_id": "id",
        "type": "type",
        "payment_id": "payment",
        "membership_id": "membership",
        "amount_cents": "amount",
        "base_cents": "base",
    }
    values = {
        column: sql.parameter(f"new_{name}", event.c[column]) for column, name in columns.items()
    }
    return (
        sql.insert(dialect, event)
        .values(kind=DELIVERY, outcome=Outcome.received, **values)
        .on_conflict_do_update(
            index_elements=[event.c.provider, event.c.kind, event.c.event_id],
            set_={"outcome": Outcome.received},
            where=event.c.outcome.in_(sql.words(*RETRIED)),
        )
        .returning(event.c.event_id)
    )


@sql.statement
def _finish(models: Models, dialect: str) -> sa.Update:
    event = models.ReferralEvent.__table__
    return (
        sa.update(event)
        .where(
            event.c.provider == sql.parameter("row_provider", event.c.provider),
            event.c.kind == DELIVERY,
            event.c.event_id == sql.parameter("row_id", event.c.event_id),
        )
        .values(outcome=sa.bindparam("new_outcome", type_=sa.Text()))
    )
