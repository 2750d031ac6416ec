"""Rewards: what one payment earned one beneficiary, and how that gets into a wallet.

Every function here works on one reward of either role; who the beneficiary is makes no
difference. The wallets have to be locked.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa

from .. import wallet
from ..clock import as_utc
from ..db import sql
from ..db.entities import expire
from ..db.models import Models
from ..db.models import PAID
from ..db.models import RewardRole
from ..db.models import RewardStatus
from ..events import ConversionCredited
from ..events import ConversionReversed
from ..events import Event
from ..wallet import ADJUSTMENT
from ..wallet import BONUS
from ..words import gettext_noop
from ..words import stored_gettext
from .transaction import Transaction

_CHANGING = ("reversed_cents", "shortfall_cents", "status", "available_at", "credited_at")
#: What wallets say of a credit, and of what was taken out of them, put back, or missing before.
_CREDITED = {
    RewardRole.referrer: gettext_noop("Referral bonus"),
    RewardRole.referred: gettext_noop("Welcome bonus"),
}
_TAKEN = {
    RewardRole.referrer: gettext_noop("Referral bonus taken back"),
    RewardRole.referred: gettext_noop("Welcome bonus taken back"),
}
_GIVEN = {
    RewardRole.referrer: gettext_noop("Referral bonus given back"),
    RewardRole.referred: gettext_noop("Welcome bonus given back"),
}
_TAKEN_LATE = {
    RewardRole.referrer: gettext_noop("Referral bonus taken back, missing until now"),
    RewardRole.referred: gettext_noop("Welcome bonus taken back, missing until now"),
}
#: All of them.
DESCRIPTIONS = tuple(
    sentence for kind in (_CREDITED, _TAKEN, _GIVEN, _TAKEN_LATE) for sentence in kind.values()
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of ``referral_rewards``; its fields are the table's columns, moments in UTC."""

    id: uuid.UUID
    conversion_id: uuid.UUID | None
    user_id: t.Any
    referred_user_id: t.Any
    role: RewardRole
    provider: str
    payment_id: str
    membership_id: str
    number: int
    cents: int
    reversed_cents: int = 0
    shortfall_cents: int = 0
    status: RewardStatus
    available_at: dt.datetime | None
    credited_at: dt.datetime | None
    created_at: dt.datetime
    campaign: str | None
    source: str | None
    click_id: uuid.UUID | None

    @property
    def is_paid(self) -> bool:
        """Whether it has been credited, be it taken back since."""
        return self.status in PAID

    @property
    def due_cents(self) -> int:
        """What it is worth after what was taken back of it."""
        return self.cents - self.reversed_cents

    def values(self) -> dict[str, t.Any]:
        """Return the columns and their values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def of(cls, row: t.Any) -> Row:
        """Return a row that was read."""
        values = row._asdict()
        for name in ("available_at", "credited_at", "created_at"):
            values[name] = values[name] and as_utc(values[name])
        values["role"] = RewardRole(values["role"])
        values["status"] = RewardStatus(values["status"])
        return cls(**values)


def of_payment(tx: Transaction, provider: str, payment_id: str) -> list[Row]:
    """Return what a payment earned, the referrer's reward first. One statement."""
    found = _of_payment(tx.db, tx.models, provider=provider, payment=payment_id)
    return [Row.of(row) for row in found]


def by_ids(tx: Transaction, ids: t.Sequence[uuid.UUID]) -> list[Row]:
    """Return the rewards that are still there, oldest first. One statement."""
    return [Row.of(row) for row in _by_ids(tx.db, tx.models, ids=ids)]


def lock(tx: Transaction, found: t.Sequence[Row]) -> list[Row]:
    """Lock the wallets of rewards, then read what became of them until then."""
    wallet.lock(tx.db, tx.models, {row.user_id for row in found})
    return by_ids(tx, [row.id for row in found])


def save(tx: Transaction, row: Row, **changes: t.Any) -> Row:
    """Change some columns of a reward. One statement."""
    changed = dataclasses.replace(row, **changes)
    _update(
        tx.db,
        tx.models,
        reward=row.id,
        **{f"new_{name}": getattr(changed, name) for name in _CHANGING},
    )
    expire(tx.session, tx.models.ReferralReward, row.id)
    return changed


def credit(
    tx: Transaction,
    rows: t.Sequence[Row],
    *,
    owes: bool | None = None,
    is_written: bool = False,
) -> None:
    """Write what rewards are worth into the wallets, and let these pay what they owe.

    :param rows: rewards of one moment; those of 0 cents write and tell nothing.
    :param owes: whether one of the beneficiaries has a shortfall; None: not known.
    :param is_written: whether the rows of the wallets are there already.
    """
    paying = [row for row in rows if row.due_cents]
    for row in paying:
        announce(tx, ConversionCredited, row, cents=row.due_cents)
    if tx.wallet is None or not paying:
        return
    if not is_written:
        wallet.credit(tx.db, tx.models, tx.wallet, bonuses(rows))
    if tx.settings.net_shortfall and owes is not False:
        for row in paying:
            _net(tx, row.user_id, row.due_cents)


def bonuses(rows: t.Sequence[Row]) -> list[wallet.Entry]:
    """Return what the wallets get of rewards."""
    return [_entry(row, row.due_cents, BONUS, _CREDITED) for row in rows if row.due_cents]


def take(tx: Transaction, row: Row, cents: int) -> int:
    """Take cents of a credited reward out of its wallet; return what was there."""
    if tx.wallet is None:
        return cents
    return wallet.debit(tx.db, tx.models, tx.wallet, _entry(row, -cents, ADJUSTMENT, _TAKEN))


def give_back(tx: Transaction, row: Row, cents: int) -> None:
    """Put cents of a credited reward into its wallet again."""
    if tx.wallet is None:
        return
    entry = _entry(row, cents, ADJUSTMENT, _GIVEN)
    wallet.credit(tx.db, tx.models, tx.wallet, [entry])
    if tx.settings.net_shortfall:
        _net(tx, row.user_id, cents)


def _net(tx: Transaction, user_id: t.Any, cents: int) -> None:
    """Take what is missing of earlier refunds out of a credit of ``cents``."""
    assert tx.wallet is not None
    for owed in [Row.of(row) for row in _short(tx.db, tx.models, user=user_id)]:
        wanted = min(cents, owed.shortfall_cents)
        if not wanted:
            break
        entry = _entry(owed, -wanted, ADJUSTMENT, _TAKEN_LATE)
        taken = wallet.debit(tx.db, tx.models, tx.wallet, entry)
        if taken:
            save(
                tx,
                owed,
                reversed_cents=owed.reversed_cents + taken,
                shortfall_cents=owed.shortfall_cents - taken,
            )
            missing = owed.shortfall_cents - taken
            announce(tx, ConversionReversed, owed, cents=taken, shortfall_cents=missing)
        cents -= taken


def _entry(
    row: Row, cents: int, type: str, descriptions: t.Mapping[RewardRole, str]
) -> wallet.Entry:
    metadata = {
        "provider": row.provider,
        "payment_id": row.payment_id,
        "membership_id": row.membership_id,
    }
    description = stored_gettext(descriptions[row.role])
    return wallet.Entry(row.user_id, cents, type, row.id, description, metadata)


def announce(tx: Transaction, event: t.Callable[..., Event], row: Row, **values: t.Any) -> None:
    """Tell of a reward when the transaction is committed."""
    tx.announce(
        event(
            reward_id=row.id,
            conversion_id=row.conversion_id,
            user_id=row.user_id,
            role=row.role,
            **values,
        )
    )


@sql.statement
def _of_payment(models: Models, dialect: str) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__
    return (
        sa.select(reward)
        .where(
            reward.c.provider == sql.parameter("provider", reward.c.provider),
            reward.c.payment_id == sql.parameter("payment", reward.c.payment_id),
        )
        # "referrer" before "referred".
        .order_by(reward.c.role.desc())
    )


@sql.statement
def _by_ids(models: Models, dialect: str) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__
    ids = sa.bindparam("ids", type_=reward.c.id.type, expanding=True)
    return (
        sa.select(reward)
        .where(reward.c.id.in_(ids))
        .order_by(reward.c.created_at, reward.c.role.desc(), reward.c.id)
    )


@sql.statement
def _short(models: Models, dialect: str) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__
    return (
        sa.select(reward)
        .where(
            reward.c.user_id == sql.parameter("user", reward.c.user_id),
            reward.c.shortfall_cents > 0,
        )
        .order_by(reward.c.created_at, reward.c.id)
    )


@sql.statement
def _update(models: Models, dialect: str) -> sa.Update:
    reward = models.ReferralReward.__table__
    values = {name: sql.parameter(f"new_{name}", reward.c[name]) for name in _CHANGING}
    return (
        sa.update(reward).where(reward.c.id == sql.parameter("reward", reward.c.id)).values(values)
    )
