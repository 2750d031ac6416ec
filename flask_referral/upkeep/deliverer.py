"""Delivering the outbox: at least once, in order for each user, by any number of deliverers.

Who takes a row moves its next attempt into the future, in one statement that is committed at once,
and nobody else takes it until then. So no transaction and no lock is held while a receiver is
slow, and what a deliverer that died had in hand is taken by another one when :data:`LEASE` is over.
Of each user's rows the oldest alone can be taken: the next one has to wait until that is delivered,
or set aside. Rows behind one that failed get its time of the next attempt: while a receiver is away
for hours, what waits is not read over and over by who looks for something to do.

What is told in order is what happened one after the other. Rows of transactions that ran at once
have the order in which they were written, and one that is committed late may come later.
"""

from __future__ import annotations

import datetime as dt
import enum
import random
import typing as t
import uuid

import sqlalchemy as sa
from flask import current_app
from flask.globals import app_ctx

from .. import clock
from ..clock import as_utc
from ..db import qualified
from ..db import sql
from ..db.models import Models
from ..db.plain import plain
from ..events import EVENTS
from ..events import USERS
from ..host import identity
from ..results import OutboxEvent
from . import deliveries
from . import posting

if t.TYPE_CHECKING:
    from ..host.state import State
#: How long one attempt may take before another deliverer makes the next.
LEASE = dt.timedelta(minutes=5)
MOST_ATTEMPTS = 20
#: Before the second attempt, doubled before each further one, up to
FIRST_PAUSE = dt.timedelta(seconds=20)
LONGEST_PAUSE = dt.timedelta(hours=6)
_LONGEST_ERROR = 500
_PARKED_AT_ONCE = 10_000

Receiver = t.Callable[["Message"], None]


class Outcome(enum.StrEnum):
    """What became of an attempt."""

    delivered = enum.auto()
    #: It is tried again later.
    failed = enum.auto()
    #: It failed :data:`MOST_ATTEMPTS` times and is tried again by ``deliver --again`` only.
    set_aside = enum.auto()


class Message(t.NamedTuple):
    """A row of the outbox that somebody has taken."""

    id: int
    message_id: uuid.UUID
    event: str
    subject: str
    payload: dict[str, t.Any]
    created_at: dt.datetime
    #: This one included.
    attempts: int
    done: list[str] | None


def deliver(state: State) -> Outcome | None:
    """Take the next row that is due and hand it to all that have not got it; None: none is due.

    What fails is logged, and kept with the row.
    """
    now = clock.now()
    with state.autocommit() as db:
        row = _take(db, state.models, now=now, until=now + LEASE).first()
        if row is None:
            _park(db, state.models, now=now)
            return None
    message, errors = Message._make(row), list[str]()
    done = list(message.done or ())
    # Whoever takes it once more after that has found no end of it: it ends those who deliver it.
    if message.attempts > MOST_ATTEMPTS:
        errors.append("The deliverer did not survive it.")
    else:
        for name, hand in _receivers(state, message.event).items():
            if name in done:
                continue
            try:
                hand(message)
            except Exception as error:
                current_app.logger.error(
                    "Event %s (%s) was not taken by %s, attempt %s",
                    message.message_id,
                    message.event,
                    name,
                    message.attempts,
                    exc_info=None if isinstance(error, posting.NotTaken) else error,
                )
                told = f"{error}" if isinstance(error, posting.NotTaken) else repr(error)
                errors.append(f"{name}: {told}")
            else:
                done.append(name)
    with state.autocommit() as db:
        if not errors:
            _remove(db, state.models, row=message.id, message=message.message_id)
            return Outcome.delivered
        is_last = message.attempts >= MOST_ATTEMPTS
        now = clock.now()
        then = now + _pause(message.attempts)
        kept = _keep(
            db,
            state.models,
            row=message.id,
            message=message.message_id,
            attempt=message.attempts,
            next=then,
            receivers=done,
            why="; ".join(errors)[:_LONGEST_ERROR],
            aside=now if is_last else None,
        ).rowcount
        if kept and not is_last:
            _park_behind(db, state.models, row=message.id, user=message.subject, next=then)
    return Outcome.set_aside if is_last else Outcome.failed


def take_again(state: State) -> int:
    """Let what was set aside be tried again, from now on; return how much. One statement."""
    with state.autocommit() as db:
        return _again(db, state.models, now=clock.now()).rowcount


def is_about(models: Models, user_id: t.Any) -> sa.ColumnElement[bool]:
    """Whether an event names a user."""
    row, named = models.ReferralOutbox.__table__.c, plain(user_id)
    return sa.or_(
        row.subject == str(user_id),
        *(row.payload[name].as_string() == str(named) for name in sorted(USERS)),
    )


def forget_user(connection: sa.Connection, models: Models, user_id: t.Any) -> None:
    """Remove the events about a user that were given up. One statement."""
    row = models.ReferralOutbox.__table__
    is_given_up = sa.and_(row.c.set_aside_at.is_not(None), is_about(models, user_id))
    qualified.execute(connection, sa.delete(row).where(is_given_up))


def forget_old(connection: sa.Connection, models: Models, now: dt.datetime) -> int:
    """Remove what was given up long ago; return how much. One statement."""
    row = models.ReferralOutbox.__table__
    is_old = row.c.set_aside_at < now - deliveries.KEPT_FOR
    return qualified.execute(connection, sa.delete(row).where(is_old)).rowcount


class Waiting(t.NamedTuple):
    """What the outbox holds."""

    waiting: int
    set_aside: int
    #: UTC; of what waits, when the oldest happened
    since: dt.datetime | None


def waiting(db: sql.Connection, models: Models) -> Waiting:
    """Return what the outbox holds. One statement."""
    row = _count(db, models).first()
    return Waiting(row.waiting, row.set_aside, row.since and as_utc(row.since))


def _receivers(state: State, event: str) -> dict[str, Receiver]:
    found = {
        name: _handler(state, function)
        for name, function in state.loaders.handlers.get(event, {}).items()
    }
    return found | {
        posting.name_of(url): _poster(state, url) for url in state.settings.webhook_urls
    }


def _handler(state: State, function: t.Callable[..., t.Any]) -> Receiver:
    def hand(message: Message) -> None:
        def key(value: t.Any) -> t.Any:
            return identity.convert_key(state.models.user_key, value)

        told = OutboxEvent(
            id=message.message_id,
            type=message.event,
            at=as_utc(message.created_at),
            data=EVENTS[message.event].of(message.payload, key),
        )
        # A session of its own, as a receiver of a signal has.
        with app_ctx.app.app_context():
            function(told)

    return hand


def _poster(state: State, url: str) -> Receiver:
    def hand(message: Message) -> None:
        posting.post(
            url,
            state.settings.webhook_secret,
            message.message_id,
            message.event,
            message.payload,
            as_utc(message.created_at),
            clock.now(),
        )

    return hand


def _pause(attempts: int) -> dt.timedelta:
    # With jitter, so that what failed together is not tried together.
    seconds = FIRST_PAUSE.total_seconds() * 2.0 ** (attempts - 1)
    longest = LONGEST_PAUSE.total_seconds()
    return dt.timedelta(seconds=min(seconds, longest) * random.uniform(0.5, 1.5))


@sql.statement
def _take(models: Models, dialect: str) -> sa.Executable:
    row = models.ReferralOutbox.__table__
    due, earlier = row.alias("due"), row.alias("earlier")
    oldest = (
        sa.select(due.c.id)
        .where(
            due.c.set_aside_at.is_(None),
            due.c.next_attempt_at <= sql.parameter("now", row.c.next_attempt_at),
            ~sa.exists().where(
                earlier.c.subject == due.c.subject,
                earlier.c.id < due.c.id,
                earlier.c.set_aside_at.is_(None),
            ),
        )
        .order_by(due.c.next_attempt_at, due.c.id)
        .limit(sa.literal_column("1"))
    )
    if dialect == "postgresql":
        oldest = oldest.with_for_update(skip_locked=True)
    return (
        sa.update(row)
        .where(row.c.id == oldest.scalar_subquery())
        .values(
            attempts=row.c.attempts + sa.literal_column("1"),
            next_attempt_at=sql.parameter("until", row.c.next_attempt_at),
        )
        .returning(*(row.c[name] for name in Message._fields))
    )


@sql.statement
def _remove(models: Models, dialect: str) -> sa.Executable:
    row = models.ReferralOutbox.__table__
    return sa.delete(row).where(_is_it(row))


def _is_it(row: sa.FromClause) -> sa.ColumnElement[bool]:
    # SQLite gives the number of a removed row to a new one, which is another message.
    return sa.and_(
        row.c.id == sql.parameter("row", row.c.id),
        row.c.message_id == sql.parameter("message", row.c.message_id),
    )


@sql.statement
def _keep(models: Models, dialect: str) -> sa.Executable:
    row = models.ReferralOutbox.__table__
    return (
        sa.update(row)
        .where(
            _is_it(row),
            # Not where the lease was over, and somebody else tries it now.
            row.c.attempts == sql.parameter("attempt", row.c.attempts),
        )
        .values(
            next_attempt_at=sql.parameter("next", row.c.next_attempt_at),
            done=sql.parameter("receivers", row.c.done),
            error=sql.parameter("why", row.c.error),
            set_aside_at=sql.parameter("aside", row.c.set_aside_at),
        )
    )


@sql.statement
def _park_behind(models: Models, dialect: str) -> sa.Executable:
    row = models.ReferralOutbox.__table__
    then = sql.parameter("next", row.c.next_attempt_at)
    waits = row.alias("waits")
    behind = sa.select(waits.c.id).where(
        waits.c.subject == sql.parameter("user", row.c.subject),
        waits.c.id > sql.parameter("row", row.c.id),
        waits.c.set_aside_at.is_(None),
        waits.c.next_attempt_at < then,
    )
    return sa.update(row).where(row.c.id.in_(_free(behind, dialect))).values(next_attempt_at=then)


@sql.statement
def _park(models: Models, dialect: str) -> sa.Executable:
    """Give what is due behind rows that failed the time of these rows' next attempts."""
    row = models.ReferralOutbox.__table__
    due, first = row.alias("due"), row.alias("first")
    now = sql.parameter("now", row.c.next_attempt_at)

    def next_of_first(behind: t.Any) -> t.Any:
        """Return when the user's oldest row is tried again, if it failed."""
        return (
            sa.select(sa.case((first.c.error.is_not(None), first.c.next_attempt_at)))
            .where(
                first.c.subject == behind.c.subject,
                first.c.id < behind.c.id,
                first.c.set_aside_at.is_(None),
            )
            .order_by(first.c.id)
            .limit(sa.literal_column("1"))
            .scalar_subquery()
        )

    behind = (
        sa.select(due.c.id)
        .where(
            due.c.set_aside_at.is_(None),
            due.c.next_attempt_at <= now,
            next_of_first(due) > now,
        )
        .limit(sa.literal_column(str(_PARKED_AT_ONCE)))
    )
    # It may have been delivered since.
    then = sa.func.coalesce(next_of_first(row), row.c.next_attempt_at)
    return sa.update(row).where(row.c.id.in_(_free(behind, dialect))).values(next_attempt_at=then)


def _free(rows: sa.Select[t.Any], dialect: str) -> sa.Select[t.Any]:
    """Return rows without those that somebody else has in hand."""
    return rows.with_for_update(skip_locked=True) if dialect == "postgresql" else rows


@sql.statement
def _again(models: Models, dialect: str) -> sa.Executable:
    row = models.ReferralOutbox.__table__
    return (
        sa.update(row)
        .where(row.c.set_aside_at.is_not(None))
        .values(
            attempts=sa.literal_column("0"),
            next_attempt_at=sql.parameter("now", row.c.next_attempt_at),
            set_aside_at=sa.null(),
        )
    )


@sql.statement
def _count(models: Models, dialect: str) -> sa.Executable:
    row = models.ReferralOutbox.__table__
    is_aside = row.c.set_aside_at.is_not(None)
    waits = sa.case((row.c.set_aside_at.is_(None), row.c.created_at))
    return sa.select(
        sa.func.count(waits).label("waiting"),
        sa.func.count(sa.case((is_aside, row.c.id))).label("set_aside"),
        sa.func.min(waits, type_=row.c.created_at.type).label("since"),
    )
