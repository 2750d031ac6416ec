"""Referral codes, tracking and wallet bonuses for Flask applications."""

from __future__ import annotations

from .codes import generate_referral_code
from .codes import normalize_code
from .errors import ConfigurationError
from .errors import ReferralError
from .extension import Referral
from .models import ReferralClickMixin
from .models import ReferralCodeMixin
from .models import ReferralConversionMixin
from .models import ReferralDailyMixin
from .models import ReferralEventMixin
from .results import Attribution
from .results import AttributionReason
from .results import ConversionReason
from .results import ConversionResult
from .results import Purchase
from .results import ReversalReason
from .results import ReversalResult
from .results import Reward
from .results import Stats

__all__ = [
    "Attribution",
    "AttributionReason",
    "ConfigurationError",
    "ConversionReason",
    "ConversionResult",
    "Purchase",
    "Referral",
    "ReferralClickMixin",
    "ReferralCodeMixin",
    "ReferralConversionMixin",
    "ReferralDailyMixin",
    "ReferralError",
    "ReferralEventMixin",
    "ReversalReason",
    "ReversalResult",
    "Reward",
    "Stats",
    "generate_referral_code",
    "normalize_code",
]
