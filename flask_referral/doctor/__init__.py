"""What is wrong with an application's setup, and how to mend it."""

from __future__ import annotations

import dataclasses
import typing as t

import sqlalchemy as sa
from alembic.util import CommandError
from flask import Flask

from ..db.failures import explain
from ..db.failures import is_away
from ..errors import ReferralError
from . import books
from . import configuration
from . import database
from . import languages
from . import life
from . import row_security
from . import visits
from . import wallet
from .findings import Check
from .findings import fault
from .findings import Finding
from .findings import Level
from .findings import ok
from .findings import Patient

if t.TYPE_CHECKING:
    from ..host.state import State
__all__ = ["CHECKS", "Finding", "Level", "examine"]

#: All checks, in the order in which they are made.
CHECKS: tuple[Check, ...] = (
    *configuration.CHECKS,
    *languages.CHECKS,
    *database.CHECKS,
    *row_security.CHECKS,
    *wallet.CHECKS,
    *books.CHECKS,
    *life.CHECKS,
    *visits.CHECKS,
)

_CURE = "Mend that, where need be by giving the application's login the right to read, and repeat."


def examine(
    app: Flask, state: State, names: t.Collection[str] | None = None
) -> t.Iterator[Finding]:
    """Make all checks, or those of some names, in an application context; nothing is changed.

    A check whose ground is missing, as when the database is away, is not made and says so.
    """
    patient = Patient(app, state)
    ill: set[str] = set()
    for check in CHECKS:
        if not check.applies(patient) or (names is not None and check.name not in names):
            continue
        missing = next((name for name in check.needs if name in ill), None)
        if missing is not None:
            ill.add(check.name)
            message = f"{check.name!r} can be checked once {missing!r} is mended."
            yield Finding(Level.not_checked, message, check=check.name)
            continue
        for finding in _make(check, patient, ill):
            if finding.level is Level.fault:
                ill.add(check.name)
            yield dataclasses.replace(finding, check=check.name)


def _make(check: Check, patient: Patient, ill: set[str]) -> list[Finding]:
    try:
        return list(check.run(patient)) or [ok(check.healthy)]
    except sa.exc.SQLAlchemyError as error:
        failure = explain(error, patient.state.models)
        if is_away(error):
            # It may have gone away after the check that asks for it.
            ill.add("database")
            return [fault(failure.message, failure.cure)]
        return [
            fault(f"{check.name!r} cannot be checked. {failure.message}", failure.cure or _CURE)
        ]
    except (ReferralError, CommandError) as error:
        return [fault(f"{check.name!r} cannot be checked. {error}", _CURE)]
