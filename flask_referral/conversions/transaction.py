"""The open transaction that money moves in."""

from __future__ import annotations

import dataclasses
import typing as t

import sqlalchemy as sa
from sqlalchemy.orm import Session

from .. import signals
from .. import wallet

if t.TYPE_CHECKING:
    from blinker import NamedSignal

    from ..db.models import Models
    from ..settings import Settings


@dataclasses.dataclass(frozen=True)
class Transaction:
    """What conversions, reversals and maturity work in; none of them commits.

    :param db: the session's own connection to the database of the users.
    :param wallet: the host's wallet table, or None: nothing is credited.
    """

    session: Session
    db: sa.Connection
    models: Models
    settings: Settings
    wallet: sa.Table | None

    @classmethod
    def begin(
        cls, session: Session, models: Models, settings: Settings, wallet: sa.Table | None
    ) -> Transaction:
        """Join the session's transaction; what the host has pending is written first."""
        session.flush()
        return cls(session, models.connection(session), models, settings, wallet)

    def refuse_autocommit(self) -> None:
        """Refuse to begin what could be stored by halves.

        :raises ReferralError: where each statement is a transaction of its own.
        """
        wallet.refuse_autocommit(self.db)

    def announce(self, signal: NamedSignal, **values: t.Any) -> None:
        """Send a signal when the session's outermost transaction is committed, if it is."""
        signals.send_after_commit(self.session, signal, **values)
