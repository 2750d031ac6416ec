"""What the checks of ``flask referral doctor`` take and give."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import typing as t

import sqlalchemy as sa
from flask import Flask

from ..db import qualified

if t.TYPE_CHECKING:
    from ..host.state import State
#: How many of the rows that are wrong are named.
EXAMPLES = 5


class Level(enum.StrEnum):
    """How bad a finding is."""

    ok = enum.auto()
    #: It works, but not as it should.
    warning = enum.auto()
    #: Something does not work, or money or privacy is at risk.
    fault = enum.auto()
    #: Another check found a fault that has to be mended first.
    not_checked = enum.auto()


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a check has to say, in plain sentences."""

    level: Level
    message: str
    #: How to mend it.
    cure: str | None = None
    #: What the reader may want to look at, such as the source of a trigger.
    detail: str | None = None
    #: The name of the check.
    check: str = ""


def ok(message: str) -> Finding:
    return Finding(Level.ok, message)


def warning(message: str, cure: str, detail: str | None = None) -> Finding:
    return Finding(Level.warning, message, cure, detail)


def fault(message: str, cure: str | None) -> Finding:
    return Finding(Level.fault, message, cure)


def counted(number: int, one: str, many: str) -> str:
    """Return a number with what it counts: ``1 wallet has``, ``2,000 wallets have``."""
    return f"{number:,} {one if number == 1 else many}"


@dataclasses.dataclass(frozen=True)
class Patient:
    """The application that is looked at."""

    app: Flask
    state: State

    @contextlib.contextmanager
    def connect(self) -> t.Iterator[sa.Connection]:
        """Open a connection whose transaction is rolled back at the end: nothing is changed."""
        with self.state.engine.connect() as connection:
            qualified.qualify(connection)
            yield connection

    @property
    def wallet(self) -> sa.Table:
        """The host's wallet, for checks that are made only where there is one."""
        table = self.state.wallet_table
        assert table is not None
        return table

    @property
    def dialect(self) -> str:
        return self.state.engine.dialect.name

    @property
    def schema(self) -> str | None:
        """The schema of our tables, where the host's metadata names one."""
        return self.state.models.metadata.schema

    @property
    def is_rehearsal(self) -> bool:
        """Whether this is a debug or a test session, and not what visitors see."""
        return bool(self.app.debug or self.app.testing)


@dataclasses.dataclass(frozen=True)
class Check:
    """One check; where it finds nothing to say, it says ``healthy``."""

    name: str
    run: t.Callable[[Patient], t.Iterable[Finding]]
    healthy: str
    #: The names of earlier checks without whose health this one cannot be made.
    needs: tuple[str, ...] = ()
    #: Whether there is anything to check in this application.
    applies: t.Callable[[Patient], bool] = lambda patient: True
