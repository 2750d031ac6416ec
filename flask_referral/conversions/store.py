"""What a purchase asks of the database, and what it writes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa

from .. import disabled
from .. import wallet
from ..clock import as_utc
from ..clock import SKEW
from ..db import sql
from ..db.models import GONE
from ..db.models import Models
from ..db.models import RewardRole
from ..db.models import RewardStatus
from . import rewards
from .facts import Kind
from .payment import Payment
from .rewards import Row
from .transaction import Transaction


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What is known before anything is locked."""

    referrer_id: t.Any
    code: str | None
    #: Whether the referrer's code is switched off.
    is_disabled: bool
    may_lock_rows: bool
    #: The user's key, as the user table returns it; None where there is no such user.
    user_id: t.Any
    #: The columns of the user's conversion, or None.
    conversion: dict[str, t.Any] | None
    #: When the user was bound to the referrer (UTC), where that is known, and the click it is by.
    bound_at: dt.datetime | None
    click_id: uuid.UUID | None
    #: Where that click came from; None: directly.
    source: str | None
    #: The highest number of a payment that is not taken back whole; 0 without one.
    last_number: int
    first_paid_at: dt.datetime | None
    #: What the payment's row says, or None.
    outcome: str | None


def look_up(tx: Transaction, referred_id: t.Any, payment: Payment) -> Look:
    """Return what is known of a user who pays, and of the payment. One statement."""
    row = _look(
        tx.db, tx.models, referred=referred_id, provider=payment.provider, payment=payment.id
    ).first()
    conversion = None
    if row.conversion_id is not None:
        keys = tx.models.ReferralConversion.__table__.c.keys()
        conversion = {key: getattr(row, f"{_OF_CONVERSION}{key}") for key in keys}
    return Look(
        referrer_id=row.referrer_user_id,
        code=row.referral_code,
        is_disabled=bool(row.is_disabled),
        may_lock_rows=bool(row.may_lock_rows),
        user_id=row.user_id,
        conversion=conversion,
        bound_at=row.bound_at and as_utc(row.bound_at),
        click_id=row.click_id,
        source=row.source,
        last_number=row.number,
        first_paid_at=row.first_paid_at and as_utc(row.first_paid_at),
        outcome=row.outcome,
    )


def count_since(tx: Transaction, referrer_id: t.Any, since: dt.datetime) -> int:
    """Return how many payments earned a referrer something since then. One statement."""
    return int(_count_since(tx.db, tx.models, user=referrer_id, since=since).scalar())


def sign_ups_before(tx: Transaction, look: Look) -> int:
    """Return how many users a referrer was given earlier on the day (UTC) of a binding.

    Also those who have gone since. One statement.
    """
    assert look.bound_at is not None
    day = midnight(look.bound_at)
    # A click is bound within the window, which lets the index find it.
    earliest = day - dt.timedelta(seconds=tx.settings.cookie_max_age) - SKEW
    values = {"user": look.referrer_id, "click": look.click_id, "bound": look.bound_at}
    found = _sign_ups_before(tx.db, tx.models, **values, day=day, earliest=earliest)
    return int(found.scalar())


def midnight(at: dt.datetime) -> dt.datetime:
    """Return when the day (UTC) of a moment began."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


class Stored(t.NamedTuple):
    """What :func:`store` has written."""

    #: Whether one of the beneficiaries has a shortfall.
    owes: bool
    #: Whether the wallets have their rows too.
    is_credited: bool


def store(tx: Transaction, look: Look, payment: Payment, rows: list[Row]) -> Stored | None:
    """Write the conversion, where there is none, the rewards, and what is due into the wallets.

    One statement on PostgreSQL. The wallets are left to the caller where that cannot be.

    :return: None where nothing was written, because what the look saw has changed.
    :raises WalletRefused: where a rule of the wallet's own says no.
    """
    first = rows[0]
    values = {
        "referred": first.referred_user_id,
        "referrer": first.user_id,
        "bound_code": look.code,
        "before": look.last_number,
        **{f"new_{name}": getattr(first, name) for name in _SHARED},
        **{f"new_id_{row.role}": row.id for row in rows},
        **{f"new_cents_{row.role}": row.cents for row in rows},
    }
    is_new = look.conversion is None
    if is_new:
        conversion = new_conversion(look, payment, first)
        of_conversion = {f"made_{key}": conversion[key] for key in _MADE}
        if tx.db.dialect.name != "sqlite":
            values |= of_conversion
        # Which has no INSERT inside a WITH.
        elif _insert_conversion(
            tx.db, tx.models, **{name: values[name] for name in _BOUND}, **of_conversion
        ).first():
            is_new = False
        else:
            return None
    entries = _entries(tx, rows)
    if not entries or tx.wallet is None:
        stored = _INSERTS[is_new, len(rows)](tx.db, tx.models, **values)
    else:
        key = (is_new, len(rows), len(entries))
        insert = sql.kept(tx.wallet.info, key, lambda: _rewards_insert(*key[:2], tx.wallet, key[2]))
        values |= wallet.parameters(tx.wallet, entries)
        with wallet.explaining_refusals(tx.wallet, entries):
            stored = insert(tx.db, tx.models, **values)
    return Stored(any(row.owes for row in stored), bool(entries)) if stored else None


def _entries(tx: Transaction, rows: list[Row]) -> list[wallet.Entry]:
    """Return what the wallets get by the statement that writes the rewards."""
    is_possible = (
        tx.wallet is not None
        and rows[0].status is RewardStatus.credited
        and tx.db.dialect.name == "postgresql"
        and wallet.is_plain(tx.wallet)
    )
    return rewards.bonuses(rows) if is_possible else []


def new_conversion(look: Look, payment: Payment, first: Row) -> dict[str, t.Any]:
    """Return the columns of the conversion that a user's first payment makes.

    :param first: the referrer's reward for it.
    """
    return {
        "id": first.conversion_id,
        "referrer_user_id": first.user_id,
        "referred_user_id": first.referred_user_id,
        "referral_code": look.code,
        "whop_membership_id": payment.membership_id,
        "bonus_cents": first.cents,
        "converted_at": first.created_at,
        "metadata_": payment.metadata or None,
    }


#: What a conversion has, apart from what comes from the bound click.
_MADE = ("id", "whop_membership_id", "bonus_cents", "metadata_", "converted_at")
_OF_CONVERSION = "conversion_"
#: The parameters of :func:`_bound`.
_BOUND = ("referred", "referrer", "bound_code", "before")
#: What all rewards of a payment have in common, apart from what comes from the bound click.
_SHARED = (
    "provider",
    "payment_id",
    "membership_id",
    "number",
    "status",
    "available_at",
    "credited_at",
    "created_at",
    "campaign",
    "source",
    "conversion_id",
)


def _live(models: Models, user: sa.BindParameter[t.Any]) -> sa.ColumnElement[bool]:
    """The rewards of a referred user's payments that are not taken back whole."""
    reward = models.ReferralReward.__table__.c
    return sa.and_(reward.referred_user_id == user, reward.status.not_in(sql.words(*GONE)))


@sql.statement
def _look(models: Models, dialect: str) -> sa.Select[t.Any]:
    click, conversion = models.ReferralClick.__table__, models.ReferralConversion.__table__
    reward, event = models.ReferralReward.__table__.c, models.ReferralEvent.__table__.c
    user = sa.bindparam("referred", type_=models.user_key.type)
    # Something to join to where the user was never referred.
    one = sa.select(sa.literal_column("1").label("one")).subquery()
    qualified = sa.case((reward.number == 1, reward.created_at))
    live = (
        sa.select(
            sa.func.coalesce(sa.func.max(reward.number), 0).label("number"),
            sa.func.max(qualified, type_=reward.created_at.type).label("first_paid_at"),
        )
        .where(_live(models, user))
        .subquery()
    )
    outcome = sa.select(event.outcome).where(
        event.provider == sql.parameter("provider", event.provider),
        event.kind == sql.word(Kind.payment),
        event.event_id == sql.parameter("payment", event.event_id),
    )
    return (
        sa.select(
            click.c.referrer_user_id,
            click.c.referral_code,
            click.c.bound_at,
            click.c.id.label("click_id"),
            click.c.source,
            disabled.is_disabled(models, click.c.referrer_user_id).label("is_disabled"),
            wallet.lockable(models, dialect).label("may_lock_rows"),
            sa.select(models.user_key)
            .where(models.user_key == user)
            .scalar_subquery()
            .label("user_id"),
            *(column.label(f"{_OF_CONVERSION}{key}") for key, column in conversion.c.items()),
            live.c.number,
            live.c.first_paid_at,
            outcome.scalar_subquery().label("outcome"),
        )
        .select_from(one)
        .join(live, sa.true())
        .outerjoin(click, click.c.referred_user_id == user)
        .outerjoin(conversion, conversion.c.referred_user_id == user)
    )


@sql.statement
def _count_since(models: Models, dialect: str) -> sa.Select[t.Any]:
    reward = models.ReferralReward.__table__.c
    return sa.select(sa.func.count()).where(
        reward.user_id == sql.parameter("user", reward.user_id),
        reward.role == sql.word(RewardRole.referrer),
        reward.created_at >= sql.parameter("since", reward.created_at),
    )


@sql.statement
def _sign_ups_before(models: Models, dialect: str) -> sa.Select[t.Any]:
    click = models.ReferralClick.__table__.c
    bound = sql.parameter("bound", click.bound_at)
    is_earlier = sa.or_(
        click.bound_at < bound,
        # Which of two of one moment was first must always be the same one.
        sa.and_(click.bound_at == bound, click.id < sql.parameter("click", click.id)),
    )
    return sa.select(sa.func.count()).where(
        click.referrer_user_id == sql.parameter("user", click.referrer_user_id),
        click.clicked_at >= sql.parameter("earliest", click.clicked_at),
        click.bound_at >= sql.parameter("day", click.bound_at),
        is_earlier,
    )


def _bound(models: Models, dialect: str) -> t.Any:
    """The binding that the look saw, if it is still so, locked: the code, then the click.

    In that order, which is the one of whoever removes a code with its clicks.
    """
    click, code = models.ReferralClick.__table__.c, models.ReferralCode.__table__.c
    reward = models.ReferralReward.__table__.c
    referred = sa.bindparam("referred", type_=models.user_key.type)
    owner = sa.select(code.code).where(code.code == sa.bindparam("bound_code", type_=sa.Text()))
    is_lateral = dialect == "postgresql"
    if is_lateral:
        owner = owner.with_for_update(read=True, key_share=True)
    locked_code = owner.subquery("code")
    last = (
        sa.select(sa.func.coalesce(sa.func.max(reward.number), 0))
        .where(_live(models, referred))
        .scalar_subquery()
    )
    binding = sa.select(
        # Locked: a purge may have given it another id since the look.
        click.id.label("click"),
        click.referrer_user_id.label("referrer"),
        click.referred_user_id.label("referred"),
    ).where(
        click.referral_code == locked_code.c.code,
        click.referred_user_id == referred,
        click.referrer_user_id == sa.bindparam("referrer", type_=models.user_key.type),
        last == sa.bindparam("before", type_=sa.Integer()),
    )
    if not is_lateral:
        return binding.add_columns(locked_code.c.code).cte("bound")
    locked = binding.with_for_update(key_share=True).lateral()
    return (
        sa.select(locked_code.c.code, locked)
        .select_from(locked_code.join(locked, sa.true()))
        .cte("bound")
    )


def _conversion_insert(models: Models, dialect: str, bound: t.Any) -> t.Any:
    conversion = models.ReferralConversion.__table__
    columns = {
        **{key: _typed(f"made_{key}", conversion.c[key], dialect) for key in _MADE},
        "referrer_user_id": bound.c.referrer,
        "referred_user_id": bound.c.referred,
        "referral_code": bound.c.code,
    }
    # WHERE, lest SQLite takes ON for the beginning of a join.
    source = sa.select(*columns.values()).select_from(bound).where(sa.true())
    return (
        sql.insert(dialect, conversion)
        .from_select(list(columns), source)
        .on_conflict_do_nothing()
        .returning(conversion.c.id)
    )


@sql.statement
def _insert_conversion(models: Models, dialect: str) -> t.Any:
    return _conversion_insert(models, dialect, _bound(models, dialect))


def _rewards_insert(
    is_new: bool, number: int, credited: sa.Table | None = None, entries: int = 0
) -> sql.Statement:
    """Return the INSERT of a payment's rewards, with its conversion where that is new.

    :param number: how many rewards it has.
    :param credited: the wallet that gets its rows in the same statement.
    :param entries: how many it gets.
    """

    def build(models: Models, dialect: str) -> t.Any:
        reward = models.ReferralReward.__table__
        bound = _bound(models, dialect)
        source = bound
        if is_new:
            conversion = _conversion_insert(models, dialect, bound).cte("conversion")
            source = bound.join(conversion, sa.true())
        shared = {name: _typed(f"new_{name}", reward.c[name], dialect) for name in _SHARED}
        beneficiaries = {
            RewardRole.referrer: bound.c.referrer,
            RewardRole.referred: bound.c.referred,
        }
        parts = []
        for role, user_id in list(beneficiaries.items())[:number]:
            columns = {
                **shared,
                "id": _typed(f"new_id_{role}", reward.c.id, dialect),
                "cents": _typed(f"new_cents_{role}", reward.c.cents, dialect),
                "role": sa.cast(sql.word(role), sa.Text()),
                "user_id": user_id,
                "referred_user_id": bound.c.referred,
                "click_id": bound.c.click,
            }
            parts.append(sa.select(*columns.values()).select_from(source))
        owed = reward.alias("owed").c
        names = ("referrer", "referred")[:number]
        users = [sa.bindparam(name, type_=models.user_key.type) for name in names]
        owes = sa.exists().where(
            sa.or_(*(owed.user_id == user for user in users)), owed.shortfall_cents > 0
        )
        insert = (
            sa.insert(reward)
            .from_select(list(columns), parts[0] if number == 1 else sa.union_all(*parts))
            .returning(reward.c.id, owes.label("owes"))
        )
        if credited is None:
            return insert
        stored = insert.cte("reward")
        is_stored = sa.exists(sa.select(stored.c.id))
        credits = [
            wallet.insert_where(credited, index, is_stored).cte(f"credit_{index}")
            for index in range(entries)
        ]
        return sa.select(stored.c.owes).add_cte(*credits)

    return sql.statement(build)


_INSERTS = {
    (is_new, number): _rewards_insert(is_new, number)
    for is_new in (True, False)
    for number in (1, 2)
}


def _typed(name: str, column: sa.Column[t.Any], dialect: str) -> sa.ColumnElement[t.Any]:
    value = sql.parameter(name, column)
    # What is selected has no column yet that would give PostgreSQL its type. SQLite has none.
    return sa.cast(value, column.type) if dialect == "postgresql" else value
