"""What is to be told of, kept in the transaction of what it tells (table ``referral_outbox``).

Without ``REFERRAL_OUTBOX`` there are the signals alone.
"""

from __future__ import annotations

import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa
from sqlalchemy.orm import Session

from . import clock
from . import signals
from .db import sql
from .db.models import Models
from .events import Event
from .settings import Settings


def announce(
    db: sql.Connection | None,
    session: Session | None,
    models: Models,
    settings: Settings,
    *events: Event,
) -> None:
    """Tell of events when the session commits, or now, where they are committed.

    With the outbox on, one statement for each event.

    :param db: the connection of the transaction in which they happened.
    :param session: None where what is told is committed already; the outbox is off then.
    """
    if settings.outbox:
        # All of them first: where one cannot be kept, the caller's savepoint takes back the whole.
        for event in events:
            if event.is_kept:
                assert db is not None
                keep(db, models, event, clock.now())
    for event in events:
        signals.send_after_commit(session, event.signal, **event.values())


def keep(db: sql.Connection, models: Models, event: Event, now: dt.datetime) -> None:
    """Keep an event for those who deliver it. One statement."""
    _keep(
        db,
        models,
        event=event.name,
        subject=str(getattr(event, event.subject)),
        payload=event.payload(),
        message=uuid.uuid4(),
        now=now,
    )


@sql.statement
def _keep(models: Models, dialect: str) -> sa.Executable:
    row = models.ReferralOutbox.__table__
    now = sql.parameter("now", row.c.created_at)
    values: dict[str, t.Any] = {
        name: sql.parameter(name, row.c[name]) for name in ("event", "subject", "payload")
    }
    insert: sa.Executable = (
        sql.insert(dialect, row)
        .values(
            **values,
            message_id=sql.parameter("message", row.c.message_id),
            created_at=now,
            next_attempt_at=now,
        )
        .returning(row.c.id)
    )
    return insert
