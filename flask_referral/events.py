"""What may be told of: each event once, with its fields, as signals and as rows of the outbox.

A signal's receivers get the fields by name, ``@referral.on`` and webhooks the whole of them. Fields
are ids, cents and words; keys of users have the type of the host's own.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
import uuid

from blinker import NamedSignal

from . import signals
from .db.models import RewardRole
from .db.models import RewardStatus
from .db.plain import plain

E = t.TypeVar("E", bound="Event")

#: The fields that are keys of users.
USERS = frozenset(("user_id", "referrer_id", "referred_id"))
_IDS = frozenset(("click_id", "conversion_id", "reward_id"))
#: By their names.
EVENTS: dict[str, type[Event]] = {}


class Event:
    """What the events share."""

    #: As ``conversion_credited``.
    name: t.ClassVar[str]
    signal: t.ClassVar[NamedSignal]
    #: Whose events it is told in order with.
    subject: t.ClassVar[str] = "user_id"
    #: Whether it is in the outbox, too.
    is_kept: t.ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        cls.signal = getattr(signals, cls.name)
        EVENTS[cls.name] = cls

    def values(self) -> dict[str, t.Any]:
        """Return the fields."""
        fields = dataclasses.fields(t.cast(t.Any, self))
        return {field.name: getattr(self, field.name) for field in fields}

    def payload(self) -> dict[str, t.Any]:
        """Return the fields as JSON."""
        return {name: plain(value) for name, value in self.values().items()}

    @classmethod
    def of(cls: type[E], payload: t.Mapping[str, t.Any], key: t.Callable[[t.Any], t.Any]) -> E:
        """Return the event that :meth:`payload` was made of.

        :param key: returns a user's key of what JSON has of it.
        """
        values = dict(payload)
        for name, value in payload.items():
            if value is not None and name in USERS | _IDS:
                values[name] = key(value) if name in USERS else uuid.UUID(value)
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeCreated(Event):
    """A user got a code: the generated one, a chosen one, or one in place of another."""

    user_id: t.Any
    code: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClickRecorded(Event):
    """A visit was recorded; not in the outbox, where each would be a second row."""

    is_kept = False

    click_id: uuid.UUID
    code: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserAttributed(Event):
    """A new user was bound to a referrer."""

    subject = "referrer_id"

    user_id: t.Any
    referrer_id: t.Any
    code: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionCreated(Event):
    """A payment earned rewards, whatever their status; ``number`` is 1, or more for a renewal."""

    subject = "referrer_id"

    conversion_id: uuid.UUID
    referrer_id: t.Any
    referred_id: t.Any
    provider: str
    payment_id: str
    membership_id: str
    number: int
    status: RewardStatus
    bonus_cents: int
    referred_bonus_cents: int
    campaign: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfReward:
    """What those that follow have in common: one is told for each reward."""

    reward_id: uuid.UUID
    #: None once the buyer is deleted.
    conversion_id: uuid.UUID | None
    #: Whose wallet.
    user_id: t.Any
    #: ``referrer`` or ``referred``.
    role: RewardRole


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionCredited(OfReward, Event):
    """A reward became its beneficiary's, at once or at maturity."""

    cents: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionReversed(OfReward, Event):
    """A reward was taken back, in whole or in part; ``shortfall_cents`` are missing."""

    cents: int
    shortfall_cents: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionVoided(OfReward, Event):
    """A reward was given up before maturity, in whole or in part."""

    cents: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionReleased(OfReward, Event):
    """A reviewer let a held reward go: it is credited, or pending until its hold is over."""

    status: RewardStatus


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionReinstated(OfReward, Event):
    """A reward that had been taken back is its beneficiary's again; before maturity 0 cents."""

    cents: int
