"""Deliveries that paid nothing for now, once more, out of what was kept of them."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import typing as t

import sqlalchemy as sa
from flask import current_app

from .. import clock
from ..conversions.transaction import Transaction
from ..db import days
from ..db import failures
from ..db import qualified
from ..db import sql
from ..db.models import Models
from ..errors import ReferralError
from ..errors import UnknownUser
from ..host import identity
from ..results import ConversionReason
from . import handling
from . import kept
from . import providers
from .events import Outcome
from .known import DELIVERY

if t.TYPE_CHECKING:
    from ..host.state import State

#: How many deliveries are read at once.
PAGE = 500
#: For how many buyers nobody knew the user loader is asked when a user signs up.
MOST_UNKNOWN = 200
#: What :func:`of_user` counts a delivery as that could not be handled.
FAILED = "failed"
#: Why deliveries wait, by their outcomes.
WHY: dict[str, str] = {
    Outcome.unknown_user: "The buyer was not found among the users. Once the provider's user "
    "loader finds them, it can be handled once more.",
    Outcome.other_company: "It is of a company that REFERRAL_WHOP_COMPANY_ID does not list. Add "
    "it, if it is yours; then it can be handled once more.",
    ConversionReason.not_referred: "Nobody had referred the buyer. Once somebody has, it can be "
    "handled once more.",
}


class Wanted(t.NamedTuple):
    """Which of the deliveries that wait are meant.

    :param is_ready: those only that may end differently this time: not where a buyer whom nobody
        referred still has no referrer.
    """

    outcome: str | None = None
    provider: str | None = None
    event_id: str | None = None
    is_ready: bool = False


def once_more(state: State, row: t.Any) -> str:
    """Handle a delivery out of what was kept of it; the caller commits.

    :param row: as :func:`waiting` yields it.
    :return: as :func:`~.handling.handle` does; ``duplicate`` where it was handled meanwhile.
    """
    event = kept.event(row)
    return handling.handle(state, row.provider, event, buyer=row.user_id, is_delivered=False)


def waiting(
    db: sa.Connection | t.Callable[[], sa.Connection],
    models: Models,
    wanted: Wanted,
    *,
    size: int = PAGE,
) -> t.Iterator[t.Any]:
    """Yield the rows of the deliveries that wait, in the order of their arrival.

    They are read in pages, one statement each, between which the caller may commit.

    :param db: the connection, or what returns the one of the moment.
    """
    last: t.Any = None
    while True:
        connection = db() if callable(db) else db
        event = models.ReferralEvent.__table__
        at = days.column(event.c.received_at, connection.dialect.name)
        order: list[sa.ColumnElement[t.Any]] = [at, event.c.provider, event.c.event_id]
        query = sa.select(event, at.label("at")).where(_is_meant(models, wanted))
        if last is not None:
            place = zip((last.at, last.provider, last.event_id), order, strict=True)
            passed = [sa.literal(value, column.type) for value, column in place]
            query = query.where(sa.tuple_(*order) > sa.tuple_(*passed))
        page = qualified.execute(connection, query.order_by(*order).limit(size)).all()
        if not page:
            return
        last = page[-1]
        yield from page


def counts(db: sql.Connection, models: Models, wanted: Wanted) -> dict[str, int]:
    """Return how many deliveries wait, by their outcomes. One statement."""
    event = models.ReferralEvent.__table__.c
    found = qualified.execute(
        db,
        sa.select(event.outcome, sa.func.count().label("number"))
        .where(_is_meant(models, wanted))
        .group_by(event.outcome)
        .order_by(event.outcome),
    )
    return {row.outcome: row.number for row in found}


def of_user(state: State, user_id: t.Any) -> dict[str, int]:
    """Handle once more what waits for a user, in ``db.session``; nothing is committed.

    :return: how many deliveries had which outcome, :data:`FAILED` for those whose error was
        logged and that wait on.
    """
    tx = Transaction.begin(state.db.session(), state.models, state.settings, state.wallet_table)
    tx.refuse_autocommit()
    # What was read is still so when it is written, and a savepoint begins no transaction.
    sql.begin_writing(tx.db)
    outcomes: collections.Counter[str] = collections.Counter()
    own = []
    for row in _candidates(tx, user_id):
        with _waiting_on(tx, row, outcomes):
            if row.user_id == user_id or _is_buyer(state, row, user_id):
                own.append(row)
    _lock(tx, own)
    for row in own:
        with _waiting_on(tx, row, outcomes):
            event = kept.event(row)
            outcome = handling.handle(state, row.provider, event, buyer=user_id, is_delivered=False)
            outcomes[outcome] += 1
    return dict(outcomes)


@contextlib.contextmanager
def _waiting_on(
    tx: Transaction, row: t.Any, outcomes: collections.Counter[str]
) -> t.Iterator[None]:
    """Let a delivery wait on where handling it fails."""
    try:
        with tx.savepoint():
            yield
    except sa.exc.SQLAlchemyError:
        raise
    except Exception:
        # Of a loader, a policy or a wallet; the sign-up is not to fail for it.
        current_app.logger.exception(
            "Delivery %s of %s could not be handled once more", row.event_id, row.provider
        )
        outcomes[FAILED] += 1


def _lock(tx: Transaction, rows: list[t.Any]) -> None:
    """Lock several deliveries before the first of them takes effect.

    They may tell of one payment, as a checkout and its invoice do. Whoever delivers one of them
    again then waits for its row, and holds no payment that the other one needs.
    """
    if len(rows) < 2:
        return
    event = tx.models.ReferralEvent.__table__
    key = (event.c.provider, event.c.event_id)
    ids = [(row.provider, row.event_id) for row in rows]
    chosen = sa.select(*key).where(event.c.kind == DELIVERY, sa.tuple_(*key).in_(ids))
    qualified.execute(tx.db, chosen.order_by(*key).with_for_update()).all()


def _candidates(tx: Transaction, user_id: t.Any) -> t.Iterator[t.Any]:
    event = tx.models.ReferralEvent.__table__
    at = days.column(event.c.received_at, tx.db.dialect.name)
    window = dt.timedelta(seconds=tx.settings.cookie_max_age)
    is_delivery, waits = event.c.kind == DELIVERY, event.c.details.is_not(None)
    own = sa.select(event).where(event.c.user_id == user_id, is_delivery, waits)
    unknown = (
        sa.select(event)
        .where(
            waits,
            event.c.outcome == Outcome.unknown_user,
            event.c.received_at >= clock.now() - window,
        )
        .order_by(at.desc(), event.c.provider, event.c.event_id)
        .limit(MOST_UNKNOWN)
    )
    # Both are read before anything is written; the newest are asked for, the oldest go first.
    found = [*reversed(qualified.execute(tx.db, unknown).all()), *qualified.execute(tx.db, own)]
    return iter(sorted(found, key=lambda row: row.received_at))


def _is_buyer(state: State, row: t.Any, user_id: t.Any) -> bool:
    found = providers.buyer(state, row.provider, kept.event(row))
    try:
        return found is not None and bool(identity.user_id(state, found) == user_id)
    except UnknownUser:
        return False


def failure(state: State, error: Exception) -> str:
    """Return a sentence about a delivery that could not be handled."""
    if isinstance(error, ReferralError):
        return str(error)
    if isinstance(error, sa.exc.SQLAlchemyError):
        return str(failures.explain(error, state.models))
    return (
        f"{type(error).__name__}: {error}. A user loader gets what was kept here, ids and "
        "metadata; let it read all else with .get()."
    )


def _is_meant(models: Models, wanted: Wanted) -> sa.ColumnElement[bool]:
    event, click = models.ReferralEvent.__table__.c, models.ReferralClick.__table__.c
    named = {
        "outcome": wanted.outcome,
        "provider": wanted.provider,
        "event_id": wanted.event_id,
    }
    conditions = [event[name] == value for name, value in named.items() if value is not None]
    if wanted.is_ready:
        is_bound = sa.exists().where(click.referred_user_id == event.user_id)
        conditions.append(sa.or_(event.outcome != ConversionReason.not_referred, is_bound))
    return sa.and_(event.details.is_not(None), event.kind == DELIVERY, *conditions)
