"""What the methods of :class:`flask_referral.Referral` answer: never without a reason."""

from __future__ import annotations

import abc
import dataclasses
import datetime as dt
import decimal
import enum
import typing as t
import uuid

from .db.plain import plain

if t.TYPE_CHECKING:
    from .db.models import ReferralClickMixin
    from .db.models import ReferralConversionMixin
    from .db.models import ReferralRewardMixin


class Result(abc.ABC):
    """What the answers share: ``app.json`` and kombu (so Celery) write them by ``to_dict``."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, t.Any]:
        """Return plain values: texts, numbers, None, lists and dicts; times are ISO 8601 in UTC."""

    # https://docs.celeryq.dev/projects/kombu, kombu.utils.json.
    def __json__(self) -> dict[str, t.Any]:
        return self.to_dict()


class Outcome(Result):
    """An answer with mapped objects, which can leave their session behind."""

    def __post_init__(self) -> None:
        # Now: a commit expires mapped objects, and a queue writes an answer down when the session
        # that could read them again is gone.
        kept = {name: _kept(value) for name, value in vars(self).items()}
        object.__setattr__(self, "_kept", kept)

    def to_dict(self) -> dict[str, t.Any]:
        """Return plain values; of a mapped object, its columns without what is personal."""
        return {name: plain(value) for name, value in vars(self)["_kept"].items()}

    def __getstate__(self) -> dict[str, t.Any]:
        # A pickle has no mapped object: their classes are found by no name.
        kept = vars(self)["_kept"]
        return {**kept, "_kept": kept}


def _kept(value: t.Any) -> t.Any:
    if isinstance(value, tuple):
        return tuple(_kept(each) for each in value)
    return value.kept() if hasattr(value, "kept") else value


class AttributionReason(enum.StrEnum):
    """Why a user was bound to a referrer, or was not."""

    attributed = enum.auto()
    #: No cookie and no code: the user came by himself.
    no_visit = enum.auto()
    #: The code is none, or does not exist any more.
    unknown_code = enum.auto()
    self_referral = enum.auto()
    #: The referrer was referred by this user.
    circular = enum.auto()
    already_attributed = enum.auto()
    #: The visit is older than ``REFERRAL_COOKIE_MAX_AGE``.
    window_over = enum.auto()
    #: The account is older than the visit (with a typed code, older than the window), has no date
    #: where others have one, or paid before.
    existing_account = enum.auto()
    #: The referrer's code is switched off; see :meth:`flask_referral.Referral.disable`.
    disabled = enum.auto()
    #: By the function of ``@referral.attribution_check``.
    refused = enum.auto()


@dataclasses.dataclass(frozen=True)
class Attribution(Outcome):
    """The outcome of :meth:`flask_referral.Referral.attribute`."""

    reason: AttributionReason
    #: The user's bound click, where the user has one.
    click: ReferralClickMixin | None = None
    #: The key of the user whose code it is, as far as it was looked up.
    referrer_id: t.Any = None
    code: str | None = None


class ConversionReason(enum.StrEnum):
    """Why :meth:`flask_referral.Referral.convert` did what it did."""

    #: The bonus of the payment that qualified is credited (or recorded, where there is no wallet).
    converted = enum.auto()
    #: The bonus of a further payment is credited; see ``REFERRAL_RENEWALS``.
    renewed = enum.auto()
    #: It is credited when its hold is over.
    pending = enum.auto()
    #: Over ``REFERRAL_VELOCITY_LIMIT``; waits for ``flask referral release`` or ``void``.
    held = enum.auto()
    #: This payment was handled before, or this user has no further payment that may earn.
    already_converted = enum.auto()
    #: Nobody referred this user; nothing is stored.
    not_referred = enum.auto()
    #: The bonus is 0 cents, or the payment is below ``REFERRAL_MIN_PAYMENT_CENTS``; nothing is
    #: stored.
    no_bonus = enum.auto()
    #: The referrer's code is switched off; nothing is stored.
    disabled = enum.auto()


class ReversalReason(enum.StrEnum):
    """Why :meth:`flask_referral.Referral.reverse` did what it did."""

    #: Taken back out of the wallet.
    reversed = enum.auto()
    #: Given up before maturity; nothing had been paid.
    voided = enum.auto()
    #: This refund was handled before; nothing changed.
    already_reversed = enum.auto()
    #: Nothing of the bonus is left; the refund is recorded.
    nothing_to_reverse = enum.auto()
    #: No payment of this membership earned anything yet; the refund is kept and applied when one
    #: does.
    unknown_membership = enum.auto()


@dataclasses.dataclass(frozen=True)
class Reward:
    """What a payment is worth.

    :param referrer_cents: the referrer's bonus.
    :param referred_cents: the referred user's own, in a two-sided program.
    :param hold_days: days before both are credited; None: ``REFERRAL_HOLD_DAYS``.
    :param campaign: a label of the policy's own, which statistics report.
    """

    referrer_cents: int
    referred_cents: int = 0
    hold_days: int | None = None
    campaign: str | None = None


@dataclasses.dataclass(frozen=True)
class Purchase:
    """What a ``reward_policy`` decides on.

    :param referrer_id: key of the user whose code it was.
    :param referred_id: key of the user who buys.
    :param code: the code.
    :param provider: who tells of the payment; ``host`` for calls of the host's own.
    :param payment_id: the provider's id of the payment.
    :param membership_id: the provider's id of what was bought.
    :param number: 1 for the payment that qualifies, 2 and more for renewals. Payments that were
        taken back whole do not count.
    :param paid_cents: what was paid in cents of the wallet's currency, ``REFERRAL_CURRENCY``; None
        where that is not known. Nothing is converted but by the provider itself.
    :param currency: the currency that the buyer paid in, as three lower-case letters, or None.
    :param paid_amount: what the buyer paid, in units of that currency, or None.
    :param metadata: what the caller of ``convert`` passed.
    :param first_paid_at: when the payment that qualified was made (UTC); None for that payment.
    """

    referrer_id: t.Any
    referred_id: t.Any
    code: str
    provider: str
    payment_id: str
    membership_id: str
    number: int
    paid_cents: int | None
    currency: str | None
    paid_amount: decimal.Decimal | None
    metadata: t.Mapping[str, t.Any]
    first_paid_at: dt.datetime | None


#: Returns cents for the referrer, a :class:`Reward`, or None for ``REFERRAL_BONUS_CENTS``.
RewardPolicy = t.Callable[[Purchase], "int | Reward | None"]


@dataclasses.dataclass(frozen=True)
class ConversionResult(Outcome):
    """The answer of :meth:`flask_referral.Referral.convert`.

    :param reason: what happened.
    :param conversion: the referred user's conversion, or None.
    :param rewards: what this payment earned, the referrer's first.
    :param created: whether this call stored them.
    :param bonus_cents: the referrer's bonus for this payment, in cents; where this payment earned
        none, that of the payment that qualified.
    """

    reason: ConversionReason
    conversion: ReferralConversionMixin | None
    rewards: tuple[ReferralRewardMixin, ...]
    created: bool
    bonus_cents: int


@dataclasses.dataclass(frozen=True)
class ReversalResult(Outcome):
    """The answer of :meth:`flask_referral.Referral.reverse`.

    :param reason: what happened.
    :param conversion: the conversion, or None.
    :param reversed_cents: what this call took back of the referrer's bonus, in cents.
    :param shortfall_cents: what of that bonus is missing, because it was no longer in the wallet.
    """

    reason: ReversalReason
    conversion: ReferralConversionMixin | None
    reversed_cents: int
    shortfall_cents: int


@dataclasses.dataclass(frozen=True)
class StatsTotals:
    """What a code has brought since it was made; amounts in cents.

    :param clicks: visits, those of users who signed up included.
    :param signups: users who were attributed to the code.
    :param conversions: all but the void ones.
    :param earned_cents: bonuses that were credited, before reversals.
    :param pending_cents: bonuses that wait for their date or for a reviewer.
    :param reversed_cents: what was taken back of the credited ones.
    """

    clicks: int
    signups: int
    conversions: int
    earned_cents: int
    pending_cents: int
    reversed_cents: int


@dataclasses.dataclass(frozen=True)
class StatsDay:
    """One UTC day: its clicks, the sign-ups that came of them, and its conversions."""

    date: dt.date
    clicks: int
    signups: int
    conversions: int
    earned_cents: int


@dataclasses.dataclass(frozen=True)
class StatsSource:
    """What came from one source, of all time.

    :param source: the ``utm_source`` of the visits, else the site that led here; None: they came
        directly, or before sources were kept; ``code``: a code was typed, there was no visit;
        ``other``: all sources that are not listed.
    :param clicks: its clicks.
    :param signups: the users who signed up through them.
    :param conversions: the purchases of these users that qualified.
    :param earned_cents: bonuses that their payments earned, before reversals.
    """

    source: str | None
    clicks: int
    signups: int
    conversions: int
    earned_cents: int


class ReferralState(enum.StrEnum):
    """How far somebody whom a referrer brought is."""

    #: Nothing that was bought has earned anything yet.
    signed_up = enum.auto()
    #: A bonus waits for its date.
    pending = enum.auto()
    #: A bonus waits for a reviewer.
    held = enum.auto()
    #: A bonus was credited, and something of it is left.
    earned = enum.auto()
    #: All that was credited has been taken back.
    reversed = enum.auto()
    #: Given up before anything was credited.
    void = enum.auto()


class ReferralNote(enum.StrEnum):
    """Why a referral earns less than it might."""

    #: Held: a reviewer looks at it.
    review = enum.auto()
    #: A purchase was refunded, or is disputed, in part or one of several.
    partly_refunded = enum.auto()
    #: What was bought was refunded, or is disputed.
    refunded = enum.auto()
    #: It was refunded before its date, or a reviewer said no.
    cancelled = enum.auto()


@dataclasses.dataclass(frozen=True)
class ReferralEntry(Result):
    """Somebody whom a referrer brought; the answer of :meth:`flask_referral.Referral.referrals`.

    Amounts are the referrer's own, in cents, of all that this person bought.

    :param cursor: what ``before`` takes to go on after this entry; it tells nothing else.
    :param signed_up_at: UTC.
    :param state: how far it is.
    :param name: what ``@referral.display_name_loader`` says, else None.
    :param converted_at: when the first purchase that counts was made (UTC), or None.
    :param available_at: when the next pending bonus is due (UTC), or None.
    :param earned_cents: what was credited, before reversals.
    :param pending_cents: what waits for its date or for a reviewer.
    :param reversed_cents: what was taken back of what had been credited.
    :param payments: how many payments earned something, renewals included.
    :param reason: why it earns less than it might, or None.
    """

    cursor: str
    signed_up_at: dt.datetime
    state: ReferralState
    name: str | None
    converted_at: dt.datetime | None
    available_at: dt.datetime | None
    earned_cents: int
    pending_cents: int
    reversed_cents: int
    payments: int
    reason: ReferralNote | None

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``GET /api/referral/referrals`` lists, ready for JSON."""
        return {name: plain(value) for name, value in vars(self).items()}


@dataclasses.dataclass(frozen=True)
class Invitation(Result):
    """Who invited a visitor; the answer of :meth:`flask_referral.Referral.invitation`.

    :param code: the code of the visit.
    :param name: what ``@referral.display_name_loader`` says of its owner, else None.
    """

    code: str
    name: str | None

    def to_dict(self) -> dict[str, t.Any]:
        """Return the fields."""
        return dict(vars(self))


@dataclasses.dataclass(frozen=True)
class LeaderboardEntry(Result):
    """A referrer's place; the answer of :meth:`flask_referral.Referral.leaderboard`.

    :param rank: 1 for the first.
    :param user_id: the key of the user, for the host alone: :meth:`to_dict` leaves it out.
    :param name: what ``@referral.display_name_loader`` says, else None.
    :param signups: the users who signed up.
    :param conversions: the purchases that qualified.
    :param earned_cents: what was credited, less what was taken back.
    """

    rank: int
    user_id: t.Any
    name: str | None
    signups: int
    conversions: int
    earned_cents: int

    def to_dict(self) -> dict[str, t.Any]:
        """Return the fields without the user's key."""
        return {name: value for name, value in vars(self).items() if name != "user_id"}


@dataclasses.dataclass(frozen=True)
class OutboxEvent:
    """What a function of ``@referral.on`` is told.

    :param id: the same at each attempt, also in the ``webhook-id`` of what is posted.
    :param type: as ``conversion_credited``.
    :param at: when it happened (UTC).
    :param data: an event of :mod:`flask_referral.events`, its fields as attributes.
    """

    id: uuid.UUID
    type: str
    at: dt.datetime
    data: t.Any


@dataclasses.dataclass(frozen=True)
class OverviewTotals:
    """What the whole program brought and cost; amounts are in cents, welcome bonuses included.

    :param clicks: visits through all codes, each visitor once in ``REFERRAL_DEDUPE_SECONDS``.
    :param signups: users who were bound to a referrer.
    :param conversions: payments that qualified; those given up before maturity are none.
    :param earned_cents: what was credited, before reversals.
    :param pending_cents: what is owed: it waits for its date or for a reviewer.
    :param reversed_cents: what was taken back of what had been credited.
    :param shortfall_cents: what is to be taken back and was not in the wallets.
    """

    clicks: int
    signups: int
    conversions: int
    earned_cents: int
    pending_cents: int
    reversed_cents: int
    shortfall_cents: int

    @property
    def paid_cents(self) -> int:
        """What was credited and not taken back."""
        return self.earned_cents - self.reversed_cents

    @property
    def signup_rate(self) -> float | None:
        """Sign-ups for each click, 0 to 1; None without clicks."""
        return self.signups / self.clicks if self.clicks else None

    @property
    def conversion_rate(self) -> float | None:
        """Conversions for each sign-up; None without sign-ups."""
        return self.conversions / self.signups if self.signups else None

    def to_dict(self) -> dict[str, t.Any]:
        """Return the fields, and what is computed of them."""
        computed = ("paid_cents", "signup_rate", "conversion_rate")
        return vars(self) | {name: getattr(self, name) for name in computed}


@dataclasses.dataclass(frozen=True)
class OverviewCampaign:
    """What came of one campaign of the ``reward_policy``'s, of all time.

    :param campaign: the policy's label.
    :param payments: how many payments earned something, renewals included.
    """

    campaign: str
    conversions: int
    payments: int
    earned_cents: int
    pending_cents: int
    reversed_cents: int
    shortfall_cents: int


@dataclasses.dataclass(frozen=True)
class OverviewTagged:
    """What came through links with one ``utm_campaign``, of all time."""

    utm_campaign: str
    clicks: int
    signups: int


@dataclasses.dataclass(frozen=True)
class OverviewWaiting:
    """What waits for somebody.

    :param held: rewards that a reviewer releases or voids.
    :param due: pending rewards that ``flask referral mature`` credits.
    :param deliveries: webhooks that ``flask referral events retry`` may turn into something.
    """

    held: int
    due: int
    deliveries: int


@dataclasses.dataclass(frozen=True)
class Overview(Result):
    """The whole program; the answer of :meth:`flask_referral.Referral.overview`.

    :param days: how many days ``daily`` has.
    :param totals: of all time.
    :param period: of these days: their clicks, the sign-ups and the payments made on them.
    :param daily: one entry for each day, oldest first; the last is today (UTC). Here a sign-up is
        counted on its own day, not on that of its click.
    :param sources: where all that came from, most clicks first; their sums are the totals.
    :param campaigns: by the label that the ``reward_policy`` gave, most payments first, at most
        100.
    :param utm_campaigns: by the ``utm_campaign`` of links, most clicks first, at most 100.
    """

    days: int
    totals: OverviewTotals
    period: OverviewTotals
    daily: tuple[StatsDay, ...]
    sources: tuple[StatsSource, ...]
    campaigns: tuple[OverviewCampaign, ...]
    utm_campaigns: tuple[OverviewTagged, ...]
    waiting: OverviewWaiting

    def to_dict(self) -> dict[str, t.Any]:
        """Return plain values, ready for JSON."""
        return {name: plain(value) for name, value in vars(self).items()}


@dataclasses.dataclass(frozen=True)
class Stats(Result):
    """The answer of :meth:`flask_referral.Referral.stats`.

    :param code: the user's code, or None where none has been made yet.
    :param link: its share link, or None.
    :param days: how many days ``daily`` has.
    :param daily: one entry for each day, oldest first; the last is today (UTC).
    :param sources: where all that came from, most clicks first; their sums are the totals.
    """

    code: str | None
    link: str | None
    days: int
    totals: StatsTotals
    daily: tuple[StatsDay, ...]
    sources: tuple[StatsSource, ...]

    @classmethod
    def of(cls, answer: t.Mapping[str, t.Any]) -> Stats:
        """Return what :meth:`to_dict` made this of."""
        daily = tuple(
            StatsDay(**{**day, "date": dt.date.fromisoformat(day["date"])})
            for day in answer["daily"]
        )
        sources = tuple(StatsSource(**source) for source in answer["sources"])
        totals = StatsTotals(**answer["totals"])
        return cls(**{**answer, "totals": totals, "daily": daily, "sources": sources})

    def to_dict(self) -> dict[str, t.Any]:
        """Return what ``GET /api/referral/stats`` answers, ready for JSON."""
        daily = [vars(day) | {"date": day.date.isoformat()} for day in self.daily]
        sources = [dict(vars(source)) for source in self.sources]
        return vars(self) | {
            "totals": dict(vars(self.totals)),
            "daily": daily,
            "sources": sources,
        }
