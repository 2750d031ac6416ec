"""Station 3, who may be bound: nobody by himself, in a circle, after the window, or as a customer.

All that decides is read in one row, under the locks that keep it so.
"""

from __future__ import annotations

import datetime as dt
import functools
import typing as t

import sqlalchemy as sa

from . import clicks
from . import codes
from . import disabled
from .clicks import Click
from .clicks import Touch
from .clock import as_utc
from .clock import SKEW
from .clock import WESTERNMOST
from .clock import ZONE_STEP
from .db import sql
from .db.models import Models
from .results import AttributionReason
from .results import ConversionReason
from .settings import Settings


def is_in_window(at: dt.datetime, now: dt.datetime, window: dt.timedelta) -> bool:
    """Whether a click still counts; one from the future never does."""
    return -SKEW <= now - at < window


def created_column(key: sa.Column[t.Any], name: str | None) -> sa.ColumnElement[t.Any] | None:
    """Return the column that says when accounts were made; None where there is no such one."""
    for column in key.table.columns:
        type_: t.Any = column.type
        # A type of the host's own may make anything of the moment; here it is read plainly.
        plain = type_.impl_instance if isinstance(type_, sa.TypeDecorator) else type_
        if column.name == name and isinstance(plain, sa.DateTime):
            return sa.type_coerce(column, plain)
    return None


class Found(t.NamedTuple):
    """All that decides about a user's attribution."""

    #: The user's key, as the user table returns it.
    user_id: t.Any
    #: Whether the owner of the code was referred by the user.
    is_circular: bool
    #: Whether a payment of the user's earned somebody something before.
    has_converted: bool
    #: When the user first paid and nobody had referred him, as far as that is kept.
    paid_at: dt.datetime | None
    #: When the account was made, where that is known.
    born: dt.datetime | None
    #: The key of the user whose code it is; None for nobody's.
    owner_id: t.Any
    #: The owner's generated code, which clicks refer to.
    owner_code: str | None
    #: Whether it is switched off.
    is_disabled: bool
    #: Of the visit's click; None where it is no more.
    click_code: str | None
    #: When it was bound, also where that account is gone.
    click_bound_at: dt.datetime | None
    clicked_at: dt.datetime | None
    click_source: str | None
    #: What the user is bound by.
    bound: Click | None


def refusal(
    found: Found,
    models: Models,
    settings: Settings,
    touch: Touch | None,
    code: str | None,
    now: dt.datetime,
) -> AttributionReason | None:
    """Return why a user may not be bound, or None.

    :param touch: the visit that is to be bound, or None.
    :param code: the code that was typed, or None.
    """
    if found.owner_id == found.user_id:
        return AttributionReason.self_referral
    if found.is_circular:
        return AttributionReason.circular
    if found.is_disabled:
        return AttributionReason.disabled
    window = dt.timedelta(seconds=settings.cookie_max_age)
    by_visit = touch is not None and code is None
    clicked_at = found.clicked_at and as_utc(found.clicked_at)
    if by_visit and clicked_at is not None and not is_in_window(clicked_at, now, window):
        return AttributionReason.window_over
    if _is_customer(found, touch, code):
        return AttributionReason.existing_account
    oldest = touch.at if touch is not None and by_visit else now - window
    if found.born is not None:
        is_old = _existed_before(oldest, found.born, now)
    else:
        # Where accounts have dates, one without is of a time before they had.
        is_old = created_column(models.user_key, settings.user_created_column) is not None
    return AttributionReason.existing_account if is_old else None


def _is_customer(found: Found, touch: Touch | None, code: str | None) -> bool:
    """Whether the user had paid before the visit; by a code that was only typed, at any time."""
    if found.has_converted or found.paid_at is None:
        return found.has_converted
    if touch is None or code not in (None, touch.code):
        return True
    return as_utc(found.paid_at) < touch.at - SKEW


def _existed_before(moment: dt.datetime, born: dt.datetime, now: dt.datetime) -> bool:
    """Whether an account is older than a moment, whatever zone its date was written in.

    A date without a zone may be UTC or, from ``datetime.now``, any server's local time. West of
    UTC that looks older than it is: the account is no older than the moment if there is an offset
    by which it was made between then and now.
    """
    earliest, written = moment - SKEW, as_utc(born)
    if written >= earliest:
        return False
    if born.tzinfo is not None:
        return True
    # The first of the possible times that is not too early.
    offset = -((written - earliest) // ZONE_STEP) * ZONE_STEP
    return offset > WESTERNMOST or written + offset > now + SKEW


def look_up(
    db: sa.Connection,
    models: Models,
    created_name: str | None,
    user_id: t.Any,
    code: str,
    touch: Touch | None = None,
) -> Found | None:
    """Lock the user for attribution, and read all that decides about it in one row."""
    row = _looking_up(created_name)(
        db,
        models,
        user=user_id,
        lock=f"flask_referral.attribution:{user_id}",
        code=code,
        click=touch and touch.click_id,
    ).first()
    if row is None:
        return None
    # The user's bound click comes last, and after it what the locks return.
    decisive, rest = row[: len(Found._fields) - 1], row[len(Found._fields) - 1 :]
    bound = Click._make(rest[: len(Click._fields)]) if rest[0] is not None else None
    return Found._make((*decisive, bound))


# The column is a setting, and several applications may share the models.
@functools.cache
def _looking_up(created_name: str | None) -> sql.Statement:
    def build(models: Models, dialect: str) -> sa.Executable:
        key = models.user_key
        bound = models.ReferralClick.__table__.alias("bound")
        seen = models.ReferralClick.__table__.alias("seen")
        owner = models.ReferralCode.__table__
        created = created_column(key, created_name)
        event = models.ReferralEvent.__table__.c
        conversion = models.ReferralConversion.__table__.c
        paid_at = sa.func.min(
            sa.func.coalesce(event.occurred_at, event.received_at), type_=event.received_at.type
        )
        unreferred = sa.select(paid_at).where(
            event.user_id == key, event.outcome == sql.word(ConversionReason.not_referred)
        )
        columns = [
            key,
            is_circular(models, owner.c.user_id, key),
            sa.exists().where(conversion.referred_user_id == key),
            unreferred.scalar_subquery(),
            created if created is not None else sa.null(),
            owner.c.user_id,
            owner.c.code,
            disabled.is_disabled(models, owner.c.user_id),
            seen.c.referral_code,
            seen.c.bound_at,
            seen.c.clicked_at,
            seen.c.source,
            *clicks.columns(bound),
        ]
        if dialect == "postgresql":
            name = sa.func.hashtextextended(sa.bindparam("lock", type_=sa.Text()), sql.NO_SEED)
            columns.append(sa.cast(sa.func.pg_advisory_xact_lock(name), sa.Text))
            columns.append(_pair_lock(key, owner.c.user_id))
        joined = (
            sa.join(key.table, bound, bound.c.referred_user_id == key, isouter=True)
            .join(seen, seen.c.id == sql.parameter("click", seen.c.id), isouter=True)
            .join(owner, codes.leads_to(models), isouter=True)
        )
        is_it = key == sql.parameter("user", key)
        return sa.select(*columns).select_from(joined).where(is_it)

    return sql.statement(build)


def is_circular(
    models: Models, referrer: sa.ColumnElement[t.Any], user: sa.ColumnElement[t.Any]
) -> sa.ColumnElement[bool]:
    """Whether the referrer was referred by the user."""
    theirs = models.ReferralClick.__table__.alias("theirs").c
    return sa.exists().where(theirs.referred_user_id == referrer, theirs.referrer_user_id == user)


def _pair_lock(
    one: sa.ColumnElement[t.Any], other: sa.ColumnElement[t.Any]
) -> sa.ColumnElement[t.Any]:
    """A lock of two users, whichever comes first: they cannot refer each other at once."""
    seed = sa.cast(sa.literal_column("1"), sa.BigInteger)
    hashes = [
        sa.func.pg_catalog.hashtextextended(sa.cast(key, sa.Text), seed, type_=sa.BigInteger)
        for key in (one, other)
    ]
    return sa.cast(
        sa.func.pg_catalog.pg_advisory_xact_lock(hashes[0].bitwise_xor(hashes[1])), sa.Text
    )
