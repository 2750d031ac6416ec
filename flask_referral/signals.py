"""Signals, sent after the commit of what they tell; never for what is rolled back.

The sender is the application. A receiver runs in an application context of its own, and so has a
``db.session`` of its own, in which it may read, write and commit; what it does not commit is rolled
back. A receiver that fails is logged; it keeps nobody else from hearing and leaves the host's
session as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

import sqlalchemy as sa
from blinker import NamedSignal
from blinker import Namespace
from flask import Flask
from flask.globals import app_ctx
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.orm import SessionTransaction

_namespace = Namespace()

# What each tells, and with which fields, :mod:`flask_referral.events` says.
code_created = _namespace.signal("referral-code-created")
click_recorded = _namespace.signal("referral-click-recorded")
user_attributed = _namespace.signal("referral-user-attributed")
conversion_created = _namespace.signal("referral-conversion-created")
conversion_credited = _namespace.signal("referral-conversion-credited")
conversion_reversed = _namespace.signal("referral-conversion-reversed")
conversion_voided = _namespace.signal("referral-conversion-voided")
conversion_released = _namespace.signal("referral-conversion-released")
conversion_reinstated = _namespace.signal("referral-conversion-reinstated")

_INFO_KEY = "flask_referral.signals"


@dataclasses.dataclass(frozen=True)
class _Announcement:
    app: Flask
    signal: NamedSignal
    values: dict[str, t.Any]

    def send(self, *, joined: bool = False) -> None:
        """Call the receivers, each with a ``db.session`` of its own.

        The host's session is about to leave ``commit()``, perhaps inside ``with
        db.session.begin()``, where it takes no further statement. It gave its connection back,
        so there is one to take.

        :param joined: whether that session is in a transaction that somebody else will end, as in
            test suites: what it "commits" can only be seen in it, and receivers share it.
        """
        for receiver in self.signal.receivers_for(self.app):
            try:
                with contextlib.nullcontext() if joined else self.app.app_context():
                    receiver(self.app, **self.values)
            except Exception:
                self.app.logger.exception("A receiver of %s failed", self.signal.name)


class _Queue:
    """What a session will announce, by the transaction or savepoint it depends on."""

    def __init__(self, session: Session) -> None:
        self.waiting: list[tuple[SessionTransaction, _Announcement]] = []
        self.due: list[_Announcement] = []
        self.joined = _is_joined(session)
        event.listen(session, "after_commit", self.on_commit)
        event.listen(session, "after_transaction_end", self.on_end)

    def on_commit(self, session: Session) -> None:
        ending = _innermost(session)
        for index, (transaction, announcement) in enumerate(self.waiting):
            if transaction is ending and ending.parent is not None:
                # A released savepoint: from now on it depends on what is around it.
                self.waiting[index] = (ending.parent, announcement)
            elif transaction is ending:
                self.due.append(announcement)

    def on_end(self, session: Session, transaction: SessionTransaction) -> None:
        self.waiting = [item for item in self.waiting if item[0] is not transaction]
        if transaction.parent is None:
            # Taken out first: a receiver may use the session and announce something itself.
            due, self.due = self.due, []
            for announcement in due:
                announcement.send(joined=self.joined)


def send(signal: NamedSignal, **values: t.Any) -> None:
    """Send at once, for what is committed already."""
    _announcement(signal, values).send()


def send_after_commit(session: Session | None, signal: NamedSignal, **values: t.Any) -> None:
    """Send when the session's outermost transaction is committed, if it is.

    :param session: None where what is told is committed already.
    """
    if not signal.receivers:
        return
    if session is None:
        send(signal, **values)
        return
    queue: _Queue | None = session.info.get(_INFO_KEY)
    if queue is None:
        queue = session.info[_INFO_KEY] = _Queue(session)
    queue.waiting.append((_innermost(session), _announcement(signal, values)))


def _announcement(signal: NamedSignal, values: dict[str, t.Any]) -> _Announcement:
    return _Announcement(app_ctx.app, signal, values)


def _is_joined(session: Session) -> bool:
    # A transaction that was begun on a connection is not the session's to end.
    binds = (session.bind, *app_ctx.app.extensions["sqlalchemy"].engines.values())
    return any(isinstance(bind, sa.Connection) for bind in binds)


def _innermost(session: Session) -> SessionTransaction:
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None
    return transaction
