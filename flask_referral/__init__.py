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
from .results import Attribution
from .results import AttributionReason

__all__ = [
    "Attribution",
    "AttributionReason",
    "ConfigurationError",
    "Referral",
    "ReferralClickMixin",
    "ReferralCodeMixin",
    "ReferralConversionMixin",
    "ReferralError",
    "generate_referral_code",
    "normalize_code",
]
