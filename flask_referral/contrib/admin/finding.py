"""What an operator means by a search: whose user, code, payment or membership it is."""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t
import uuid

import sqlalchemy as sa

from ...db import qualified
from ...errors import UnknownUser
from ...host.identity import convert_key
from ...spelling import normalize_code

if t.TYPE_CHECKING:
    from ...db import sql
    from ...host.state import State

#: Of how many rewards of one payment or membership the people are looked for.
_MOST = 100


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search may mean; all of it is looked for.

    :param text: as it was typed, without blanks around it: a payment's or a membership's id.
    :param users: keys of users: who is named, and whose code this is.
    :param rewards: those of a payment or a membership, and the one with this id.
    """

    text: str
    users: tuple[t.Any, ...] = ()
    rewards: tuple[t.Any, ...] = ()

    @property
    def reward_ids(self) -> list[uuid.UUID]:
        return [row.id for row in self.rewards]

    @property
    def click_ids(self) -> list[uuid.UUID]:
        return [row.click_id for row in self.rewards if row.click_id is not None]

    @property
    def people(self) -> list[t.Any]:
        """Keys of all users that are meant, those of rewards included."""
        named = [
            *self.users,
            *(row.user_id for row in self.rewards),
            *(row.referred_user_id for row in self.rewards if row.referred_user_id is not None),
        ]
        return [*dict.fromkeys(named)]


def find(db: sql.Connection, state: State, text: str) -> Found:
    """Return what a search means. At most three statements, each by an index.

    :param text: a user's key, a code (any that the user has or had, as people write it), or the
        provider's id of a payment or a membership.
    """
    text = text.replace("\0", "").strip()
    models = state.models
    users: list[t.Any] = []
    with contextlib.suppress(UnknownUser):
        users.append(convert_key(models.user_key, text))
    code = normalize_code(text, state.settings.query_param, is_vanity=True)
    if code is not None:
        issued = models.ReferralIssuedCode.__table__.c
        owner = sa.select(issued.user_id).where(issued.code == code, issued.user_id.is_not(None))
        users += qualified.execute(db, owner, {}).scalars()
    return Found(text, tuple(dict.fromkeys(users)), tuple(_rewards(db, state, text)))


def _rewards(db: sql.Connection, state: State, text: str) -> list[t.Any]:
    reward = state.models.ReferralReward.__table__.c
    columns = (reward.id, reward.user_id, reward.referred_user_id, reward.click_id)
    meant = [reward.membership_id == text]
    if providers := _providers(db, state):
        # The index has the provider first.
        meant.append(sa.and_(reward.provider.in_(providers), reward.payment_id == text))
    with contextlib.suppress(ValueError):
        meant.append(reward.id == uuid.UUID(text))
    parts = [sa.select(*columns).where(each).limit(_MOST).subquery() for each in meant]
    found = sa.union(*(sa.select(part) for part in parts)).subquery()
    return list(qualified.execute(db, sa.select(found), {}))


def _providers(db: sql.Connection, state: State) -> list[str]:
    """Return the providers of all rewards, by a look into the index for each."""
    reward = state.models.ReferralReward.__table__.c
    least = sa.select(sa.func.min(reward.provider).label("provider"))
    known = least.cte("known", recursive=True)
    following = least.where(reward.provider > known.c.provider).scalar_subquery()
    known = known.union_all(sa.select(following).where(known.c.provider.is_not(None)))
    query = sa.select(known.c.provider).where(known.c.provider.is_not(None))
    return list(qualified.execute(db, query, {}).scalars())
