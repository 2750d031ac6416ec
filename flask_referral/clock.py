"""What time it is."""

from __future__ import annotations

import datetime as dt

#: How far apart two servers' clocks may be before their times contradict each other.
SKEW = dt.timedelta(seconds=60)


def utcnow() -> dt.datetime:
    """Return the moment, aware and in UTC."""
    return dt.datetime.now(dt.UTC)


def as_utc(moment: dt.datetime) -> dt.datetime:
    """Return a moment from the database as aware UTC; SQLite forgets that it was."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=dt.UTC)
    return moment.astimezone(dt.UTC)
