"""Tests of ``flask_referral.schema``."""
