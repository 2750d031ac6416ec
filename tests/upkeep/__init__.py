"""Tests of ``flask_referral.upkeep``."""
