"""Station 3: a visit or a typed code is bound to the user who signed up.

One referrer for each user. The database's unique index says so, and no statement here runs into
it: users are bound one call at a time (an advisory transaction lock), by statements that do
nothing where the user is bound already.
"""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa
from sqlalchemy.orm import Session

from . import clicks
from . import signals
from .clicks import Touch
from .clock import as_utc
from .clock import SKEW
from .db import sql
from .errors import AttributionRefused
from .errors import UnknownUser
from .results import Attribution
from .results import AttributionReason

if t.TYPE_CHECKING:
    from .db.models import Models
    from .db.models import ReferralClickMixin
    from .settings import Settings


def attribute(
    db: Session | sa.Connection,
    models: Models,
    settings: Settings,
    user_id: t.Any,
    *,
    touch: Touch | None,
    code: str | None,
    now: dt.datetime,
) -> Attribution:
    """Bind a visit, or a typed code, to a user. At most two statements unless others race.

    :param user_id: the user's key; the row must be in the database already.
    :param touch: what the visitor's browser remembers, or None.
    :param code: a code that was typed, normalised; it goes before the visit. A visit through
        the same code is used for it.
    :raises UnknownUser: where there is no such user.
    """
    if touch is None and code is None:
        return Attribution(AttributionReason.no_visit)
    window = dt.timedelta(seconds=settings.cookie_max_age)
    if touch is not None and not is_in_window(touch.at, now, window):
        if code is None:
            return Attribution(AttributionReason.window_over, code=touch.code)
        touch = None
    sought = code if code is not None else t.cast(Touch, touch).code

    found = _look_up(db, models, settings, user_id, touch and touch.click_id, sought)
    if found is None:
        raise UnknownUser(
            f"There is no user {user_id!r} in table {models.user_key.table.fullname!r}; store and "
            "flush the user before attribute()."
        )
    if found.bound is not None:
        return _already(_click(db, models, found.bound))
    if found.owner is None:
        return Attribution(AttributionReason.unknown_code, code=sought or None)
    refused = _refusal(found, user_id, touch, code, now, window)
    if refused is not None:
        return Attribution(refused, referrer_id=found.owner, code=sought)

    click = None
    if touch is not None and _is_free(found, sought, now, window):
        click = _bind(db, models, user_id, touch.click_id, now)
    # The visit's row was bound for another user of the same computer, was purged, or never was.
    click = click or _insert_bound(db, models, user_id, sought, now)
    if click is not None:
        reason = AttributionReason.attributed
        return Attribution(reason, click, click.referrer_user_id, click.referral_code)
    return _lost_race(db, models, user_id, sought)


def announce(session: Session, user_id: t.Any, result: Attribution) -> None:
    """Send ``user_attributed`` when the session commits, if there is something to tell."""
    if result.reason is AttributionReason.attributed:
        signals.send_after_commit(
            session,
            signals.user_attributed,
            user_id=user_id,
            referrer_id=result.referrer_id,
            code=result.code,
        )


def reattribute(
    db: Session, models: Models, user_id: t.Any, code: str, *, now: dt.datetime
) -> tuple[str | None, ReferralClickMixin]:
    """Move a user to another code, as an operator's correction.

    The click that was bound stays, unbound, as a click of its referrer; the user gets a bound
    click of the new code.

    :return: the code that the user was bound to before, or None, and the new click.
    :raises AttributionRefused: for an unknown code, the user's own, the one that is bound
        already, and for a user who has a conversion.
    :raises UnknownUser: where there is no such user.
    """
    click = models.ReferralClick.__table__
    conversion = models.ReferralConversion.__table__.c
    found = _look_up(db, models, None, user_id, None, code)
    if found is None:
        raise UnknownUser(f"There is no user {user_id!r}.")
    if found.owner is None:
        raise AttributionRefused(f"There is no code {code!r}.")
    if found.owner == user_id:
        raise AttributionRefused(f"The code {code!r} is the user's own, and nobody refers himself.")
    if found.bound_code == code:
        raise AttributionRefused(f"The user is bound to the code {code!r} already.")
    # A purchase locks the binding, too: whether there was one is asked once it is locked.
    sql.begin_writing(models.connection(db))
    binding = sa.select(click.c.id).where(click.c.referred_user_id == user_id)
    _run(db, models, binding.with_for_update())
    converted = sa.select(sa.literal(1)).where(conversion.referred_user_id == user_id)
    if _run(db, models, converted).first() is not None:
        raise AttributionRefused(
            "The user has a conversion, whose bonus went to the referrer of that time; reverse "
            "it first if it was wrong. The binding stays as it is."
        )
    unbind = sa.update(click).where(click.c.referred_user_id == user_id)
    _run(db, models, unbind.values(referred_user_id=None, bound_at=None))
    new = _insert_bound(db, models, user_id, code, now)
    if new is None:
        raise AttributionRefused("The user was bound by somebody else just now; run this again.")
    announce(db, user_id, Attribution(AttributionReason.attributed, new, found.owner, code))
    return found.bound_code, new


def is_in_window(at: dt.datetime, now: dt.datetime, window: dt.timedelta) -> bool:
    """Whether a click still counts; one from the future never does."""
    return -SKEW <= now - at < window


def _refusal(
    found: t.Any,
    user_id: t.Any,
    touch: Touch | None,
    code: str | None,
    now: dt.datetime,
    window: dt.timedelta,
) -> AttributionReason | None:
    if found.owner == user_id:
        return AttributionReason.self_referral
    by_visit = touch is not None and code is None
    clicked_at = found.clicked_at and as_utc(found.clicked_at)
    if by_visit and clicked_at is not None and not is_in_window(clicked_at, now, window):
        return AttributionReason.window_over
    oldest = touch.at if touch is not None and by_visit else now - window
    if found.born is not None and as_utc(found.born) < oldest - SKEW:
        return AttributionReason.existing_account
    return None


def _is_free(found: t.Any, code: str, now: dt.datetime, window: dt.timedelta) -> bool:
    return (
        found.click_code == code
        and found.click_referred is None
        and is_in_window(as_utc(found.clicked_at), now, window)
    )


def _look_up(
    db: Session | sa.Connection,
    models: Models,
    settings: Settings | None,
    user_id: t.Any,
    click_id: t.Any,
    code: str,
) -> t.Any:
    """Lock the user for attribution, and read all that decides about it in one row."""
    key = models.user_key
    bound = models.ReferralClick.__table__.alias("bound")
    seen = models.ReferralClick.__table__.alias("seen")
    owner = models.ReferralCode.__table__
    columns = [
        bound.c.id.label("bound"),
        bound.c.referral_code.label("bound_code"),
        seen.c.referral_code.label("click_code"),
        seen.c.referred_user_id.label("click_referred"),
        seen.c.clicked_at,
        owner.c.user_id.label("owner"),
        _born(key, settings).label("born"),
    ]
    if _dialect(db, models) == "postgresql":
        label = f"flask_referral.attribution:{user_id}"
        lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(label, 0))
        columns.append(sa.cast(lock, sa.Text).label("locked"))
    joined = (
        sa.join(key.table, bound, bound.c.referred_user_id == key, isouter=True)
        .join(seen, seen.c.id == click_id, isouter=True)
        .join(owner, owner.c.code == code, isouter=True)
    )
    return _run(db, models, sa.select(*columns).select_from(joined).where(key == user_id)).first()


def _born(key: sa.Column[t.Any], settings: Settings | None) -> sa.ColumnElement[t.Any]:
    name = settings.user_created_column if settings is not None else None
    for column in key.table.columns:
        type_: t.Any = column.type
        # A type of the host's own may make anything of the moment; here it is read plainly.
        plain = type_.impl_instance if isinstance(type_, sa.TypeDecorator) else type_
        if column.name == name and isinstance(plain, sa.DateTime):
            return sa.type_coerce(column, plain)
    return sa.null()


def _bind(
    db: Session | sa.Connection,
    models: Models,
    user_id: t.Any,
    click_id: t.Any,
    now: dt.datetime,
) -> ReferralClickMixin | None:
    click = models.ReferralClick
    other = click.__table__.alias("other")
    statement = (
        sa.update(click)
        .where(
            click.id == click_id,
            click.referred_user_id.is_(None),
            click.referrer_user_id != user_id,
            ~sa.exists().where(other.c.referred_user_id == user_id),
        )
        .values(referred_user_id=user_id, bound_at=now)
        .returning(click)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return _first(db, statement)


def _insert_bound(
    db: Session | sa.Connection, models: Models, user_id: t.Any, code: str, now: dt.datetime
) -> ReferralClickMixin | None:
    click = models.ReferralClick.__table__
    owner = models.ReferralCode.__table__.c
    values = {
        "id": sa.literal(clicks.new_id(now), click.c.id.type),
        "referral_code": owner.code,
        "referrer_user_id": owner.user_id,
        "referred_user_id": sa.literal(user_id, click.c.referred_user_id.type),
        "clicked_at": sa.literal(now, click.c.clicked_at.type),
        "bound_at": sa.literal(now, click.c.bound_at.type),
    }
    row = sa.select(*values.values()).where(owner.code == code, owner.user_id != user_id)
    insert = clicks.insert_for(_dialect(db, models), models.ReferralClick)
    return _first(
        db,
        insert.from_select(list(values), row)
        .on_conflict_do_nothing()
        .returning(models.ReferralClick),
    )


def _lost_race(
    db: Session | sa.Connection, models: Models, user_id: t.Any, code: str
) -> Attribution:
    click = models.ReferralClick
    row = _first(db, sa.select(click).where(click.referred_user_id == user_id))
    if row is None:
        return Attribution(AttributionReason.unknown_code, code=code)
    return _already(row)


def _already(click: ReferralClickMixin | None) -> Attribution:
    reason = AttributionReason.already_attributed
    if click is None:
        return Attribution(reason)
    return Attribution(reason, click, click.referrer_user_id, click.referral_code)


def _click(
    db: Session | sa.Connection, models: Models, click_id: t.Any
) -> ReferralClickMixin | None:
    return _first(db, sa.select(models.ReferralClick).where(models.ReferralClick.id == click_id))


def _first(db: Session | sa.Connection, statement: t.Any) -> ReferralClickMixin | None:
    # From a session comes the entity, from a connection a row with the same attributes.
    if isinstance(db, Session):
        entity: ReferralClickMixin | None = db.scalars(statement).first()
        return entity
    return t.cast("ReferralClickMixin | None", db.execute(statement).first())


def _run(db: Session | sa.Connection, models: Models, statement: t.Any) -> t.Any:
    if isinstance(db, Session):
        # A session of several databases cannot tell from a statement on tables which is meant.
        return db.execute(statement, bind_arguments={"mapper": sa.inspect(models.ReferralClick)})
    return db.execute(statement)


def _dialect(db: Session | sa.Connection, models: Models) -> str:
    bind = db.get_bind(models.ReferralClick) if isinstance(db, Session) else db
    return bind.dialect.name
