"""What the implementations have in common."""

from __future__ import annotations

SECRET_KEY = "for measurements only, and long enough"
BASE_URL = "https://example.com"
COOKIE = "virtuna_referral"
BONUS_CENTS = 1000
#: Seconds; one click for each visitor and code in this window.
WINDOW = 86_400
MAX_AGE = 2_592_000
DAYS = 30
