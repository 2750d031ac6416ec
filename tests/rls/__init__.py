"""Tests of ``flask_referral.rls``."""
