"""Tests of ``flask_referral.db``."""
