"""How Larkmail writes amounts and days."""

from __future__ import annotations

import datetime as dt


def money(cents: int) -> str:
    """Write cents as dollars."""
    dollars, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}${dollars:,}.{rest:02}"


def day(moment: dt.datetime | dt.date) -> str:
    """Write a day, as in "17 Nov 2026" (UTC)."""
    if isinstance(moment, dt.datetime):
        moment = moment.astimezone(dt.UTC)
    return f"{moment.day} {moment:%b %Y}"
