"""Reports: what may be as old as the replica that ``REFERRAL_READ_BIND`` names."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import typing as t

from .. import clock
from .. import codes
from .. import leaderboard as ranking
from .. import overview as program
from .. import referrals as people
from .. import stats as station
from .. import wallet
from ..errors import UnknownUser
from ..payments import retries
from ..payments.retries import Wanted
from ..results import LeaderboardEntry
from ..results import Overview
from ..rls.acting import own_read
from . import connections as database
from .links import known_link

if t.TYPE_CHECKING:
    from ..host.state import State


def stats(
    state: State,
    user_id: t.Any,
    days: int,
    link: t.Callable[[str], str | None] | None = None,
) -> dict[str, t.Any]:
    """Return a user's statistics as JSON has them, for the API, the command and the method.

    Who has no code in the replica is looked up where codes are made: the code, or the user, may
    be younger than the replica.

    :param link: returns the share link of a code; default: what this request knows.
    :raises ReferralError: where ``days`` is out of bounds.
    :raises UnknownUser: where there is no such user.
    """
    collect = functools.partial(
        station.collect,
        models=state.models,
        user_id=user_id,
        number=days,
        now=clock.now(),
        link=link or functools.partial(known_link, state),
    )
    if state.read_engine is not None:
        with contextlib.suppress(UnknownUser), database.reading(state, replica=True) as db:
            found = collect(db, reading=own_read(state, user_id, db))
            if found["code"] is not None:
                return found
    with database.reading(state) as db:
        return collect(db, reading=own_read(state, user_id))


def referrals(
    state: State, user_id: t.Any, limit: int = people.DEFAULT_LIMIT, before: str | None = None
) -> people.Page:
    """Return whom a user brought, with the names that the host's loader gives.

    One statement; one more where there is a loader, outside row level security, of the clicks that
    this user may read.

    :raises ReferralError: where ``limit`` or ``before`` is out of bounds.
    :raises UnknownUser: where there is no such user.
    """
    name_of = state.loaders.display_name
    with database.reading(state, replica=True) as db:
        own = own_read(state, user_id, None if state.read_engine is None else db)
        page = people.page(db, state.models, user_id, limit=limit, before=before, reading=own)
        users = people.users_of(db, state.models, page.click_ids) if name_of else {}
    if not page.entries and before is None:
        with database.reading(state) as db:
            codes.require_user(db, state.models, user_id)
    if name_of is not None:
        entries = [
            dataclasses.replace(entry, name=name_of(users[click])) if click in users else entry
            for entry, click in zip(page.entries, page.click_ids, strict=True)
        ]
        page = page._replace(entries=entries)
    return page


def leaderboard(
    state: State, days: int | None = None, limit: int = ranking.DEFAULT_LIMIT
) -> list[LeaderboardEntry]:
    """Return the referrers with the most conversions, with the names that the loader gives.

    Two statements.

    :raises ReferralError: where ``days`` or ``limit`` is out of bounds.
    """
    with database.reading(state, replica=True) as db:
        rows = ranking.top(db, state.models, days=days, limit=limit, now=clock.now())
    name_of = state.loaders.display_name
    return [
        LeaderboardEntry(
            rank,
            row.user_id,
            None if name_of is None else name_of(row.user_id),
            row.signups,
            row.conversions,
            row.earned_cents,
        )
        for rank, row in enumerate(rows, 1)
    ]


def overview(state: State, days: int) -> Overview:
    """Return the figures of the whole program. Three statements.

    :raises ReferralError: where ``days`` is out of bounds.
    """
    with database.reading(state, replica=True) as db:
        deliveries = sum(retries.counts(db, state.models, Wanted(is_ready=True)).values())
        return program.collect(db, state.models, days, now=clock.now(), deliveries=deliveries)


def wallet_rows(state: State, user_id: t.Any, limit: int = wallet.SHOWN) -> list[wallet.Shown]:
    """Return what the program gave to a user's wallet and took from it, newest first.

    One statement; none where there is no wallet.
    """
    if state.wallet_table is None:
        return []
    with database.reading(state, replica=True) as db:
        return wallet.rows_of(db, state.models, state.wallet_table, user_id, limit)
