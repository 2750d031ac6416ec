"""Which payments and memberships are known: rows of ``referral_events`` that can be locked.

A payment's row says which reward it earned; its insert, which cannot happen twice, is what keeps
a payment from being paid for twice. A membership's row says whether facts wait for its payment.
Locks are taken in this order: membership, payment, and then the wallets.
"""

from __future__ import annotations

import typing as t
import uuid

import sqlalchemy as sa

from .. import wallet
from ..db import sql
from ..db.models import Models
from .facts import Kind
from .transaction import Transaction

#: Known, and has not earned anything.
KNOWN = "known"
#: Facts wait for the payment of this membership.
WAITING = "waiting"
_REWARDED = "rewarded:"


class Claim(t.NamedTuple):
    """What is known of a payment and its membership, both locked until the transaction ends."""

    #: The referrer's reward that the payment earned, or None.
    reward_id: uuid.UUID | None
    #: Whether the payment was known before, with or without a reward.
    was_known: bool
    #: Whether facts wait under the membership.
    has_waiting: bool


def claim(
    tx: Transaction,
    provider: str,
    payment_id: str,
    membership_id: str,
    reward_id: uuid.UUID,
    users: t.Collection[t.Any],
    *,
    may_lock_rows: bool,
) -> Claim:
    """Claim a payment for a reward, keep others from it, and lock the wallets of two users.

    One statement where these users' rows may be locked; two otherwise. The insert cannot happen
    twice: the reward that is stored is ``reward_id`` for one caller only. The membership's row is
    locked first, as by facts that name only the membership, and the wallets last.

    :raises ReferralError: as :func:`flask_referral.wallet.lock`.
    """
    values = {
        "new_provider": provider,
        "new_payment": payment_id,
        "new_membership": membership_id,
        "new_outcome": f"{_REWARDED}{reward_id}",
    }
    if may_lock_rows and tx.db.dialect.name != "sqlite":
        values |= zip(("user_0", "user_1"), users, strict=True)
        found = _claim_and_lock(tx.db, tx.models, **values)
        locked = [row.isolation for row in found if row.isolation is not None]
        for isolation in locked:
            wallet.check_isolation(isolation)
        payment, membership = found[0].payment, found[0].membership
        if len(locked) < len(users):
            wallet.lock(tx.db, tx.models, users, may_lock_rows=False)
    else:
        outcomes = {row.kind: row.outcome for row in _claim_both(tx.db, tx.models, **values)}
        payment, membership = outcomes[Kind.payment], outcomes[Kind.membership]
        wallet.lock(tx.db, tx.models, users, may_lock_rows=False)
    stored = rewarded_by(payment)
    return Claim(stored, stored != reward_id, membership == WAITING)


def lock_payment(tx: Transaction, provider: str, payment_id: str) -> uuid.UUID | None:
    """Make a payment known, and keep others from it. One statement.

    :return: the referrer's reward that it earned, or None.
    """
    found = _claim(
        tx.db, tx.models, new_kind=Kind.payment, new_provider=provider, new_id=payment_id
    )
    return rewarded_by(found[0].outcome)


def lock_membership(tx: Transaction, provider: str, membership_id: str) -> None:
    """Make a membership known, and keep others from it. One statement."""
    _claim(tx.db, tx.models, new_kind=Kind.membership, new_provider=provider, new_id=membership_id)


def set_reward(
    tx: Transaction, provider: str, payment_id: str, reward_id: uuid.UUID | None
) -> None:
    """Say which reward a claimed payment earned, or that it earned none. One statement."""
    outcome = KNOWN if reward_id is None else f"{_REWARDED}{reward_id}"
    _set_outcome(tx, Kind.payment, provider, payment_id, outcome)


def set_waiting(tx: Transaction, provider: str, membership_id: str, is_waiting: bool) -> None:
    """Say whether facts wait under a membership. One statement."""
    outcome = WAITING if is_waiting else KNOWN
    _set_outcome(tx, Kind.membership, provider, membership_id, outcome)


def rewarded_by(outcome: str | None) -> uuid.UUID | None:
    """Return the reward that the outcome of a payment tells of, or None."""
    if outcome is None or not outcome.startswith(_REWARDED):
        return None
    return uuid.UUID(outcome.removeprefix(_REWARDED))


def _set_outcome(tx: Transaction, kind: Kind, provider: str, id: str, outcome: str) -> None:
    values = {"row_kind": kind, "row_provider": provider, "row_id": id, "new_outcome": outcome}
    _update(tx.db, tx.models, **values)


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
def _claim_and_lock(models: Models, dialect: str) -> t.Any:
    claimed = _both(models, dialect).cte("claimed")

    def outcome(kind: Kind) -> sa.Label[t.Any]:
        return sa.func.max(sa.case((claimed.c.kind == sql.word(kind), claimed.c.outcome))).label(
            kind
        )

    # An aggregate, so that both are claimed before the first wallet is locked.
    both = sa.select(outcome(Kind.payment), outcome(Kind.membership)).subquery()
    ids = [sa.bindparam(f"user_{index}", type_=models.user_key.type) for index in (0, 1)]
    # What makes it wait for the claim.
    is_claimed = both.c.payment.is_not(None)
    locked = wallet.locked_rows(models, ids).where(is_claimed).lateral()
    return sa.select(both, locked.c.isolation).select_from(both.outerjoin(locked, sa.true()))


@sql.statement
def _claim_both(models: Models, dialect: str) -> t.Any:
    return _both(models, dialect)


def _both(models: Models, dialect: str) -> t.Any:
    membership, payment = _new("membership"), _new("payment")
    common = {"provider": _new("provider"), "membership_id": membership}
    return _upsert(
        models,
        dialect,
        [
            {
                **common,
                "kind": sql.word(Kind.membership),
                "event_id": membership,
                "payment_id": sa.null(),
                "outcome": sql.word(KNOWN),
            },
            {
                **common,
                "kind": sql.word(Kind.payment),
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
        "outcome": sql.word(KNOWN),
    }
    return _upsert(models, dialect, [row])


@sql.statement
def _update(models: Models, dialect: str) -> sa.Update:
    event = models.ReferralEvent.__table__
    return (
        sa.update(event)
        .where(
            event.c.provider == sql.parameter("row_provider", event.c.provider),
            event.c.kind == sql.parameter("row_kind", event.c.kind),
            event.c.event_id == sql.parameter("row_id", event.c.event_id),
        )
        .values(outcome=_new("outcome"))
    )


def _new(name: str) -> sa.BindParameter[str]:
    # A name of its own: those of columns are taken in an INSERT.
    return sa.bindparam(f"new_{name}", type_=sa.Text())
