"""What a payment provider reports, in terms that do not depend on which provider it is."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import typing as t

from ..conversions.payment import checked_cents
from ..conversions.payment import checked_id
from ..conversions.payment import checked_metadata
from ..conversions.payment import LONGEST_ID
from ..currency import checked_currency
from ..errors import InvalidEvent
from ..errors import ReferralError

#: What a BIGINT column holds.
_MOST = 2**63 - 1
# No provider is older, and no time zone leads out of what every database holds.
_YEARS = range(1970, 9999)


class EventKind(enum.StrEnum):
    """What an event means for the rewards of a payment."""

    purchase = enum.auto()
    refund = enum.auto()
    #: Also a dispute that was lost or closed: the money is gone either way.
    dispute_opened = enum.auto()
    #: The money is back, or never moved.
    dispute_won = enum.auto()
    #: A refund that was told of before did not go through: the money is back.
    refund_failed = enum.auto()
    ignored = enum.auto()


class Outcome(enum.StrEnum):
    """What came of a delivery, besides the reasons of conversions and reversals."""

    #: Until there is an outcome.
    received = enum.auto()
    #: It was handled before.
    duplicate = enum.auto()
    #: The buyer could not be found; it is kept and may be tried again.
    unknown_user = enum.auto()
    #: A payment or refund of 0, or of an amount that the provider does not tell.
    no_money = enum.auto()
    #: It tells of somebody else's shop; it is kept, in case the shop is the host's own.
    other_company = enum.auto()
    unknown_type = enum.auto()
    #: A membership began; trials and free plans begin too. Payments are events of their own.
    not_a_payment = enum.auto()
    #: Test deliveries may have no data.
    no_data = enum.auto()
    not_paid = enum.auto()
    #: Neither a payment nor a membership is named, so no reward can be found.
    no_payment = enum.auto()
    #: The refund is on its way, failed or was cancelled.
    not_refunded = enum.auto()
    #: The bank asks, no money has moved. A real dispute is another status.
    inquiry = enum.auto()
    unknown_status = enum.auto()
    #: It told that several ids are of one payment.
    linked = enum.auto()


#: What would not be told from another one of its payment without its own id.
_NAMED = (EventKind.dispute_opened, EventKind.dispute_won, EventKind.refund_failed)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WebhookEvent:
    """One event of a payment provider, checked when it is made.

    All but ``ignored`` ones name a payment, a membership or both. Ids are 1 to 255 printable
    characters.

    :param id: the provider's id of the event, the same in every retry.
    :param kind: what it means; an :class:`EventKind` or its text.
    :param payment_id: the provider's id of the payment that was made, refunded or disputed.
        Without it a purchase has its membership's, and anything else is about the payment of
        its membership that qualified.
    :param aliases: where a provider has several ids for one payment (an invoice, an intent, a
        charge): the further ones that this event tells, an empty tuple where it tells one. Which
        belong together is remembered, so that an event finds its payment by any of them. None: the
        provider has one id for each payment.
    :param membership_id: the provider's id of what was bought; default: the payment's id.
    :param user: the buyer of a purchase: a user of the host's, a user's id, or None, which is who
        paid for the same membership before.
    :param reference: the provider's id of the refund or dispute; needed for a dispute and for a
        refund of a part.
    :param amount_cents: what was paid or refunded, in the minor unit of ``currency`` (ISO 4217).
        None: of a purchase, not known; of a refund, everything.
    :param total_cents: of a refund: the whole payment in the same unit, which tells the
        proportion. Default: what the event of the purchase told; as long as that is not known, or
        without a ``reference``, a refund takes back everything.
    :param is_sum: of a refund: whether ``amount_cents`` is the sum of all refunds of the payment
        until now. Sums and single refunds may both be told, and count once.
    :param currency: three letters; default: ``REFERRAL_CURRENCY``.
    :param converted_cents: the provider's own conversion of ``amount_cents``, in the minor unit of
        ``converted_currency``. A purchase's counts where that is ``REFERRAL_CURRENCY``.
    :param occurred_at: when, by the provider's clock, with a time zone; default: when it arrives.
        It tells which of a dispute's states is the later.
    :param metadata: kept with the conversion, as JSON.
    :param payload: what the provider sent, as JSON, for ``@referral.user_loader`` of this provider,
        which then names the buyer instead of ``user``. Where the delivery pays nothing for now, its
        ids and metadata are kept and handed to that function again, see
        :mod:`flask_referral.payments.kept`.
    :param reason: why; of an ``ignored`` event the outcome. What does not print is dropped.
    :raises InvalidEvent: for an event that cannot be so.
    """

    id: str
    kind: EventKind | str
    payment_id: str | None = None
    aliases: tuple[str, ...] | None = None
    membership_id: str | None = None
    user: t.Any = None
    reference: str | None = None
    amount_cents: int | None = None
    total_cents: int | None = None
    is_sum: bool = False
    currency: str | None = None
    converted_cents: int | None = None
    converted_currency: str | None = None
    occurred_at: dt.datetime | None = None
    metadata: dict[str, t.Any] | None = None
    reason: str | None = None
    payload: dict[str, t.Any] | None = None

    def __post_init__(self) -> None:
        try:
            self._check()
        except ReferralError as error:
            raise InvalidEvent(str(error)) from None

    def _check(self) -> None:
        kind = _kind(self.kind)
        checked_id(self.id, "event id")
        for name in ("payment_id", "membership_id", "reference"):
            if getattr(self, name) is not None:
                checked_id(getattr(self, name), name.replace("_", " "))
        if self.aliases is not None:
            self._set("aliases", tuple(checked_id(id, "payment id") for id in self.aliases))
        for name, least in (("amount_cents", 0), ("total_cents", 1), ("converted_cents", 0)):
            if getattr(self, name) is not None:
                checked_cents(getattr(self, name), name, least=least, most=_MOST)
        for name in ("currency", "converted_currency"):
            if getattr(self, name) is not None:
                self._set(name, checked_currency(getattr(self, name)))
        if (self.converted_cents is None) is not (self.converted_currency is None):
            raise InvalidEvent("Pass converted_cents and converted_currency together, or neither.")
        if self.occurred_at is not None:
            self._set("occurred_at", _checked_moment(self.occurred_at))
        if not isinstance(self.payload, dict | None):
            raise InvalidEvent(
                f"payload is a {type(self.payload).__name__}: pass the delivery's JSON as a dict, "
                "or None."
            )
        self._set("kind", kind)
        self._set("metadata", checked_metadata(self.metadata))
        self._set("reason", _cleaned(self.reason))
        if kind is EventKind.ignored:
            return
        if self.payment_id is None and self.membership_id is None:
            raise InvalidEvent(f"A {kind} is about a payment: pass payment_id or membership_id.")
        if self.is_sum and (kind is not EventKind.refund or self.amount_cents is None):
            raise InvalidEvent("is_sum is said of a refund and its amount_cents: pass both.")
        if self.reference is None and (kind in _NAMED or self.is_sum or self.is_part):
            raise InvalidEvent(
                f"This {kind} cannot be told from another one of its payment: pass reference, the "
                "provider's id of it."
            )

    def _set(self, name: str, value: t.Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def is_part(self) -> bool:
        """Whether this refund is one of less than the whole payment."""
        return (
            self.kind == EventKind.refund
            and self.amount_cents is not None
            and self.total_cents is not None
            and self.amount_cents < self.total_cents
        )


class Headers(t.Protocol):
    """Looks up a header, as a mapping and Werkzeug's headers do."""

    def get(self, key: str, /) -> str | None: ...


#: Takes a delivery's raw body and headers; see :meth:`flask_referral.Referral.webhook`.
WebhookReader = t.Callable[[bytes, Headers], WebhookEvent]


def moment_of(value: t.Any) -> dt.datetime | None:
    """Return a provider's time in UTC; None where it is none, or has no time zone."""
    if isinstance(value, dt.datetime) and value.utcoffset() is not None and value.year in _YEARS:
        return value.astimezone(dt.UTC)
    return None


def _checked_moment(value: t.Any) -> dt.datetime:
    moment = moment_of(value)
    if moment is None:
        raise InvalidEvent(
            f"occurred_at={value!r:.80} is no moment: pass a datetime from {_YEARS.start} on with "
            "a time zone, as in datetime.fromtimestamp(seconds, datetime.UTC)."
        )
    return moment


def _kind(value: t.Any) -> EventKind:
    try:
        return EventKind(value)
    except ValueError:
        raise InvalidEvent(
            f"{value!r:.40} is no kind of event: pass one of {', '.join(EventKind)}."
        ) from None


def _cleaned(reason: t.Any) -> str | None:
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise InvalidEvent(f"reason is a {type(reason).__name__}: pass text, or None.")
    # A person may have written it, and a refund counts whatever its reason is.
    return "".join(filter(str.isprintable, reason))[:LONGEST_ID] or None
