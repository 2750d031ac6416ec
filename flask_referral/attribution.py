"""Station 3: a visit or a typed code is bound to the user who signed up.

One referrer for each user. The database's unique index says so, and no statement here runs into
it: users are bound one call at a time (an advisory transaction lock), by statements that do
nothing where the user is bound already.
"""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from . import clicks
from . import codes
from . import eligibility
from . import sources
from .clicks import Click
from .clicks import Touch
from .clicks import Visit
from .clock import as_utc
from .db import qualified
from .db import sql
from .db.models import Models
from .errors import AttributionRefused
from .errors import UnknownUser
from .events import ClickRecorded
from .events import Event
from .events import UserAttributed
from .results import AttributionReason
from .settings import Settings

#: What a refusal is kept as, in ``referral_events``: one for each user, the last.
KIND = "attribution"
_KEPT = (AttributionReason.circular, AttributionReason.disabled, AttributionReason.refused)

#: Takes the keys of the new user and of the referrer, and the code; False refuses.
AttributionCheck = t.Callable[[t.Any, t.Any, str], bool]


class Outcome(t.NamedTuple):
    """What became of an attribution; :class:`~flask_referral.results.Attribution` in rows."""

    reason: AttributionReason
    #: The user's bound click, where the user has one.
    click: Click | None = None
    referrer_id: t.Any = None
    code: str | None = None
    #: Whether the click is the visit of this very request, recorded now.
    is_new_visit: bool = False


def attribute(
    db: sa.Connection,
    models: Models,
    settings: Settings,
    user_id: t.Any,
    *,
    touch: Touch | None,
    code: str | None,
    now: dt.datetime,
    visit: Visit | None = None,
    is_shared: bool = True,
    check: AttributionCheck | None = None,
) -> Outcome:
    """Bind a visit, or a typed code, to a user. At most two statements unless others race.

    A circle, a code that is switched off, and what ``check`` refuses, are kept in
    ``referral_events``.

    :param user_id: the user's key; the row must be in the database already.
    :param touch: what the visitor's browser remembers, or None.
    :param code: a code that was typed, normalised; it goes before the visit. A visit through
        the same code is used for it.
    :param visit: the visit of ``touch``, where it is this very request's: its click is recorded
        here, bound, unless it was before.
    :param is_shared: whether a visit that is bound to somebody else already is bound to this user
        too, by a click of its own, as for two people on one computer.
    :param check: the host's own idea of who may be bound; what it raises is raised.
    :raises UnknownUser: where there is no such user.
    """
    if touch is None and code is None:
        return Outcome(AttributionReason.no_visit)
    window = dt.timedelta(seconds=settings.cookie_max_age)
    if touch is not None and not eligibility.is_in_window(touch.at, now, window):
        if code is None:
            return Outcome(AttributionReason.window_over, code=touch.code)
        touch = None
    sought = code if code is not None else t.cast(Touch, touch).code

    found = eligibility.look_up(db, models, settings.user_created_column, user_id, sought, touch)
    if found is None:
        raise UnknownUser(
            f"There is no user {user_id!r} in table {models.user_key.table.fullname!r}; store and "
            "flush the user before attribute()."
        )
    if found.bound is not None:
        return _bound(AttributionReason.already_attributed, found.bound)
    if found.owner_id is None:
        return Outcome(AttributionReason.unknown_code, code=sought or None)
    # As the table has it: two spellings may be equal to the database alone.
    user_id = found.user_id
    refused = eligibility.refusal(found, models, settings, touch, code, now)
    if refused is None and check is not None and not check(user_id, found.owner_id, sought):
        refused = AttributionReason.refused
    if refused is not None:
        if refused in _KEPT:
            _keep(db, models, user=user_id, name=str(user_id), code=sought, reason=refused, now=now)
        return Outcome(refused, referrer_id=found.owner_id, code=sought)

    row, is_unrecorded = None, visit is not None and found.click_code is None
    if touch is not None and visit is not None and is_unrecorded:
        values = {"click": touch.click_id, **visit.told(settings)}
        row = _insert_bound(db, models, sought, user_id, now, **values)
    is_new_visit = row is not None
    # Another request of the visitor's may have recorded it just now.
    if row is None and touch is not None and (is_unrecorded or _is_free(found, now, window)):
        row = _bind(db, models, user=user_id, click=touch.click_id, now=now).first()
    # The visit's row was bound for another user of the same computer, was purged, or never was.
    is_own = is_shared or code is not None or touch is None
    # Where it is shared with nobody, its id is taken once only.
    own_id = {} if is_own else {"click": t.cast(Touch, touch).click_id}
    source = _source(found, touch, visit, sought)
    row = row or _insert_bound(db, models, sought, user_id, now, source=source, **own_id)
    if row is not None:
        outcome = _bound(AttributionReason.attributed, Click._make(row))
        return outcome._replace(is_new_visit=is_new_visit)
    # Somebody was faster: with this user, with the referrer, or with the code.
    found = eligibility.look_up(db, models, None, user_id, sought)
    if found is not None and found.bound is not None:
        return _bound(AttributionReason.already_attributed, found.bound)
    if found is not None and found.is_circular:
        return Outcome(AttributionReason.circular, referrer_id=found.owner_id, code=sought)
    reason = AttributionReason.unknown_code if is_own else AttributionReason.no_visit
    return Outcome(reason, code=sought)


def told(outcome: Outcome) -> list[Event]:
    """Return what is to be told: a user who was bound, and a new click."""
    click, events = outcome.click, list[Event]()
    if click is not None and outcome.code is not None:
        if outcome.is_new_visit:
            events.append(ClickRecorded(click_id=click.id, code=outcome.code))
        if outcome.reason is AttributionReason.attributed:
            events.append(
                UserAttributed(
                    user_id=click.referred_user_id,
                    referrer_id=outcome.referrer_id,
                    code=outcome.code,
                )
            )
    return events


def reattribute(
    db: sa.Connection, models: Models, user_id: t.Any, code: str, *, now: dt.datetime
) -> tuple[str | None, Outcome]:
    """Move a user to another code, as an operator's correction.

    The click that was bound stays, unbound, as a click of its referrer; the user gets a bound
    click of the new code.

    :return: the code that the user was bound to before, or None, and the new binding.
    :raises AttributionRefused: for an unknown code, the user's own, one of somebody whom the user
        referred, the one that is bound already, and for a user who has a conversion.
    :raises UnknownUser: where there is no such user.
    """
    click = models.ReferralClick.__table__
    conversion = models.ReferralConversion.__table__.c
    found = eligibility.look_up(db, models, None, user_id, code)
    if found is None:
        raise UnknownUser(f"There is no user {user_id!r}.")
    if found.owner_id is None:
        raise AttributionRefused(f"There is no code {code!r}.")
    user_id = found.user_id
    if found.owner_id == user_id:
        raise AttributionRefused(f"The code {code!r} is the user's own, and nobody refers himself.")
    if found.is_circular:
        raise AttributionRefused(
            f"The code {code!r} is of somebody whom this user referred; two users do not refer "
            "each other."
        )
    if found.is_disabled:
        raise AttributionRefused(
            f"The code {code!r} is switched off; flask referral codes enable {found.owner_id} "
            "switches it on again."
        )
    before = found.bound.referral_code if found.bound is not None else None
    if before == found.owner_code:
        raise AttributionRefused(f"The user is bound to the code {code!r} already.")
    # A purchase locks the binding, too: whether there was one is asked once it is locked.
    sql.begin_writing(db)
    binding = sa.select(click.c.id).where(click.c.referred_user_id == user_id)
    qualified.execute(db, binding.with_for_update())
    converted = sa.select(sa.literal(1)).where(conversion.referred_user_id == user_id)
    if qualified.execute(db, converted).first() is not None:
        raise AttributionRefused(
            "The user has a conversion, whose bonus went to the referrer of that time; reverse "
            "it first if it was wrong. The binding stays as it is."
        )
    unbind = sa.update(click).where(click.c.referred_user_id == user_id)
    qualified.execute(db, unbind.values(referred_user_id=None, bound_at=None))
    row = _insert_bound(db, models, code, user_id, now, source=sources.CODE)
    if row is None:
        raise AttributionRefused("The user was bound by somebody else just now; run this again.")
    return before, _bound(AttributionReason.attributed, Click._make(row))


def _bound(reason: AttributionReason, click: Click) -> Outcome:
    return Outcome(reason, click, click.referrer_user_id, click.referral_code)


def _is_free(found: eligibility.Found, now: dt.datetime, window: dt.timedelta) -> bool:
    return (
        found.click_code == found.owner_code
        and found.click_bound_at is None
        and found.clicked_at is not None
        and eligibility.is_in_window(as_utc(found.clicked_at), now, window)
    )


def _source(
    found: eligibility.Found, touch: Touch | None, visit: Visit | None, code: str
) -> str | None:
    """Return the source of a sign-up that gets a click of its own."""
    if touch is None or touch.code != code:
        return sources.CODE
    if visit is not None:
        return visit.source
    # Of a visit that was purged nobody knows it any more.
    return found.click_source if found.click_code == found.owner_code else None


@sql.statement
def _bind(models: Models, dialect: str) -> sa.Executable:
    click = models.ReferralClick.__table__
    other = click.alias("other")
    user = sql.parameter("user", models.user_key)
    return (
        sa.update(click)
        .where(
            click.c.id == sql.parameter("click", click.c.id),
            # Nor of somebody whose account is gone.
            click.c.bound_at.is_(None),
            click.c.referrer_user_id != user,
            ~sa.exists().where(other.c.referred_user_id == user),
            ~eligibility.is_circular(models, click.c.referrer_user_id, user),
        )
        .values(referred_user_id=user, bound_at=sql.parameter("now", click.c.bound_at))
        .returning(*clicks.columns(click))
    )


def _insert_bound(
    db: sa.Connection, models: Models, code: str, user_id: t.Any, now: dt.datetime, **visit: t.Any
) -> t.Any:
    # Of a visit whose row is not to be had nothing is told but its source.
    untold = {"click": clicks.new_id(now), **dict.fromkeys(clicks.TOLD)}
    values = {**untold, "code": code, "user": user_id, "now": now, **visit}
    return _insert(db, models, **values).first()


@sql.statement
def _insert(models: Models, dialect: str) -> sa.Executable:
    click = models.ReferralClick.__table__
    owner = models.ReferralCode.__table__.c
    user = sql.parameter("user", models.user_key)
    values = {
        "id": sql.parameter("click", click.c.id),
        "referral_code": owner.code,
        "referrer_user_id": owner.user_id,
        "referred_user_id": user,
        "clicked_at": sql.parameter("now", click.c.clicked_at),
        "bound_at": sql.parameter("now", click.c.bound_at),
        **{name: sql.parameter(name, click.c[name]) for name in clicks.TOLD},
    }
    row = sa.select(*values.values()).where(
        codes.leads_to(models),
        owner.user_id != user,
        ~eligibility.is_circular(models, owner.user_id, user),
    )
    insert: sa.Executable = (
        sql.insert(dialect, click)
        .from_select(list(values), row)
        .on_conflict_do_nothing()
        .returning(*clicks.columns(click))
    )
    return insert


@sql.statement
def _keep(models: Models, dialect: str) -> sa.Executable:
    event = models.ReferralEvent.__table__
    reason = sa.bindparam("reason", type_=sa.Text())
    insert = sql.insert(dialect, event).values(
        provider=sql.word("host"),
        kind=sql.word(KIND),
        event_id=sql.parameter("name", event.c.event_id),
        reference=sql.parameter("code", event.c.reference),
        outcome=reason,
        received_at=sql.parameter("now", event.c.received_at),
        user_id=sql.parameter("user", event.c.user_id),
    )
    last = {name: insert.excluded[name] for name in ("reference", "outcome", "received_at")}
    key = [event.c.provider, event.c.kind, event.c.event_id]
    kept = insert.on_conflict_do_update(index_elements=key, set_=last)
    done: sa.Executable = kept.returning(event.c.event_id)
    return done
