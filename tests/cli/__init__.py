"""Tests of ``flask_referral.cli``."""
