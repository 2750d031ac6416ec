"""What the methods of :class:`flask_referral.Referral` answer."""

from __future__ import annotations

import dataclasses
import enum
import typing as t

if t.TYPE_CHECKING:
    from .models import ReferralClickMixin


class AttributionReason(enum.StrEnum):
    """Why a user was bound to a referrer, or was not."""

    attributed = "attributed"
    #: No cookie and no code: the user came by himself.
    no_visit = "no_visit"
    #: The code is none, or does not exist any more.
    unknown_code = "unknown_code"
    self_referral = "self_referral"
    already_attributed = "already_attributed"
    #: The visit is older than ``REFERRAL_COOKIE_MAX_AGE``.
    window_over = "window_over"
    #: The account is older than the visit; with a typed code, older than the window.
    existing_account = "existing_account"


@dataclasses.dataclass(frozen=True)
class Attribution:
    """The outcome of :meth:`flask_referral.Referral.attribute`."""

    reason: AttributionReason
    #: The user's bound click, where the user has one.
    click: ReferralClickMixin | None = None
    #: The key of the user whose code it is, as far as it was looked up.
    referrer_id: t.Any = None
    code: str | None = None
