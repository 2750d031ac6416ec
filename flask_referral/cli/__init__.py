"""``flask referral …``."""

from __future__ import annotations

from .attribution import reattribute
from .clicks import purge
from .clicks import rollup
from .codes import backfill
from .codes import code
from .db import db
from .doctor import doctor
from .group import referral
from .rls import rls

__all__ = ["referral"]

referral.add_command(db)
referral.add_command(code)
referral.add_command(backfill)
referral.add_command(reattribute)
referral.add_command(doctor)
referral.add_command(rollup)
referral.add_command(purge)
referral.add_command(rls)
