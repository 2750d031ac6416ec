"""What payment providers report, whatever their format: each event takes effect once."""

from __future__ import annotations

import dataclasses
import enum
import typing as t

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite

from .. import clock
from ..conversions import convert as conversions
from ..conversions import reversals
from ..conversions.facts import Fact
from ..conversions.facts import Kind as FactKind
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
    events = state.models.ReferralEvent.__table__
    session = state.db.session()
    is_sqlite = session.get_bind(state.models.ReferralEvent).dialect.name == "sqlite"
    insert: t.Any = (sqlite if is_sqlite else postgresql).insert(events)
    # First, so that a second delivery waits for the outcome of this one. One whose buyer was not
    # known is tried again: somebody may have mended that.
    new = session.execute(
        insert.values(
            provider=provider,
            event_id=event.id,
            kind=event.kind,
            membership_id=event.membership_id,
            outcome="received",
            amount_cents=event.amount_cents,
            base_cents=event.total_cents,
        )
        .on_conflict_do_update(
            index_elements=[events.c.provider, events.c.event_id],
            set_={"outcome": "received"},
            where=events.c.outcome == UNKNOWN_USER,
        )
        .returning(events.c.event_id)
    ).first()
    if new is None:
        return "duplicate"
    outcome = _effect(state, event)
    session.execute(
        sa.update(events)
        .where(events.c.provider == provider, events.c.event_id == event.id)
        .values(outcome=outcome)
    )
    return outcome


def _effect(state: State, event: WebhookEvent) -> str:
    if event.kind is Kind.IGNORED:
        return event.reason or event.kind
    membership_id = event.membership_id or ""
    if event.amount_cents == 0 and event.kind in (Kind.PURCHASE, Kind.REFUND):
        # A trial or a free plan, and a refund of nothing.
        return "no_money"
    if event.kind is Kind.PURCHASE:
        return _purchase(state, event, membership_id)
    everything = event.amount_cents is None or not event.total_cents
    fact = Fact(
        kind=_FACTS[event.kind],
        membership_id=membership_id,
        id=event.reference or membership_id,
        reason=event.reason or event.kind,
        amount_cents=None if everything else event.amount_cents,
        base_cents=None if everything else event.total_cents,
    )
    return reversals.apply(state.ledger, fact).reason


def _purchase(state: State, event: WebhookEvent, membership_id: str) -> str:
    if event.user is None:
        return UNKNOWN_USER
    try:
        user_id = identity.user_id(state, event.user)
    except UnknownUser:
        return UNKNOWN_USER
    return conversions.convert(
        state.ledger,
        user_id,
        membership_id,
        policy=state.reward_policy,
        bonus_cents=None,
        paid_cents=event.amount_cents,
        metadata=event.metadata,
        now=clock.now(),
    ).reason
