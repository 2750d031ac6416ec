"""The open transaction that money moves in."""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.orm import SessionTransaction

from .. import outbox
from ..db import sql
from ..errors import ReferralError

if t.TYPE_CHECKING:
    from ..db.models import Models
    from ..events import Event
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
        if sql.is_autocommit(self.db):
            raise ReferralError(
                "A wallet cannot be credited in AUTOCOMMIT, where a conversion could be stored "
                "without its credit; use a session with the default isolation level."
            )

    @contextlib.contextmanager
    def all_or_nothing(self) -> t.Iterator[None]:
        """Let the transaction, or the savepoint that is open, only be rolled back after an error.

        Whoever catches the error and commits would store a payment without its reward or a refund
        that took nothing: SQLite keeps what came before the error, and PostgreSQL stores nothing
        without saying so. Here the commit raises the error again.
        """
        try:
            yield
        except BaseException as error:
            self._refuse_commit(error)
            raise

    def _refuse_commit(self, error: BaseException) -> None:
        refused = _innermost(self.session)

        def raise_error(session: Session) -> None:
            if _innermost(session) is refused:
                raise error

        event.listen(self.session, "before_commit", raise_error)

    @contextlib.contextmanager
    def savepoint(self) -> t.Iterator[None]:
        """Let an error in the block cost what the block did, its announcements included."""
        with self.session.begin_nested():
            # The session makes the savepoint when it is next asked for the connection.
            self.models.connection(self.session)
            yield

    def announce(self, event: Event) -> None:
        """Tell of an event when the session's outermost transaction is committed, if it is."""
        outbox.announce(self.db, self.session, self.models, self.settings, event)


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()
