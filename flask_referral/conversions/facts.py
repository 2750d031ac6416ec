"""What happened to a payment besides its purchase: refunds, disputes, a reviewer's decisions.

Facts arrive in any order, more than once, and before the payment they belong to. Each is kept
once in ``referral_events``, and how much of a reward is to be taken back is computed from all of
them (:meth:`Facts.due_back`), so that every order of arrival ends in the same amount.

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

import sqlalchemy as sa

from ..clock import as_utc
from ..db import sql
from ..db.models import Models
from ..texts import cleaned_text
from .rewards import Row
from .transaction import Transaction


class Kind(enum.StrEnum):
    """What a row of ``referral_events`` that is no delivery says."""

    #: This payment is known; see :mod:`~flask_referral.conversions.claims`.
    payment = enum.auto()
    #: This membership is known.
    membership = enum.auto()
    #: This id is one of a payment's; see :mod:`~flask_referral.conversions.aliases`.
    alias = enum.auto()
    refund = enum.auto()
    #: How much was refunded in all, as the provider sums it up.
    refund_sum = enum.auto()
    #: A refund did not go through after all.
    refund_failed = enum.auto()
    #: Also a dispute that was lost or closed: the money is gone either way.
    dispute_opened = enum.auto()
    dispute_won = enum.auto()
    #: A reviewer gave a reward up.
    void = enum.auto()
    #: A reward was held for a review; and a reviewer let it go.
    hold = enum.auto()
    release = enum.auto()


#: The kinds that tell of one dispute.
DISPUTES = (Kind.dispute_opened, Kind.dispute_won)
#: What happened to the money of a payment.
_MONEY = (Kind.refund, Kind.refund_sum, Kind.refund_failed, *DISPUTES)
_KEPT = (*_MONEY, Kind.void, Kind.hold, Kind.release)
#: What a refund is a part of while nobody has told.
NOT_TOLD = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One thing that happened.

    :param payment_id: None where the provider names the membership only, and
    :param membership_id: None where it names the payment only.
    :param id: the provider's id of the refund or dispute, or a reward's; None: the payment's.
    :param reason: why, in the caller's words.
    :param amount_cents: of a refund: cents of the bonus or, with ``base_cents``, of the money
        paid; None for everything.
    :param base_cents: what was paid, in the same unit; :data:`NOT_TOLD` until the purchase tells.
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


def record(tx: Transaction, fact: Fact) -> bool:
    """Keep a fact; return whether it is news. One statement.

    A dispute's states are in the order in which they occurred, so a later one of a kind replaces
    an earlier one, as does a later sum of refunds. A refund of everything replaces one of a part,
    where neither has an id.
    """
    if fact.payment_id is None:
        assert fact.membership_id is not None
        reference, event_id = fact.id, _event_id("m", fact.membership_id, fact.id or "")
    else:
        reference = fact.payment_id if fact.id is None else fact.id
        event_id = _event_id("p", fact.payment_id, reference)
    new = _record(
        tx.db,
        tx.models,
        new_provider=fact.provider,
        new_kind=fact.kind,
        new_id=event_id,
        new_payment=fact.payment_id,
        new_membership=fact.membership_id,
        new_reference=reference,
        new_reason=cleaned_text(fact.reason),
        new_amount=fact.amount_cents,
        new_base=fact.base_cents,
        new_occurred_at=fact.occurred_at,
    ).first()
    return new is not None


def adopt(tx: Transaction, provider: str, membership_id: str, payment_id: str) -> None:
    """Move the facts that wait under a membership to its payment."""
    for row in _take_waiting(tx.db, tx.models, provider=provider, membership=membership_id):
        _keep(tx, provider, payment_id, row, row.reference)


def move(tx: Transaction, provider: str, old: str, new: str) -> None:
    """Move what happened to a payment's money to another id of it."""
    for row in _take_of_payment(tx.db, tx.models, provider=provider, payment=old):
        _keep(tx, provider, new, row, None if row.reference == old else row.reference)


def _keep(tx: Transaction, provider: str, payment_id: str, row: t.Any, id: str | None) -> None:
    """Keep what was taken under its payment, where some may have come by that name too."""
    record(
        tx,
        Fact(
            kind=Kind(row.kind),
            provider=provider,
            payment_id=payment_id,
            membership_id=row.membership_id,
            id=id,
            reason=row.outcome,
            amount_cents=row.amount_cents,
            base_cents=row.base_cents,
            occurred_at=as_utc(row.occurred_at),
        ),
    )


def payment_of(tx: Transaction, fact: Fact) -> str | None:
    """Return the payment that a fact about a membership is about, or None. One statement.

    It is the one that other facts of the same refund or dispute are about, else the newest that
    qualified.
    """
    payment_id: str | None = _payment_of(
        tx.db,
        tx.models,
        provider=fact.provider,
        membership=fact.membership_id,
        kinds=DISPUTES if fact.kind in DISPUTES else (fact.kind,),
        reference=fact.id,
    ).scalar()
    return payment_id


class Facts:
    """All that is known of one payment."""

    def __init__(self, rows: t.Sequence[t.Any]) -> None:
        self._rows = rows

    @property
    def is_unmeasured(self) -> bool:
        """Whether there are refunds in cents of a bonus that was not known when they came."""
        return any(
            fact.amount_cents is not None and fact.base_cents is None
            for fact in self._of(Kind.refund)
        )

    def due_back(self, row: Row) -> fractions.Fraction:
        """Return which part of a reward all facts together take back, from 0 to 1.

        Refunds are added up before anything is rounded, so that three thirds are the whole. An
        open dispute, a refund without amount and a reviewer's no take everything. A provider may
        tell of single refunds, of their sum, or of both: what is more counts.
        """
        whole = fractions.Fraction(1)
        failed = {fact.reference: fact for fact in self._of(Kind.refund_failed)}
        refunds = [fact for fact in self._of(Kind.refund) if fact.reference not in failed]
        if (
            self._has(Kind.void, row)
            or any(fact.amount_cents is None for fact in refunds)
            or self._has_open_dispute()
        ):
            return whole
        sums = fractions.Fraction(0)
        for told in self._of(Kind.refund_sum):
            # The sum of a later moment knows already.
            later = [each for each in failed.values() if each.occurred_at >= told.occurred_at]
            gone = told.amount_cents - sum(each.amount_cents or 0 for each in later)
            sums += _part(max(0, gone), told.base_cents)
        parts = [_part(each.amount_cents, each.base_cents) for each in refunds]
        return min(whole, max(sums, sum(parts, start=fractions.Fraction(0))))

    def is_in_review(self, row: Row) -> bool:
        """Whether a reward was held and nobody has let it go."""
        return self._has(Kind.hold, row) and not self._has(Kind.release, row)

    def _of(self, kind: Kind) -> list[t.Any]:
        return [fact for fact in self._rows if fact.kind == kind]

    def _has(self, kind: Kind, row: Row) -> bool:
        return any(fact.reference == str(row.id) for fact in self._of(kind))

    def _has_open_dispute(self) -> bool:
        opened, won = (
            {fact.reference: as_utc(fact.occurred_at) for fact in self._of(kind)}
            for kind in DISPUTES
        )
        return any(id not in won or won[id] < at for id, at in opened.items())


def of_payment(tx: Transaction, provider: str, payment_id: str) -> Facts:
    """Return all facts of a payment. One statement."""
    return Facts(_facts(tx.db, tx.models, provider=provider, payment=payment_id))


def measure(tx: Transaction, provider: str, payment_id: str, bonus_cents: int) -> None:
    """Say what refunds in cents of the bonus are a part of. One statement."""
    _measure(tx.db, tx.models, row_provider=provider, row_payment=payment_id, new_base=bonus_cents)


def tell_total(tx: Transaction, provider: str, payment_id: str, total_cents: int) -> None:
    """Say what refunds whose payment nobody had told of are a part of. One statement."""
    _tell_total(
        tx.db, tx.models, row_provider=provider, row_payment=payment_id, new_base=total_cents
    )


def _part(cents: int, base: int | None) -> fractions.Fraction:
    # Without a bonus of the referrer's, any cents of it are all of it; so are those of a payment
    # that nobody has told of.
    return fractions.Fraction(cents, base or cents) if cents else fractions.Fraction(0)


def _event_id(prefix: str, subject: str, reference: str) -> str:
    # The length makes it unambiguous: both ids come from outside and may hold any character.
    return f"{prefix}{len(subject)}:{subject}:{reference}"


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
        # A name of its own: those of columns are taken in an INSERT.
        column: sql.parameter(f"new_{name}", event.c[column])
        for column, name in columns.items()
    }
    insert = sql.insert(dialect, event).values(values)
    new = insert.excluded
    has_no_id = sa.func.coalesce(event.c.reference, "") == sa.func.coalesce(event.c.payment_id, "")
    is_later = event.c.occurred_at < new.occurred_at
    is_more = sa.and_(
        event.c.occurred_at == new.occurred_at, event.c.amount_cents < new.amount_cents
    )
    is_news = sa.or_(
        sa.and_(event.c.kind.in_(sql.words(*DISPUTES)), is_later),
        sa.and_(event.c.kind == sql.word(Kind.refund_sum), sa.or_(is_later, is_more)),
        sa.and_(has_no_id, event.c.amount_cents.is_not(None), new.amount_cents.is_(None)),
    )
    return insert.on_conflict_do_update(
        index_elements=[event.c.provider, event.c.kind, event.c.event_id],
        set_={
            "occurred_at": new.occurred_at,
            "amount_cents": new.amount_cents,
            "base_cents": new.base_cents,
        },
        where=is_news,
    ).returning(event.c.event_id)


@sql.statement
def _measure(models: Models, dialect: str) -> sa.Update:
    event = models.ReferralEvent.__table__
    return (
        sa.update(event)
        .where(
            event.c.provider == sql.parameter("row_provider", event.c.provider),
            event.c.payment_id == sql.parameter("row_payment", event.c.payment_id),
            event.c.kind == sql.word(Kind.refund),
            event.c.amount_cents.is_not(None),
            event.c.base_cents.is_(None),
        )
        .values(base_cents=sql.parameter("new_base", event.c.base_cents))
    )


@sql.statement
def _tell_total(models: Models, dialect: str) -> sa.Update:
    event = models.ReferralEvent.__table__
    return (
        sa.update(event)
        .where(
            event.c.provider == sql.parameter("row_provider", event.c.provider),
            event.c.payment_id == sql.parameter("row_payment", event.c.payment_id),
            event.c.kind.in_(sql.words(Kind.refund, Kind.refund_sum)),
            event.c.base_cents == NOT_TOLD,
        )
        .values(base_cents=sql.parameter("new_base", event.c.base_cents))
    )


@sql.statement
def _payment_of(models: Models, dialect: str) -> sa.Select[t.Any]:
    event, reward = models.ReferralEvent.__table__.c, models.ReferralReward.__table__.c
    is_known = sa.exists().where(
        event.provider == reward.provider,
        event.payment_id == reward.payment_id,
        event.kind.in_(sa.bindparam("kinds", type_=sa.Text(), expanding=True)),
        event.reference == sql.parameter("reference", event.reference),
    )
    return (
        sa.select(reward.payment_id)
        .where(
            reward.provider == sql.parameter("provider", reward.provider),
            reward.membership_id == sql.parameter("membership", reward.membership_id),
        )
        .order_by(
            sa.case((is_known, 0), else_=1),
            sa.case((reward.number == 1, 0), else_=1),
            reward.created_at.desc(),
            reward.id,
        )
        .limit(1)
    )


@sql.statement
def _take_waiting(models: Models, dialect: str) -> t.Any:
    event = models.ReferralEvent.__table__.c
    membership = event.membership_id == sql.parameter("membership", event.membership_id)
    return _taking(models, membership, event.payment_id.is_(None))


@sql.statement
def _take_of_payment(models: Models, dialect: str) -> t.Any:
    event = models.ReferralEvent.__table__.c
    return _taking(models, event.payment_id == sql.parameter("payment", event.payment_id))


def _taking(models: Models, *which: sa.ColumnElement[bool]) -> t.Any:
    event = models.ReferralEvent.__table__
    provider = event.c.provider == sql.parameter("provider", event.c.provider)
    is_money = event.c.kind.in_(sql.words(*_MONEY))
    return sa.delete(event).where(provider, *which, is_money).returning(*_told(event))


def _told(event: t.Any) -> t.Iterator[sa.Column[t.Any]]:
    names = "kind membership_id reference outcome amount_cents base_cents occurred_at"
    return (event.c[name] for name in names.split())


@sql.statement
def _facts(models: Models, dialect: str) -> sa.Select[t.Any]:
    event = models.ReferralEvent.__table__.c
    return sa.select(
        event.kind, event.reference, event.amount_cents, event.base_cents, event.occurred_at
    ).where(
        event.provider == sql.parameter("provider", event.provider),
        event.payment_id == sql.parameter("payment", event.payment_id),
        event.kind.in_(sql.words(*_KEPT)),
    )
