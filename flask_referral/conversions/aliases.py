"""The ids of one payment: rows of ``referral_events`` that say which of them is meant.

A provider may name a payment by an invoice, an intent and a charge, and tell in one event that two
of them belong together. Every id that was told has a row whose ``payment_id`` is the one that
claims, facts and rewards use. The rows are locked before all others, in the order of the ids.
"""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .. import clock
from ..db import sql
from ..db.models import Models
from . import claims
from . import facts
from . import reversals
from . import rewards
from .facts import Fact
from .facts import Kind
from .rewards import Row
from .transaction import Transaction

_KNOWN = "known"


def resolve(
    tx: Transaction, provider: str, ids: t.Sequence[str], *, paid: t.Callable[[str], int | None]
) -> str:
    """Return the id under which a payment is kept, and remember that all these are its ids.

    Where they were thought to be of several payments, what happened to these is brought together
    under the one that earned first, else under the first of ``ids``. What the others earned is
    taken back: it is one payment.

    :param ids: the one to be preferred first.
    :param paid: tells what was paid for a payment, in its own currency's minor unit, or None.
    """
    known = {id: _remember(tx, provider, id) for id in sorted(set(ids))}
    found = list(dict.fromkeys(known[id] for id in ids))
    if len(found) == 1:
        return found[0]
    earned: dict[str, list[Row]] = {}
    for payment_id in sorted(found):
        if claims.lock_payment(tx, provider, payment_id) is not None:
            earned[payment_id] = rewards.of_payment(tx, provider, payment_id)
    kept = min(found, key=lambda id: _order(earned.get(id), found.index(id)))
    for payment_id in found:
        if payment_id != kept:
            _unite(tx, provider, payment_id, kept, has_earned=payment_id in earned)
    total = paid(kept)
    if total:
        facts.tell_total(tx, provider, kept, total)
    if rows := earned.get(kept):
        reversals.reconcile(tx, rewards.lock(tx, rows))
    return kept


def find(tx: Transaction, provider: str, id: str) -> str:
    """Return the id under which a payment is kept; the same one where nobody told another."""
    found: str | None = _find(tx.db, tx.models, provider=provider, id=id).scalar()
    return found or id


def ids_of(models: Models, provider: t.Any, payment: t.Any) -> sa.Select[t.Any]:
    """Return the query for the ids of a payment, given the one under which it is kept."""
    alias = models.ReferralEvent.__table__.alias("alias").c
    return sa.select(alias.event_id).where(
        alias.provider == provider, alias.payment_id == payment, alias.kind == sql.word(Kind.alias)
    )


def _order(rows: list[Row] | None, preference: int) -> tuple[bool, int, int]:
    # A later payment of the same buyer has a higher number. Rewards may have gone with their users.
    return rows is None, rows[0].number if rows else 0, preference


def _remember(tx: Transaction, provider: str, id: str) -> str:
    found = _upsert(tx.db, tx.models, new_provider=provider, new_id=id)
    payment_id: str = found.scalar()
    return payment_id


def _unite(tx: Transaction, provider: str, old: str, new: str, *, has_earned: bool) -> None:
    _redirect(tx.db, tx.models, row_provider=provider, row_payment=old, new_payment=new)
    facts.move(tx, provider, old, new)
    if has_earned:
        fact = Fact(
            kind=Kind.refund,
            provider=provider,
            payment_id=old,
            reason=f"the same payment as {new}",
            occurred_at=clock.now(),
        )
        reversals.apply(tx, fact)


@sql.statement
def _upsert(models: Models, dialect: str) -> t.Any:
    event = models.ReferralEvent.__table__
    id = sql.parameter("new_id", event.c.event_id)
    insert = sql.insert(dialect, event).values(
        provider=sql.parameter("new_provider", event.c.provider),
        kind=sql.word(Kind.alias),
        event_id=id,
        payment_id=id,
        outcome=sql.word(_KNOWN),
    )
    # Not DO NOTHING: the update that changes nothing takes the row's lock and returns the row.
    return insert.on_conflict_do_update(
        index_elements=[event.c.provider, event.c.kind, event.c.event_id],
        set_={"outcome": event.c.outcome},
    ).returning(event.c.payment_id)


@sql.statement
def _redirect(models: Models, dialect: str) -> sa.Update:
    event = models.ReferralEvent.__table__
    return (
        sa.update(event)
        .where(
            event.c.provider == sql.parameter("row_provider", event.c.provider),
            event.c.payment_id == sql.parameter("row_payment", event.c.payment_id),
            event.c.kind == sql.word(Kind.alias),
        )
        .values(payment_id=sql.parameter("new_payment", event.c.payment_id))
    )


@sql.statement
def _find(models: Models, dialect: str) -> sa.Select[t.Any]:
    event = models.ReferralEvent.__table__.c
    return sa.select(event.payment_id).where(
        event.provider == sql.parameter("provider", event.provider),
        event.kind == sql.word(Kind.alias),
        event.event_id == sql.parameter("id", event.event_id),
    )
