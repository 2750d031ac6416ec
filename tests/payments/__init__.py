"""Tests of ``flask_referral.payments``."""
