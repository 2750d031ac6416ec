"""``flask referral …``."""

from __future__ import annotations

from .db import db
from .group import referral

__all__ = ["referral"]

referral.add_command(db)
