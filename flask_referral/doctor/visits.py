"""Whether what visits and sign-ups leave behind is what it seems to be."""

from __future__ import annotations

import collections
import datetime as dt
import typing as t

import sqlalchemy as sa

from .. import clock
from .. import eligibility
from ..db import qualified
from ..spelling import LENGTH
from .findings import Check
from .findings import counted
from .findings import EXAMPLES
from .findings import fault
from .findings import Finding
from .findings import Patient
from .findings import warning

#: So many of the latest clicks are looked at.
LATEST = 10_000
#: Of so many people at most is a ring that is found.
LONGEST_RING = 16
#: From so many clicks on one address is no chance, and from so many sign-ups one offset.
MANY_CLICKS = 20
MANY_SIGN_UPS = 3


def addresses(patient: Patient) -> t.Iterator[Finding]:
    """Whether visitors have addresses of their own."""
    click = patient.state.models.ReferralClick.__table__.c
    # Each month has a key of its own, and its name comes first.
    month = sa.func.substr(click.ip_hash, 1, len("2026-11"))
    latest = (
        sa.select(click.ip_hash, click.user_agent, month.label("month"))
        .order_by(click.clicked_at.desc())
        .limit(LATEST)
        .subquery()
        .c
    )
    number = sa.func.count()
    query = (
        sa.select(latest.month, number.label("clicks"))
        .where(latest.ip_hash.is_not(None))
        .group_by(latest.month)
        .having(number >= MANY_CLICKS)
        .having(sa.func.count(latest.ip_hash.distinct()) == 1)
        .having(sa.func.count(latest.user_agent.distinct()) > 1)
        .order_by(latest.month.desc())
        .limit(1)
    )
    for row in _all(patient, query):
        yield warning(
            f"All of the latest {row.clicks:,} clicks of {row.month}, by different browsers, came "
            "from one address, as if a proxy's stood for everybody's: visitors with the same "
            "browser count as one.",
            "Wrap the application in werkzeug.middleware.proxy_fix.ProxyFix, with the number of "
            "proxies that are in front of it.",
        )


def created_at(patient: Patient) -> t.Iterator[Finding]:
    """Whether the dates of accounts are in UTC, as far as those who signed up by a link tell."""
    click, key = patient.state.models.ReferralClick.__table__, patient.state.models.user_key
    created = _created_column(patient)
    if created is None:
        return
    latest = (
        sa.select(click.c.referred_user_id, click.c.bound_at)
        .order_by(click.c.clicked_at.desc())
        .limit(LATEST)
        .subquery()
    )
    query = (
        sa.select(created, latest.c.bound_at)
        .join_from(latest, key.table, latest.c.referred_user_id == key)
        .where(created.is_not(None), latest.c.bound_at.is_not(None))
    )
    offsets = [_offset(*row) for row in _all(patient, query)]
    if not offsets:
        return
    offset, number = collections.Counter(offsets).most_common(1)[0]
    if offset and number >= MANY_SIGN_UPS and 2 * number > len(offsets):
        name = patient.state.settings.user_created_column
        hours = f"{offset / dt.timedelta(hours=1):+g}"
        yield warning(
            f"Of {len(offsets):,} users who signed up by a referral, {number:,} have a "
            f"{name} that is {hours} hours away from UTC, as local time is. An account "
            "that is older than its visit cannot be told from a new one then.",
            "Write datetime.now(UTC), best into a column with timezone=True, and correct the rows "
            "that are there; or name another column in REFERRAL_USER_CREATED_COLUMN, or None.",
        )


def rings(patient: Patient) -> t.Iterator[Finding]:
    """Whether people refer each other in a ring, each one the next."""
    click = patient.state.models.ReferralClick.__table__
    latest = (
        sa.select(click.c.referred_user_id, click.c.referrer_user_id)
        .where(click.c.referred_user_id.is_not(None))
        .order_by(click.c.clicked_at.desc())
        .limit(LATEST)
        .subquery()
        .c
    )
    # From each user to the referrer, to the referrer's, and so on: everybody has one at most.
    walk = sa.select(
        latest.referred_user_id.label("first"),
        latest.referrer_user_id.label("last"),
        sa.literal_column("1", sa.Integer()).label("steps"),
    ).cte("walk", recursive=True)
    walk = walk.union_all(
        sa.select(walk.c.first, click.c.referrer_user_id, walk.c.steps + 1)
        .join_from(walk, click, click.c.referred_user_id == walk.c.last)
        .where(walk.c.last != walk.c.first, walk.c.steps < LONGEST_RING)
    )
    query = sa.select(walk.c.first, walk.c.steps).where(walk.c.last == walk.c.first)
    found = _all(patient, query.order_by(walk.c.steps, walk.c.first))
    if found:
        named = ", ".join(f"{row.first} (of {row.steps})" for row in found[:EXAMPLES])
        people = counted(len(found), "user refers", "users refer")
        yield warning(
            f"{people} each other in a ring, as friends do who earn bonuses from each other: "
            f"{named}{', ...' if len(found) > EXAMPLES else ''}.",
            "Look at who they are; void or reverse what they earned if it is one person, and let "
            "@referral.attribution_check refuse the next.",
        )


def _offset(created: dt.datetime, bound_at: dt.datetime) -> dt.timedelta | None:
    """Return the offset of the zone that explains a date, where one does."""
    if created.tzinfo is not None:
        return dt.timedelta(0)
    difference = clock.as_utc(created) - clock.as_utc(bound_at)
    offset = round(difference / clock.ZONE_STEP) * clock.ZONE_STEP
    return offset if abs(difference - offset) <= clock.SKEW else None


def _created_column(patient: Patient) -> sa.ColumnElement[t.Any] | None:
    state = patient.state
    return eligibility.created_column(state.models.user_key, state.settings.user_created_column)


def words(patient: Patient) -> t.Iterator[Finding]:
    """Whether words that were given as codes lead to their users."""
    issued = patient.state.models.ReferralIssuedCode.__table__.c
    # Of eight symbols one may be a generated code, which leads to its user in any case.
    is_word = sa.func.length(issued.code) != LENGTH
    query = sa.select(sa.func.count().label("number")).where(issued.user_id.is_not(None), is_word)
    (row,) = _all(patient, query)
    if row.number:
        yield fault(
            f"{counted(row.number, 'word that was', 'words that were')} chosen as a code lead to "
            "nobody, since REFERRAL_VANITY_CODES is off.",
            "Set REFERRAL_VANITY_CODES = True; or give their users generated codes in place of "
            "them, with flask referral codes rotate USER.",
        )


def _has_dates(patient: Patient) -> bool:
    return _created_column(patient) is not None


def _all(patient: Patient, query: sa.Executable) -> t.Sequence[t.Any]:
    with patient.connect() as connection:
        return qualified.execute(connection, query).all()


def _has_addresses(patient: Patient) -> bool:
    return patient.state.settings.ip_key is not None


def _has_no_words(patient: Patient) -> bool:
    return not patient.state.settings.vanity_codes


_NEEDS = ("database", "migrations", "models", "database-login")
CHECKS = (
    Check("words", words, "No code is a word that leads to nobody.", _NEEDS, _has_no_words),
    Check("addresses", addresses, "Clicks are not all of one address.", _NEEDS, _has_addresses),
    Check("rings", rings, "Nobody refers each other in a ring.", _NEEDS),
    Check("created-at", created_at, "The dates of new accounts are in UTC.", _NEEDS, _has_dates),
)
