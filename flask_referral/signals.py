"""Signals, sent after the commit of what they tell; never for what is rolled back.

The sender is the application. A receiver has a ``db.session`` of its own, in which it may read,
write and commit; what it does not commit is rolled back. A receiver that fails is logged; it
keeps nobody else from hearing and leaves the host's session as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

from blinker import NamedSignal
from blinker import Namespace
from flask import current_app
from flask import Flask
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.orm import SessionTransaction

if t.TYPE_CHECKING:
    from .host.state import State
_namespace = Namespace()

#: A user got a code. ``user_id``, ``code``.
code_created = _namespace.signal("referral-code-created")
#: A visit was recorded. ``click_id``, ``code``.
click_recorded = _namespace.signal("referral-click-recorded")
#: A new user was bound to a referrer. ``user_id``, ``referrer_id``, ``code``.
user_attributed = _namespace.signal("referral-user-attributed")
#: A payment earned rewards, whatever their status. ``conversion_id``, ``referrer_id``,
#: ``referred_id``, ``provider``, ``payment_id``, ``membership_id``, ``number`` (1, or more for a
#: renewal), ``status``, ``bonus_cents``, ``referred_bonus_cents``, ``campaign``.
conversion_created = _namespace.signal("referral-conversion-created")
# Those that follow are sent for each reward: ``reward_id``, ``conversion_id`` (None once the buyer
# is deleted), ``user_id`` (whose wallet), ``role`` (referrer or referred), and what is named here.
#: A reward became its beneficiary's, at once or at maturity. ``cents``.
conversion_credited = _namespace.signal("referral-conversion-credited")
#: A reward was taken back, in whole or in part. ``cents``, ``shortfall_cents``: what is missing.
conversion_reversed = _namespace.signal("referral-conversion-reversed")
#: A reward was given up before maturity, in whole or in part. ``cents``.
conversion_voided = _namespace.signal("referral-conversion-voided")
#: A reviewer let a held reward go. ``status``: credited now, or pending until its hold is over.
conversion_released = _namespace.signal("referral-conversion-released")
#: A reward that had been taken back is its beneficiary's again. ``cents``: 0 before maturity, when
#: it will be credited with the rest.
conversion_reinstated = _namespace.signal("referral-conversion-reinstated")

_INFO_KEY = "flask_referral.signals"


@dataclasses.dataclass(frozen=True)
class _Announcement:
    app: Flask
    signal: NamedSignal
    values: dict[str, t.Any]

    def send(self) -> None:
        for receiver in self.signal.receivers_for(self.app):
            try:
                with _own_session(self.app):
                    receiver(self.app, **self.values)
            except Exception:
                self.app.logger.exception("A receiver of %s failed", self.signal.name)


@contextlib.contextmanager
def _own_session(app: Flask) -> t.Iterator[None]:
    """Lend the receiver a ``db.session``.

    The host's own is about to leave ``commit()``, perhaps inside ``with db.session.begin()``,
    where it takes no further statement. It gave its connection back, so there is one to take.
    """
    state: State = app.extensions["referral"].state
    registry = state.db.session.registry
    hosts = registry() if registry.has() else None
    if hosts is not None and state.is_joined(hosts):
        # What it has "committed" can only be seen on the connection that it was joined to.
        yield
        return
    registry.clear()
    try:
        yield
    finally:
        state.db.session.remove()
        if hosts is not None:
            registry.set(hosts)


class _Queue:
    """What a session will announce, by the transaction or savepoint it depends on."""

    def __init__(self, session: Session) -> None:
        self.waiting: list[tuple[SessionTransaction, _Announcement]] = []
        self.due: list[_Announcement] = []
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
                announcement.send()


def send(signal: NamedSignal, **values: t.Any) -> None:
    """Send at once, for what is committed already."""
    _announcement(signal, values).send()


def send_after_commit(session: Session, signal: NamedSignal, **values: t.Any) -> None:
    """Send when the session's outermost transaction is committed, if it is."""
    queue: _Queue | None = session.info.get(_INFO_KEY)
    if queue is None:
        queue = session.info[_INFO_KEY] = _Queue(session)
    queue.waiting.append((_innermost(session), _announcement(signal, values)))


def _announcement(signal: NamedSignal, values: dict[str, t.Any]) -> _Announcement:
    return _Announcement(current_app._get_current_object(), signal, values)  # type: ignore[attr-defined]


def _innermost(session: Session) -> SessionTransaction:
    transaction = session.get_nested_transaction() or session.get_transaction()
    assert transaction is not None
    return transaction
