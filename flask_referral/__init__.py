"""Referral codes, tracking and wallet bonuses for Flask applications."""

from __future__ import annotations

from .codes import generate_referral_code
from .codes import normalize_code
from .db.models import ReferralClickMixin
from .db.models import ReferralCodeMixin
from .db.models import ReferralConversionMixin
from .db.models import ReferralDailyMixin
from .db.models import ReferralDailySourceMixin
from .db.models import ReferralEventMixin
from .db.models import ReferralIssuedCodeMixin
from .errors import CodeNotAllowed
from .errors import CodeTaken
from .errors import ConfigurationError
from .errors import InvalidEvent
from .errors import InvalidSignature
from .errors import ReferralError
from .extension import Referral
from .payments.events import EventKind
from .payments.events import WebhookEvent
from .results import Attribution
from .results import AttributionReason
from .results import ConversionReason
from .results import ConversionResult
from .results import Invitation
from .results import LeaderboardEntry
from .results import OutboxEvent
from .results import Overview
from .results import Purchase
from .results import ReferralEntry
from .results import ReferralNote
from .results import ReferralState
from .results import ReversalReason
from .results import ReversalResult
from .results import Reward
from .results import Stats

__all__ = [
    "Attribution",
    "AttributionReason",
    "CodeNotAllowed",
    "CodeTaken",
    "ConfigurationError",
    "ConversionReason",
    "ConversionResult",
    "EventKind",
    "InvalidEvent",
    "InvalidSignature",
    "Invitation",
    "LeaderboardEntry",
    "OutboxEvent",
    "Overview",
    "Purchase",
    "Referral",
    "ReferralClickMixin",
    "ReferralCodeMixin",
    "ReferralConversionMixin",
    "ReferralDailyMixin",
    "ReferralDailySourceMixin",
    "ReferralEntry",
    "ReferralError",
    "ReferralEventMixin",
    "ReferralIssuedCodeMixin",
    "ReferralNote",
    "ReferralState",
    "ReversalReason",
    "ReversalResult",
    "Reward",
    "Stats",
    "WebhookEvent",
    "generate_referral_code",
    "normalize_code",
]
