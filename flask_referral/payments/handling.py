"""What payment providers report, whatever their format: each event takes effect once."""

from __future__ import annotations

import dataclasses
import enum
import typing as t

import sqlalchemy as sa

from .. import clock
from ..conversions import reversals
from ..conversions.convert import convert
from ..conversions.facts import Fact
from ..conversions.facts import Kind as FactKind
from ..conversions.payment import Payment
from ..conversions.transaction import Transaction
from ..db import sql
from ..db.models import Models
from ..errors import InvalidEvent
from ..errors import UnknownUser
from ..host import identity

if t.TYPE_CHECKING:
    from ..host.state import State


class Kind(enum.StrEnum):
    """What an event means for a referral."""

    PURCHASE = "purchase"
    REFUND = "refund"
    #: Also a dispute that was lost or closed: the money is gone either way.
    DISPUTE_OPENED = "dispute_opened"
    #: The money is back. A dispute that was won stays won, whatever arrives after it.
    DISPUTE_WON = "dispute_won"
    IGNORED = "ignored"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebhookEvent:
    """One event, in terms that do not depend on its provider.

    :param id: the provider's id of the event, the same in every retry.
    :param kind: what it means.
    :param membership_id: what was bought, refunded or disputed; not for ``ignored``.
    :param user: the buyer of a purchase: a user of the host's, a user's id, or None.
    :param reference: the id of the refund or dispute.
    :param amount_cents: what was paid or refunded; None for a refund of everything. A payment
        of 0 is paid nothing for.
    :param total_cents: of a refund: the whole payment, which tells the proportion. Without it a
        refund takes back everything.
    :param metadata: kept with the conversion, as JSON.
    :param reason: of an ``ignored`` event: why.
    """

    id: str
    kind: Kind
    payment_id: str | None = None
    membership_id: str | None = None
    user: t.Any = None
    reference: str | None = None
    amount_cents: int | None = None
    total_cents: int | None = None
    metadata: dict[str, t.Any] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        """Refuse amounts that would come out as another sum.

        :raises InvalidEvent: where an amount is not a whole number of cents from 0.
        """
        for name in ("amount_cents", "total_cents"):
            cents = getattr(self, name)
            if cents is None:
                continue
            if not isinstance(cents, int) or isinstance(cents, bool) or not 0 <= cents < 2**63:
                raise InvalidEvent(f"The event's {name} is no whole number of cents from 0.")


class Headers(t.Protocol):
    """Looks up a header, as a mapping and Werkzeug's headers do."""

    def get(self, key: str, /) -> str | None: ...


WebhookReader = t.Callable[[bytes, Headers], WebhookEvent]

#: The kind of a delivery's row in ``referral_events``.
DELIVERY = "delivery"
#: The outcome until there is one.
RECEIVED = "received"
#: The outcome of a purchase whose buyer could not be found.
UNKNOWN_USER = "unknown_user"

_FACTS = {
    Kind.REFUND: FactKind.refund,
    Kind.DISPUTE_OPENED: FactKind.dispute_opened,
    Kind.DISPUTE_WON: FactKind.dispute_won,
}


def handle(state: State, provider: str, event: WebhookEvent) -> str:
    """Let an event take effect in ``db.session``, unless it did before; the caller commits.

    :return: the outcome, which is kept with the event: ``duplicate``, ``unknown_user``,
        ``no_money``, why it was ignored, or the reason of the conversion or reversal.
    """
    tx = Transaction.begin(state.db.session(), state.models, state.settings, state.wallet_table)
    # First, so that a second delivery waits for the outcome of this one. One whose buyer was not
    # known is tried again: somebody may have mended that.
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
        return "duplicate"
    outcome = _effect(state, tx, provider, event)
    _finish(tx.db, tx.models, row_provider=provider, row_id=event.id, new_outcome=outcome)
    return outcome


def _effect(state: State, tx: Transaction, provider: str, event: WebhookEvent) -> str:
    if event.kind is Kind.IGNORED:
        return event.reason or event.kind
    if event.amount_cents == 0 and event.kind in (Kind.PURCHASE, Kind.REFUND):
        # A trial or a free plan, and a refund of nothing.
        return "no_money"
    if event.kind is Kind.PURCHASE:
        return _purchase(state, tx, provider, event)
    everything = event.amount_cents is None or not event.total_cents
    fact = Fact(
        kind=_FACTS[event.kind],
        provider=provider,
        payment_id=event.payment_id,
        membership_id=event.membership_id,
        id=event.reference,
        reason=event.reason or event.kind,
        amount_cents=None if everything else event.amount_cents,
        base_cents=None if everything else event.total_cents,
        occurred_at=clock.now(),
    )
    return reversals.apply(tx, fact).reason


def _purchase(state: State, tx: Transaction, provider: str, event: WebhookEvent) -> str:
    if event.user is None:
        return UNKNOWN_USER
    try:
        user_id = identity.user_id(state, event.user)
    except UnknownUser:
        return UNKNOWN_USER
    payment = Payment(
        provider=provider,
        id=event.payment_id or event.membership_id or "",
        membership_id=event.membership_id or event.payment_id or "",
        paid=event.amount_cents,
        currency=state.settings.currency,
        converted_cents=event.amount_cents,
        metadata=event.metadata or {},
    )
    return convert(
        tx, user_id, payment, policy=state.reward_policy, bonus_cents=None, now=clock.now()
    ).reason


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
        .values(kind=DELIVERY, outcome=RECEIVED, **values)
        .on_conflict_do_update(
            index_elements=[event.c.provider, event.c.kind, event.c.event_id],
            set_={"outcome": RECEIVED},
            where=event.c.outcome == UNKNOWN_USER,
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
