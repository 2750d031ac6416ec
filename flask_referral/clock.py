"""What time it is."""

from __future__ import annotations

import datetime as dt

#: How far apart two servers' clocks may be before their times are called a contradiction.
SKEW = dt.timedelta(seconds=60)
#: What the offsets of time zones are multiples of, and the farthest behind UTC.
ZONE_STEP = dt.timedelta(minutes=15)
WESTERNMOST = dt.timedelta(hours=12)


def now() -> dt.datetime:
    """Return the current time in UTC."""
    return dt.datetime.now(dt.UTC)


def as_utc(moment: dt.datetime) -> dt.datetime:
    """Return a time with its zone; one without is UTC, as SQLite returns them."""
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
