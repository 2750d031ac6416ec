"""``flask referral …``."""

from __future__ import annotations

from .attribution import reattribute
from .clicks import purge
from .clicks import rollup
from .codes import backfill
from .codes import code
from .codes import codes
from .conversions import convert
from .conversions import mature
from .conversions import release
from .conversions import reverse
from .conversions import void
from .db import db
from .deliver import deliver
from .doctor import doctor
from .events import events
from .group import referral
from .init import init
from .reports import leaderboard
from .reports import overview
from .rls import rls
from .users import erase
from .users import export
from .users import stats

__all__ = ["referral"]

referral.add_command(init)
referral.add_command(db)
referral.add_command(code)
referral.add_command(codes)
referral.add_command(backfill)
referral.add_command(reattribute)
referral.add_command(doctor)
referral.add_command(rollup)
referral.add_command(purge)
referral.add_command(rls)
referral.add_command(stats)
referral.add_command(overview)
referral.add_command(leaderboard)
referral.add_command(convert)
referral.add_command(reverse)
referral.add_command(mature)
referral.add_command(release)
referral.add_command(void)
referral.add_command(events)
referral.add_command(deliver)
referral.add_command(export)
referral.add_command(erase)
