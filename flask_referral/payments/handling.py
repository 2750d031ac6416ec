"""What payment providers report, whatever their format: each event takes effect once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t

import sqlalchemy as sa

from .. import clock
from ..clock import as_utc
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
from ..results import ConversionReason
from . import kept
from . import known
from . import providers
from .events import EventKind
from .events import Outcome
from .events import WebhookEvent
from .known import DELIVERY

if t.TYPE_CHECKING:
    from ..host.state import State

#: Outcomes that somebody may mend: what such a delivery takes is kept, and it is handled anew.
MENDABLE: t.Final = (Outcome.unknown_user, Outcome.other_company, ConversionReason.not_referred)

_FACTS: dict[str, Kind] = {
    EventKind.refund: Kind.refund,
    EventKind.refund_failed: Kind.refund_failed,
    EventKind.dispute_opened: Kind.dispute_opened,
    EventKind.dispute_won: Kind.dispute_won,
}


def handle(
    state: State,
    provider: str,
    event: WebhookEvent,
    *,
    buyer: t.Any = None,
    is_delivered: bool = True,
) -> str:
    """Let an event take effect in ``db.session``, unless it did before; the caller commits.

    An event of a :data:`MENDABLE` outcome may come again, from the provider or out of what was
    kept of it, any number of times at once: it takes effect once.

    :param buyer: who pays, where that is known; else the provider's user loader is asked.
    :param is_delivered: whether the provider sent it now; else it is what was kept, and nothing
        happens where that was removed meanwhile.
    :return: the outcome, which is kept with the event: an :class:`~.events.Outcome`, why the event
        was ignored, or the reason of the conversion or reversal.
    """
    is_foreign = providers.is_foreign(state, provider, event)
    if buyer is None and not is_foreign:
        buyer = providers.buyer(state, provider, event)
    told = dataclasses.replace(event, user=buyer)
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
        new_reference=event.reference,
        new_amount=event.amount_cents,
        new_base=event.total_cents,
        new_occurred_at=event.occurred_at,
        is_delivered=is_delivered,
    ).first()
    if new is None:
        return Outcome.duplicate
    outcome: str = Outcome.other_company
    user_id = None
    if not is_foreign:
        told = known.complete(tx, provider, told)
        outcome, user_id = _effect(state, tx, provider, told, as_utc(new.received_at))
    waits = outcome in MENDABLE and event.kind is not EventKind.ignored
    _finish(
        tx.db,
        tx.models,
        row_provider=provider,
        row_id=event.id,
        new_outcome=outcome,
        new_user=user_id if waits else None,
        new_details=kept.details(event, _named(state, event, user_id)) if waits else None,
    )
    return outcome


def _effect(
    state: State, tx: Transaction, provider: str, event: WebhookEvent, received_at: dt.datetime
) -> tuple[str, t.Any]:
    """Let an event take effect; return the outcome and the key of a buyer nobody referred."""
    if event.kind is EventKind.ignored:
        return event.reason or event.kind, None
    if event.amount_cents == 0 and event.kind in (EventKind.purchase, EventKind.refund):
        # A trial or a free plan, and a refund of nothing.
        return Outcome.no_money, None
    if event.kind is EventKind.purchase:
        return _purchase(state, tx, provider, event, received_at)
    return reversals.apply(tx, _fact(provider, event)).reason, None


def _named(state: State, event: WebhookEvent, user_id: t.Any) -> t.Any:
    """Return the buyer's id, as far as the event names one."""
    try:
        return identity.user_id(state, event.user) if user_id is None else user_id
    except UnknownUser:
        return event.user


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


def _purchase(
    state: State,
    tx: Transaction,
    provider: str,
    event: WebhookEvent,
    received_at: dt.datetime,
) -> tuple[str, t.Any]:
    if event.user is None:
        return Outcome.unknown_user, None
    try:
        user_id = identity.user_id(state, event.user)
    except UnknownUser:
        return Outcome.unknown_user, None
    now = clock.now()
    window = dt.timedelta(seconds=state.settings.cookie_max_age)
    if received_at < now - window and _is_bound_after(tx, user_id, received_at + window):
        # The referrer brought a customer who had been one for long.
        return ConversionReason.not_referred, user_id
    outcome = convert(
        tx,
        user_id,
        _payment(provider, event, state.settings.currency),
        policy=state.reward_policy,
        bonus_cents=None,
        now=now,
    )
    if not outcome.is_user:
        return Outcome.unknown_user, None
    return outcome.reason, user_id


def _is_bound_after(tx: Transaction, user_id: t.Any, moment: dt.datetime) -> bool:
    bound_at = _bound_at(tx.db, tx.models, user=user_id).scalar()
    return bound_at is not None and as_utc(bound_at) > moment


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
        "reference": "reference",
        "amount_cents": "amount",
        "base_cents": "base",
        "occurred_at": "occurred_at",
    }
    values = {
        column: sql.parameter(f"new_{name}", event.c[column]) for column, name in columns.items()
    }
    key = ("provider", "kind", "event_id")
    insert = sql.insert(dialect, event).values(kind=DELIVERY, outcome=Outcome.received, **values)
    # What could not be read the first time may be read now.
    again = {name: insert.excluded[name] for name in columns if name not in key}
    return insert.on_conflict_do_update(
        index_elements=[event.c[name] for name in key],
        set_={"outcome": Outcome.received, **again},
        where=sa.and_(
            event.c.outcome.in_(sql.words(*MENDABLE)),
            sa.or_(sa.bindparam("is_delivered", type_=sa.Boolean()), event.c.details.is_not(None)),
        ),
    ).returning(event.c.received_at)


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
        .values(
            outcome=sa.bindparam("new_outcome", type_=sa.Text()),
            user_id=sql.parameter("new_user", event.c.user_id),
            details=sql.parameter("new_details", event.c.details),
        )
    )


@sql.statement
def _bound_at(models: Models, dialect: str) -> sa.Select[t.Any]:
    click = models.ReferralClick.__table__.c
    return sa.select(sa.func.coalesce(click.bound_at, click.clicked_at)).where(
        click.referred_user_id == sql.parameter("user", click.referred_user_id)
    )
