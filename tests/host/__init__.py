"""Tests of ``flask_referral.host``."""
