"""What happened to a payment besides its purchase: refunds, disputes, a reviewer's decisions.

Facts arrive in any order, more than once, and before the payment they belong to. Each is kept
once in ``referral_events``, and how much of a reward is to be taken back is computed from all of
them (:func:`due_back`), so that every order of arrival ends in the same amount.

A payment is named by its provider and the provider's id. A fact that names only a membership
belongs to the payment that earned something for it; where there is none yet, it waits under the
membership and is moved to the first payment that earns (:func:`adopt`).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import fractions
import typing as t
import uuid

import sqlalchemy as sa

from ..clock import as_utc
from ..db import sql
from ..db.models import Models
from ..errors import ReferralError
from .rewards import Row
from .transaction import Transaction


class Kind(enum.StrEnum):
    """What a row of ``referral_events`` that is no delivery says."""

    #: This payment is known; the outcome tells whether it earned a reward.
    payment = enum.auto()
    #: This membership is known; the outcome tells whether facts wait for its payment.
    membership = enum.auto()
    refund = enum.auto()
    #: Also a dispute that was lost or closed: the money is gone either way.
    dispute_opened = enum.auto()
    dispute_won = enum.auto()
    #: A reviewer gave a reward up.
    void = enum.auto()
    #: A reward was held for a review; and a reviewer let it go.
    hold = enum.auto()
    release = enum.auto()


#: Known, and has not earned anything.
KNOWN = "known"
#: Facts wait for the payment of this membership.
WAITING = "waiting"
_REWARDED = "rewarded:"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One thing that happened.

    :param payment_id: None where the provider names the membership only, and
    :param membership_id: None where it names the payment only.
    :param id: the provider's id of the refund or dispute, or a reward's; None: the payment's.
    :param reason: why, in the caller's words.
    :param amount_cents: of a refund: cents of the bonus or, with ``base_cents``, of the money
        paid; None for everything.
    :param base_cents: what was paid, in the same unit.
    :param occurred_at: when, by the provider's clock (UTC), else when it arrived.
    """

    kind: Kind
    provider: str
    payment_id: str | None = None
    membership_id: str | None = None
    id: str | None = None
    reason: str = ""
    amount_cents: int | None = None
    base_cents: int | None = None
    occurred_at: dt.datetime


class Claim(t.NamedTuple):
    """What is known of a payment and its membership, both locked until the transaction ends."""

    #: The referrer's reward that the payment earned, or None.
    reward_id: uuid.UUID | None
    #: Whether the payment was known before, with or without a reward.
    was_known: bool
    #: Whether facts wait under the membership.
    has_waiting: bool


def claim_payment(
    tx: Transaction, provider: str, payment_id: str, membership_id: str, reward_id: uuid.UUID
) -> Claim:
    """Claim a payment for a reward, and keep others from it. One statement.

    The insert cannot happen twice: the reward that is stored is ``reward_id`` for one caller only.
    The membership's row is locked first, as by facts that name only the membership.
    """
    found = _claim_both(
        tx.db,
        tx.models,
        new_provider=provider,
        new_payment=payment_id,
        new_membership=membership_id,
        new_outcome=f"{_REWARDED}{reward_id}",
    )
    outcomes = {row.kind: row.outcome for row in found}
    stored = rewarded_by(outcomes[Kind.payment])
    return Claim(stored, stored != reward_id, outcomes[Kind.membership] == WAITING)


def lock_payment(tx: Transaction, provider: str, payment_id: str) -> None:
    """Make a payment known, and keep others from it. One statement."""
    _claim(tx.db, tx.models, new_kind=Kind.payment, new_provider=provider, new_id=payment_id)


def lock_membership(tx: Transaction, provider: str, membership_id: str) -> None:
    """Make a membership known, and keep others from it. One statement."""
    _claim(tx.db, tx.models, new_kind=Kind.membership, new_provider=provider, new_id=membership_id)


def set_reward(
    tx: Transaction, provider: str, payment_id: str, reward_id: uuid.UUID | None
) -> None:
    """Say which reward a claimed payment earned, or that it earned none. One statement."""
    outcome = KNOWN if reward_id is None else f"{_REWARDED}{reward_id}"
    _set_outcome(
        tx.db,
        tx.models,
        row_kind=Kind.payment,
        row_provider=provider,
        row_id=payment_id,
        new_outcome=outcome,
    )


def rewarded_by(outcome: str | None) -> uuid.UUID | None:
    """Return the reward that the outcome of a payment tells of, or None."""
    if outcome is None or not outcome.startswith(_REWARDED):
        return None
    return uuid.UUID(outcome.removeprefix(_REWARDED))


def record(tx: Transaction, fact: Fact) -> bool:
    """Keep a fact; return whether it is news.

    A dispute's states are in the order in which they occurred, so a later one of a kind replaces
    an earlier one.

    :raises ReferralError: for a part of a bonus without a refund's id, where one was taken back
        before: it cannot be told from a repetition.
    """
    by_membership = fact.payment_id is None
    subject = fact.membership_id if by_membership else fact.payment_id
    assert subject is not None
    new = _record(
        tx.db,
        tx.models,
        new_provider=fact.provider,
        new_kind=fact.kind,
        new_id=_event_id(subject, fact.id, by_membership=by_membership),
        new_payment=fact.payment_id,
        new_membership=fact.membership_id,
        new_reference=fact.id,
        new_reason=fact.reason,
        new_amount=fact.amount_cents,
        new_base=fact.base_cents,
        new_occurred_at=fact.occurred_at,
    ).first()
    return new is not None


def payment_of(tx: Transaction, fact: Fact) -> str | None:
    """Return the payment that a refund or dispute of this id was kept for, or None.

    A dispute's end is about the payment that it began with, whatever was paid since.
    """
    disputes = (Kind.dispute_opened, Kind.dispute_won)
    found: str | None = _of_membership(
        tx.db,
        tx.models,
        provider=fact.provider,
        membership=fact.membership_id,
        kinds=disputes if fact.kind in disputes else (fact.kind,),
        reference=fact.id,
    ).scalar()
    return found


def wait(tx: Transaction, fact: Fact) -> None:
    """Say that facts wait under a membership. One statement."""
    _set_outcome(
        tx.db,
        tx.models,
        row_kind=Kind.membership,
        row_provider=fact.provider,
        row_id=fact.membership_id,
        new_outcome=WAITING,
    )


def adopt(tx: Transaction, provider: str, membership_id: str, payment_id: str) -> None:
    """Move the facts that wait under a membership to its payment."""
    for row in _waiting(tx.db, tx.models, provider=provider, membership=membership_id).all():
        _drop(tx.db, tx.models, row_provider=provider, row_kind=row.kind, row_id=row.event_id)
        record(
            tx,
            Fact(
                kind=Kind(row.kind),
                provider=provider,
                payment_id=payment_id,
                membership_id=membership_id,
                id=row.reference or payment_id,
                reason=row.outcome,
                amount_cents=row.amount_cents,
                base_cents=row.base_cents,
                occurred_at=as_utc(row.occurred_at),
            ),
        )
    _set_outcome(
        tx.db,
        tx.models,
        row_kind=Kind.membership,
        row_provider=provider,
        row_id=membership_id,
        new_outcome=KNOWN,
    )


class Facts:
    """All that is known of one payment."""

    def __init__(self, rows: t.Sequence[t.Any]) -> None:
        self._rows = rows

    def due_back(self, row: Row, bonus_cents: int) -> fractions.Fraction:
        """Return which part of a reward all facts together take back, from 0 to 1.

        Refunds are added up before anything is rounded, so that three thirds are the whole. An
        open dispute, a refund without amount and a reviewer's no take everything.

        :param bonus_cents: the referrer's reward for the payment, which a refund without a base
            is in cents of.
        """
        whole = fractions.Fraction(1)
        refunds = [fact for fact in self._rows if fact.kind == Kind.refund]
        if (
            self._has(Kind.void, row)
            or any(fact.amount_cents is None for fact in refunds)
            or self._has_open_dispute()
        ):
            return whole
        parts = [
            # Without a bonus of the referrer's, any cents of it are all of it.
            fractions.Fraction(
                fact.amount_cents, fact.base_cents or bonus_cents or fact.amount_cents
            )
            for fact in refunds
        ]
        return min(whole, sum(parts, start=fractions.Fraction(0)))

    def is_in_review(self, row: Row) -> bool:
        """Whether a reward was held and nobody has let it go."""
        return self._has(Kind.hold, row) and not self._has(Kind.release, row)

    def _has(self, kind: Kind, row: Row) -> bool:
        return any(fact.kind == kind and fact.reference == str(row.id) for fact in self._rows)

    def _has_open_dispute(self) -> bool:
        opened, won = (
            {fact.reference: as_utc(fact.occurred_at) for fact in self._rows if fact.kind == kind}
            for kind in (Kind.dispute_opened, Kind.dispute_won)
        )
        return any(id not in won or won[id] < at for id, at in opened.items())


def of_payment(tx: Transaction, provider: str, payment_id: str) -> Facts:
    """Return all facts of a payment. One statement."""
    return Facts(_facts(tx.db, tx.models, provider=provider, payment=payment_id).all())


def cents(part: fractions.Fraction, of_cents: int) -> int:
    """Return a part of an amount, rounded half up."""
    return int(part * of_cents + fractions.Fraction(1, 2))


def refuse_ambiguous(fact: Fact) -> None:
    """Refuse a part of a bonus that may be a repetition or a second one.

    :raises ReferralError: always.
    """
    raise ReferralError(
        f"A refund of {fact.amount_cents} cents cannot be told from the one before: pass "
        "refund_id, the provider's id of each refund. Nothing was changed."
    )


def _event_id(subject: str, id: str | None, *, by_membership: bool = False) -> str:
    # The length makes it unambiguous: both ids come from outside and may hold any character.
    return f"{'m' if by_membership else 'p'}{len(subject)}:{subject}:{'' if id is None else id}"


def _key(models: Models) -> sa.ColumnElement[bool]:
    event = models.ReferralEvent.__table__.c
    return sa.and_(
        event.provider == sql.parameter("row_provider", event.provider),
        event.kind == sql.parameter("row_kind", event.kind),
        event.event_id == sql.parameter("row_id", event.event_id),
    )


def _upsert(models: Models, dialect: str, rows: list[dict[str, t.Any]]) -> t.Any:
    event = models.ReferralEvent.__table__
    # Not DO NOTHING: the update that changes nothing takes the row's lock and returns the row.
    return (
        sql.insert(dialect, event)
        .values(rows)
        .on_conflict_do_update(
            index_elements=[event.c.provider, event.c.kind, event.c.event_id],
            set_={"outcome": event.c.outcome},
        )
        .returning(event.c.kind, event.c.outcome)
    )


@sql.statement
def _claim_both(models: Models, dialect: str) -> t.Any:
    membership, payment = _new("membership"), _new("payment")
    common = {"provider": _new("provider"), "membership_id": membership}
    return _upsert(
        models,
        dialect,
        [
            {
                **common,
                "kind": sa.literal_column(f"'{Kind.membership}'"),
                "event_id": membership,
                "payment_id": sa.null(),
                "outcome": sa.literal_column(f"'{KNOWN}'"),
            },
            {
                **common,
                "kind": sa.literal_column(f"'{Kind.payment}'"),
                "event_id": payment,
                "payment_id": payment,
                "outcome": _new("outcome"),
            },
        ],
    )


@sql.statement
def _claim(models: Models, dialect: str) -> t.Any:
    row = {
        "provider": _new("provider"),
        "kind": _new("kind"),
        "event_id": _new("id"),
        "outcome": sa.literal_column(f"'{KNOWN}'"),
    }
    return _upsert(models, dialect, [row])


def _new(name: str) -> sa.BindParameter[str]:
    # A name of its own: those of columns are taken in an INSERT.
    return sa.bindparam(f"new_{name}", type_=sa.Text())


@sql.statement
def _set_outcome(models: Models, dialect: str) -> sa.Update:
    event = models.ReferralEvent.__table__
    new = sa.bindparam("new_outcome", type_=sa.Text())
    return sa.update(event).where(_key(models)).values(outcome=new)


@sql.statement
def _record(models: Models, dialect: str) -> t.Any:
    event = models.ReferralEvent.__table__
    columns = {
        "provider": "provider",
        "kind": "kind",
        "event_id": "id",
        "payment_id": "payment",
        "membership_id": "membership",
        "reference": "reference",
        "outcome": "reason",
        "amount_cents": "amount",
        "base_cents": "base",
        "occurred_at": "occurred_at",
    }
    values = {
        column: sql.parameter(f"new_{name}", event.c[column]) for column, name in columns.items()
    }
    insert = sql.insert(dialect, event).values(values)
    disputes = (Kind.dispute_opened, Kind.dispute_won)
    return insert.on_conflict_do_update(
        index_elements=[event.c.provider, event.c.kind, event.c.event_id],
        set_={"occurred_at": insert.excluded.occurred_at},
        where=sa.and_(
            event.c.kind.in_(disputes), event.c.occurred_at < insert.excluded.occurred_at
        ),
    ).returning(event.c.event_id)


@sql.statement
def _of_membership(models: Models, dialect: str) -> sa.Select[t.Any]:
    event = models.ReferralEvent.__table__.c
    kinds = sa.bindparam("kinds", type_=event.kind.type, expanding=True)
    return (
        sa.select(event.payment_id)
        .where(
            event.provider == sql.parameter("provider", event.provider),
            event.membership_id == sql.parameter("membership", event.membership_id),
            event.kind.in_(kinds),
            event.reference == sql.parameter("reference", event.reference),
            event.payment_id.is_not(None),
        )
        .limit(1)
    )


@sql.statement
def _waiting(models: Models, dialect: str) -> sa.Select[t.Any]:
    event = models.ReferralEvent.__table__.c
    return sa.select(models.ReferralEvent.__table__).where(
        event.provider == sql.parameter("provider", event.provider),
        event.membership_id == sql.parameter("membership", event.membership_id),
        event.payment_id.is_(None),
        event.kind.in_((Kind.refund, Kind.dispute_opened, Kind.dispute_won)),
    )


@sql.statement
def _drop(models: Models, dialect: str) -> sa.Delete:
    return sa.delete(models.ReferralEvent.__table__).where(_key(models))


@sql.statement
def _facts(models: Models, dialect: str) -> sa.Select[t.Any]:
    event = models.ReferralEvent.__table__.c
    return sa.select(
        event.kind, event.reference, event.amount_cents, event.base_cents, event.occurred_at
    ).where(
        event.provider == sql.parameter("provider", event.provider),
        event.payment_id == sql.parameter("payment", event.payment_id),
        event.kind.not_in((Kind.payment, Kind.membership)),
    )
