"""``flask referral deliver``: the outbox."""

from __future__ import annotations

import collections
import contextlib
import signal
import threading
import typing as t

import click
import sqlalchemy as sa
from flask import current_app
from flask.cli import with_appcontext

from ..db import failures
from ..errors import ConfigurationError
from ..upkeep import deliverer
from .batches import plural
from .group import json_option
from .group import report
from .group import state

if t.TYPE_CHECKING:
    from ..host.state import State
#: Seconds between two looks where nothing is due, and while the database is away.
_PAUSE = 1.0
_AWAY = 5.0


@click.command()
@click.option("--watch", is_flag=True, help="Go on until SIGTERM or Ctrl-C.")
@click.option("--again", is_flag=True, help="What was set aside after 20 failures, too.")
@json_option
@with_appcontext
def deliver(watch: bool, again: bool, as_json: bool) -> None:
    """Hand what is in the outbox to the handlers and webhooks that are waiting for it.

    Any number may run at once. What is in hand is finished before it stops.
    """
    current = state()
    if not current.settings.outbox:
        raise ConfigurationError("There is no outbox: set REFERRAL_OUTBOX = True.")
    if again:
        deliverer.take_again(current)
    done: collections.Counter[str] = collections.Counter()
    with _until_stopped() as is_stopped:
        while not is_stopped():
            try:
                outcome = deliverer.deliver(current)
            except sa.exc.SQLAlchemyError as error:
                if not watch or not _will_pass(error):
                    raise
                current_app.logger.warning("The outbox cannot be read for now: %s", error)
                is_stopped(_AWAY)
                continue
            if outcome is not None:
                done[outcome] += 1
            elif watch:
                is_stopped(_PAUSE)
            else:
                break
    left = _left(current, watch)
    data = {
        **{str(name): done[name] for name in list(deliverer.Outcome)},
        "waiting": None if left is None else left.waiting,
        "given_up": None if left is None else left.set_aside,
    }
    text = f"Delivered {plural(done[deliverer.Outcome.delivered], 'event')}."
    if left is None:
        text += " What waits is not known: the database did not answer."
    elif left.waiting:
        waits = plural(left.waiting, "event waits", "events wait")
        text += f" {waits} for the next attempt."
    if left is not None and left.set_aside:
        given_up = plural(left.set_aside, "event was", "events were")
        text += f" {given_up} given up; --again tries once more."
    report(as_json, data, text)


def _left(current: State, watch: bool) -> deliverer.Waiting | None:
    """Return what waits; None where who watches is told to stop while the database is away."""
    try:
        with current.autocommit() as db:
            return deliverer.waiting(db, current.models)
    except sa.exc.SQLAlchemyError as error:
        if not watch or not _will_pass(error):
            raise
        return None


@contextlib.contextmanager
def _until_stopped() -> t.Iterator[t.Callable[..., bool]]:
    """Yield what says whether to stop, and waits for that as long as it is told to.

    Handlers of signals are the main thread's alone.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda seconds=0.0: stopped.wait(seconds)
        return
    before = {
        number: signal.signal(number, lambda *_: stopped.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda seconds=0.0: stopped.wait(seconds)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _will_pass(error: sa.exc.SQLAlchemyError) -> bool:
    return failures.is_contended(error) or failures.is_away(error)
