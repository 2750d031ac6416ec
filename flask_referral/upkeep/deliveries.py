"""What was kept of deliveries that wait goes: with the person, and with time.

Their rows stay, with ids and outcome: they say that the delivery has come.
"""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from ..conversions import aliases
from ..db import qualified
from ..payments.known import DELIVERY
from ..results import ConversionReason

if t.TYPE_CHECKING:
    from ..db.models import Models
BATCH = 1_000
#: By then whoever was going to mend something has done so.
KEPT_FOR = dt.timedelta(days=180)

_NOTHING: dict[str, t.Any] = {"user_id": None, "details": None}


def forget_user(connection: sa.Connection, models: Models, user_id: t.Any) -> int:
    """Remove what was kept of a user's purchases; return of how many deliveries. One statement.

    Those are meant whose buyer the user is or is named as, and those of payments and memberships
    that earned a reward.
    """
    event, reward = models.ReferralEvent.__table__, models.ReferralReward.__table__.c
    is_paid_by = sa.exists().where(
        reward.referred_user_id == user_id,
        reward.provider == event.c.provider,
        sa.or_(
            reward.payment_id == event.c.payment_id,
            event.c.payment_id.in_(aliases.ids_of(models, reward.provider, reward.payment_id)),
            reward.membership_id == event.c.membership_id,
        ),
    )
    is_own = sa.or_(
        event.c.user_id == user_id,
        event.c.details["user"].as_string() == str(user_id),
        is_paid_by,
    )
    waits = sa.and_(event.c.details.is_not(None), event.c.kind == DELIVERY)
    forget = sa.update(event).where(waits, is_own)
    return qualified.execute(connection, forget.values(_NOTHING)).rowcount


def count_old(
    connection: sa.Connection, models: Models, now: dt.datetime, window: dt.timedelta
) -> int:
    """Return of how many deliveries :func:`forget_old` would remove something. One statement."""
    is_old = _is_old(models, now, window)
    return int(qualified.execute(connection, sa.select(sa.func.count()).where(is_old)).scalar_one())


def forget_old(
    connection: sa.Connection,
    models: Models,
    now: dt.datetime,
    window: dt.timedelta,
    *,
    size: int = BATCH,
) -> t.Iterator[int]:
    """Remove what was kept of old deliveries, in batches that the caller commits.

    Old is one of :data:`KEPT_FOR`; and a purchase that nobody had referred, when the window in
    which its buyer could have been is over.

    :param window: how long a visit counts.
    :return: how many there were in each batch.
    """
    event = models.ReferralEvent.__table__
    key = (event.c.provider, event.c.kind, event.c.event_id)
    page = sa.select(*key).where(_is_old(models, now, window)).limit(size)
    while True:
        forget = sa.update(event).where(sa.tuple_(*key).in_(page), event.c.details.is_not(None))
        done = qualified.execute(connection, forget.values(_NOTHING)).rowcount
        if not done:
            return
        yield done


def _is_old(models: Models, now: dt.datetime, window: dt.timedelta) -> sa.ColumnElement[bool]:
    event, click = models.ReferralEvent.__table__.c, models.ReferralClick.__table__.c
    is_bound = sa.exists().where(click.referred_user_id == event.user_id)
    return sa.and_(
        event.details.is_not(None),
        event.kind == DELIVERY,
        sa.or_(
            event.received_at < now - KEPT_FOR,
            sa.and_(
                event.received_at < now - window,
                event.outcome == ConversionReason.not_referred,
                ~is_bound,
            ),
        ),
    )
