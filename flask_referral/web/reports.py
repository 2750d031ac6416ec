"""Reports: what may be as old as the replica that ``REFERRAL_READ_BIND`` names."""

from __future__ import annotations

import contextlib
import functools
import typing as t

from .. import clock
from .. import stats as station
from ..errors import UnknownUser
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
