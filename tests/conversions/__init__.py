"""Tests of ``flask_referral.conversions``."""
