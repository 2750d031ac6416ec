"""What happened to a membership besides its purchase: refunds, disputes, a reviewer's no.

Facts arrive in any order, more than once, and before the purchase they belong to. Each is kept
once in ``referral_events``, and how much of a bonus is to be taken back is computed from all of
them (:func:`due_back`), so that every order of arrival ends in the same amount.
"""

from __future__ import annotations

import dataclasses
import enum
import fractions
import typing as t
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from ..errors import ReferralError

if t.TYPE_CHECKING:
    from ..db.models import Models
#: The provider of the rows that are not deliveries.
OWN = "flask-referral"


class Kind(enum.StrEnum):
    """What a row of ours in ``referral_events`` says."""

    #: This membership is known; the outcome tells whether it was credited.
    membership = enum.auto()
    refund = enum.auto()
    dispute_opened = enum.auto()
    dispute_won = enum.auto()
    #: A reviewer gave the bonus up.
    void = enum.auto()


#: What an INTEGER column holds.
MOST_CENTS = 2**31 - 1
_LONGEST_ID = 255

#: A membership that is known only by its refunds.
TOMBSTONE = "tombstone"
CONVERTED = "converted:"


@dataclasses.dataclass(frozen=True)
class Fact:
    """One thing that happened.

    :param id: the provider's id of the refund or dispute.
    :param reason: why, in the caller's words.
    :param amount_cents: of a refund: cents of the bonus or, with ``base_cents``, of the money
        paid; None for everything.
    :param base_cents: what was paid, in cents.
    """

    kind: Kind
    membership_id: str
    id: str
    reason: str = ""
    amount_cents: int | None = None
    base_cents: int | None = None


def checked_id(value: t.Any, what: str) -> str:
    """Return an id of a provider's, or refuse it.

    :raises ReferralError: where it is no string of 1 to 255 printable characters.
    """
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID or not value.isprintable():
        raise ReferralError(
            f"{value!r:.80} is no {what}: pass a string of 1 to {_LONGEST_ID} printable characters."
        )
    return value


def claim(session: Session, models: Models, membership_id: str, outcome: str) -> str:
    """Make the membership known, and keep others from it until the transaction ends.

    :param outcome: what is stored where the membership was unknown.
    :return: the outcome that is stored now; another than ``outcome`` where it was known.
    """
    event = models.ReferralEvent
    statement = _insert(session, models).values(
        provider=OWN,
        event_id=_event_id(Kind.membership, membership_id, ""),
        kind=Kind.membership,
        membership_id=membership_id,
        outcome=outcome,
    )
    # Not DO NOTHING: the update that changes nothing takes the row's lock and returns the row.
    statement = statement.on_conflict_do_update(
        index_elements=[event.provider, event.event_id], set_={"kind": event.kind}
    )
    stored: str = session.execute(statement.returning(event.outcome)).scalar_one()
    return stored


def set_outcome(session: Session, models: Models, membership_id: str, outcome: str) -> None:
    """Change what :func:`claim` stored."""
    event = models.ReferralEvent.__table__
    session.execute(
        sa.update(event)
        .where(
            event.c.provider == OWN,
            event.c.event_id == _event_id(Kind.membership, membership_id, ""),
        )
        .values(outcome=outcome)
    )


def record(session: Session, models: Models, fact: Fact) -> bool:
    """Keep a fact; return whether it is news."""
    event = models.ReferralEvent
    statement = (
        _insert(session, models)
        .values(
            provider=OWN,
            event_id=_event_id(fact.kind, fact.membership_id, fact.id),
            kind=fact.kind,
            membership_id=fact.membership_id,
            outcome=fact.reason,
            amount_cents=fact.amount_cents,
            base_cents=fact.base_cents,
        )
        .on_conflict_do_nothing()
        .returning(event.event_id)
    )
    return session.execute(statement).first() is not None


def due_back(
    session: Session, models: Models, membership_id: str, bonus_cents: int
) -> fractions.Fraction:
    """Return which part of a bonus all facts together take back, from 0 to 1.

    Refunds are added up before anything is rounded, so that three thirds are the whole. An open
    dispute, a refund without amount and a reviewer's no take everything.
    """
    event = models.ReferralEvent.__table__
    rows = session.execute(
        sa.select(event.c.kind, event.c.event_id, event.c.amount_cents, event.c.base_cents).where(
            event.c.membership_id == membership_id,
            event.c.provider == OWN,
            event.c.kind != Kind.membership,
        )
    ).all()
    opened = {_without_kind(row.event_id) for row in rows if row.kind == Kind.dispute_opened}
    won = {_without_kind(row.event_id) for row in rows if row.kind == Kind.dispute_won}
    refunds = [row for row in rows if row.kind == Kind.refund]
    whole = fractions.Fraction(1)
    if (
        opened - won
        or any(row.kind == Kind.void for row in rows)
        or any(row.amount_cents is None for row in refunds)
    ):
        return whole
    parts = [
        # Without a bonus of the referrer's, any cents of it are all of it.
        fractions.Fraction(row.amount_cents, row.base_cents or bonus_cents or row.amount_cents)
        for row in refunds
    ]
    return min(whole, sum(parts, start=fractions.Fraction(0)))


def cents(part: fractions.Fraction, of_cents: int) -> int:
    """Return a part of an amount, rounded half up."""
    return int(part * of_cents + fractions.Fraction(1, 2))


def converted_by(outcome: str) -> uuid.UUID | None:
    """Return the conversion that a claim's outcome tells of, or None."""
    if not outcome.startswith(CONVERTED):
        return None
    return uuid.UUID(outcome.removeprefix(CONVERTED))


def _event_id(kind: Kind, membership_id: str, id: str) -> str:
    # The length makes it unambiguous: both ids come from outside and may hold any character.
    return f"{kind}:{len(membership_id)}:{membership_id}:{id}"


def _without_kind(event_id: str) -> str:
    return event_id.split(":", 1)[1]


def _insert(session: Session, models: Models) -> t.Any:
    table = models.ReferralEvent.__table__
    is_sqlite = session.get_bind(models.ReferralEvent).dialect.name == "sqlite"
    return (sqlite if is_sqlite else postgresql).insert(table)
