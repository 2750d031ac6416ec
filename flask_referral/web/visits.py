"""Which requests are visits through a code, and what is kept of them.

Nothing here may break a page: what goes wrong is logged, and the page is served as it is.
"""

from __future__ import annotations

import logging
import typing as t

from flask import current_app
from flask import request
from flask import Response
from flask.globals import app_ctx
from sqlalchemy.orm import Session

from .. import clicks
from .. import clock
from ..clicks import Touch
from ..clicks import Visit
from ..host import identity
from . import bots
from . import connections as database
from . import cookies
from .errors import is_the_hosts

if t.TYPE_CHECKING:
    from ..host.state import State
# "Sec-Purpose" is in the Fetch standard; the others are what browsers sent before it.
_PURPOSE_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
_AHEAD_OF_TIME = ("prefetch", "prerender", "preview")


def capture(state: State, response: Response, code: str) -> None:
    """Record this request as a visit through ``code`` and set the cookie on its response.

    :param code: a normalised code, which may be nobody's.
    """
    try:
        if not _is_visit(state):
            return
        settings, headers, now = state.settings, request.headers, clock.now()
        remembered = cookies.current_touch(settings)
        if remembered and clicks.is_repetition(remembered, code, now, settings.dedupe_seconds):
            return
        visit = Visit(
            code=code,
            at=now,
            address=request.remote_addr,
            user_agent=clicks.clean_text(headers.get("User-Agent"), clicks.USER_AGENT_LENGTH),
            referrer_url=clicks.clean_referrer(headers.get("Referer"), request.host),
            visitor_id=_visitor_id(state),
        )
        touch = _record(state, response, visit)
        if touch is not None and (remembered is None or settings.touch == "last"):
            cookies.write(response, touch, settings, now)
    except Exception as error:
        current_app.logger.log(
            _level(error),
            "The visit through referral code %s was not recorded; the page is served.",
            code,
            exc_info=error,
        )


def _is_visit(state: State) -> bool:
    headers = request.headers
    if request.method != "GET" or headers.get("Sec-Fetch-Dest", "document") != "document":
        return False
    purposes = " ".join(headers.get(name, "") for name in _PURPOSE_HEADERS).lower()
    if any(word in purposes for word in _AHEAD_OF_TIME):
        return False
    is_bot = state.loaders.bot_detector or bots.is_bot
    if is_bot(headers.get("User-Agent", "")):
        return False
    consent = state.loaders.consent
    return consent is None or bool(consent())


def _record(state: State, response: Response, visit: Visit) -> Touch | None:
    session = database.held_session(state)
    if session is not None and response.is_streamed:
        return _record_later(state, response, visit, session)
    with database.beside_host(state, session) as db:
        recorded = clicks.record(db, state.models, state.settings, visit, cookies.secret())
        if session is not None:
            clicks.announce(recorded, session)
    if session is None:
        clicks.announce(recorded, None)
    return recorded.touch if recorded is not None else None


def _record_later(state: State, response: Response, visit: Visit, session: Session) -> Touch | None:
    """Record a visit when its page has been sent, which may be reading from the database still.

    A commit on the page's connection would close the cursor it reads from. The visit's id is
    known without asking the database, so the cookie does not wait.
    """
    with database.in_savepoint(state, session) as db:
        if not clicks.is_known(db, state.models, visit.code, visit.visitor_id):
            return None
    app, secret = app_ctx.app, cookies.secret()

    def insert() -> None:
        try:
            with app.app_context():
                with database.beside_host(state, None) as db:
                    recorded = clicks.record(db, state.models, state.settings, visit, secret)
                clicks.announce(recorded, None)
        except Exception:
            app.logger.exception("The visit through referral code %s was not recorded.", visit.code)

    response.call_on_close(insert)
    click_id = clicks.derive_id(visit, secret, state.settings.dedupe_seconds)
    return Touch(click_id, visit.code, visit.at.replace(microsecond=0))


def _visitor_id(state: State) -> t.Any:
    """Return the key of whoever is logged in; None where that cannot be said."""
    if not identity.is_set_up(state, app_ctx.app):
        return None
    was_held = database.held_session(state) is not None
    try:
        return identity.current_user_id(state)
    except Exception as error:
        message = "The identity of a referral code's visitor is unknown."
        current_app.logger.log(_level(error), message, exc_info=error)
        if not was_held and (session := database.held_session(state)) is not None:
            # A failed statement leaves a transaction that nobody can use.
            session.rollback()
        return None


def _level(error: Exception) -> int:
    # Whoever sends an expired token to a page with a code would fill the log.
    return logging.DEBUG if is_the_hosts(error) else logging.ERROR
