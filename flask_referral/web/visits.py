"""Which requests are visits through a code, and what is kept of them.

Nothing here may break a page: what goes wrong is logged, and the page is served as it is.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import typing as t

from flask import current_app
from flask import request
from flask import Response
from flask.globals import app_ctx
from sqlalchemy.orm import Session

from .. import clicks
from .. import clock
from .. import outbox
from ..clicks import Touch
from ..clicks import Visit
from ..host import identity
from . import bots
from . import connections as database
from . import cookies
from . import losses
from . import query
from .errors import is_the_hosts

if t.TYPE_CHECKING:
    from ..host.state import State
# "Sec-Purpose" is in the Fetch standard; the others are what browsers sent before it.
_PURPOSE_HEADERS = ("Sec-Purpose", "Purpose", "X-Purpose", "X-Moz")
_AHEAD_OF_TIME = ("prefetch", "prerender", "preview")
_VISITED_AT = "flask_referral.visited_at"
_REPEATED = "the visitor was counted before (REFERRAL_DEDUPE_SECONDS)"
_UNKNOWN = "the code is nobody's"
_UNKNOWN_OR_OWN = "the code is nobody's, or the visitor's own"


def capture(state: State, response: Response, code: str) -> None:
    """Record this request as a visit through ``code`` and set the cookie on its response.

    :param code: a normalised code, which may be nobody's.
    """
    try:
        if (reason := _why_not(state)) is not None:
            log_uncounted(code, reason)
            return
        settings = state.settings
        remembered = cookies.current_touch(settings)
        at = _visited_at()
        if remembered and clicks.is_repetition(remembered, code, at, settings.dedupe_seconds):
            log_uncounted(code, _REPEATED)
            return
        visit = _visit(code, visitor_id(state))
        touch = _record(state, response, visit)
        if touch is not None and (remembered is None or settings.touch == "last"):
            cookies.write(response, touch, settings, visit.at)
    except Exception as error:
        if losses.takes(error, current_app.logger):
            return
        current_app.logger.log(
            _level(error),
            "The visit through referral code %s was not recorded; the page is served.",
            code,
            exc_info=error,
        )


def of_this_request(state: State) -> Visit | None:
    """Return the visit that this request is by its query, before it is answered and recorded.

    It is asked for where the host binds a new user, so that a form's POST or a script's counts,
    too. None where the cookie proves that it was recorded, and where it remembers a first touch.
    """
    try:
        values = query.given(state.settings)
        code = query.first_code(values, state.settings) if values else None
        if code is None or _why_not(state, is_sign_up=True) is not None:
            return None
        remembered, visit = cookies.current_touch(state.settings), _visit(code)
    except Exception as error:
        message = "The visit that this request is could not be read."
        current_app.logger.log(_level(error), message, exc_info=error)
        return None
    is_kept = remembered is not None and (
        state.settings.touch == "first"
        or clicks.is_repetition(remembered, code, visit.at, state.settings.dedupe_seconds)
    )
    return None if is_kept else visit


def touch_of(state: State, visit: Visit) -> Touch:
    """Return what a browser remembers of a visit; its click need not be recorded yet."""
    click_id = clicks.derive_id(visit, cookies.secret(), state.settings)
    return Touch(click_id, visit.code, visit.at.replace(microsecond=0))


def log_uncounted(code: str | None, reason: str) -> None:
    """Say why a visit is not counted, for whoever tries out a link."""
    current_app.logger.debug(
        "A visit through referral code %.40r is not counted: %s.", code, reason
    )


def _visited_at() -> dt.datetime:
    # A visit that is asked for twice is one click also where the window ends in between.
    at: dt.datetime = request.environ.setdefault(_VISITED_AT, clock.now())
    return at


def _visit(code: str, visitor_id: t.Any = None) -> Visit:
    headers = request.headers
    if not request.remote_addr:
        _warn_of_no_address()
    return Visit(
        code=code,
        at=_visited_at(),
        address=request.remote_addr,
        user_agent=clicks.clean_text(headers.get("User-Agent"), clicks.USER_AGENT_LENGTH),
        referrer_url=clicks.clean_referrer(headers.get("Referer"), request.host),
        visitor_id=visitor_id,
        tags=query.tags(),
    )


@functools.cache
def _warn_of_no_address() -> None:
    """Say it once in a process."""
    current_app.logger.warning(
        "The server does not say which address a visitor has, as behind a socket of this machine: "
        "all visitors share REFERRAL_CLICKS_PER_ADDRESS, and more clicks are not counted. Wrap the "
        "application in werkzeug.middleware.proxy_fix.ProxyFix."
    )


def _why_not(state: State, *, is_sign_up: bool = False) -> str | None:
    """Return why this request is no visit of a person who agreed to it; None where it is one.

    :param is_sign_up: whether a request that is no GET may be one.
    """
    headers = request.headers
    if request.method != "GET":
        if not is_sign_up:
            return "its method is not GET"
    elif not _is_navigation():
        return "a page's script, picture or frame asked, not a person (Sec-Fetch-Dest)"
    purposes = " ".join(headers.get(name, "") for name in _PURPOSE_HEADERS).lower()
    if any(word in purposes for word in _AHEAD_OF_TIME):
        return "it was fetched ahead of time"
    if (state.loaders.bot_detector or _is_bot)(headers.get("User-Agent", "")):
        return "the User-Agent is a program's"
    consent = state.loaders.consent
    if consent is not None and not consent():
        return "the visitor has not agreed to it"
    return None


def _is_navigation() -> bool:
    """Whether a browser asks for a page, or does not say what it asks for.

    W3C Fetch Metadata: a page that is navigated to has the destination "document". Where a
    service worker passes the request on, it is a request of the worker's and has none, "empty"
    like a script's, but keeps its mode: https://github.com/w3c/ServiceWorker/issues/1803. A frame
    cannot be told from a page then.
    """
    headers = request.headers
    destination = headers.get("Sec-Fetch-Dest", "document")
    is_passed_on = destination == "empty" and headers.get("Sec-Fetch-Mode") == "navigate"
    return destination == "document" or is_passed_on


def _is_bot(user_agent: str) -> bool:
    is_rehearsal = current_app.debug or current_app.testing
    return bots.is_bot(user_agent) or (bots.is_headless(user_agent) and not is_rehearsal)


def _record(state: State, response: Response, visit: Visit) -> Touch | None:
    session = database.held_session(state)
    if session is not None and response.is_streamed:
        return _record_later(state, response, visit, session)
    with database.beside_host(state, session) as db:
        recorded = clicks.record(db, state.models, state.settings, visit, cookies.secret())
        if session is not None:
            _announce(state, session, recorded)
    if session is None:
        _announce(state, None, recorded)
    if recorded is None:
        log_uncounted(visit.code, _UNKNOWN if visit.visitor_id is None else _UNKNOWN_OR_OWN)
        return None
    if not recorded.created:
        log_uncounted(visit.code, _REPEATED)
    return recorded.touch


def _record_later(state: State, response: Response, visit: Visit, session: Session) -> Touch | None:
    """Record a visit when its page has been sent, which may be reading from the database still.

    A commit on the page's connection would close the cursor it reads from. The visit's id is
    known without asking the database, so the cookie does not wait.
    """
    with database.in_savepoint(state, session) as db:
        if not clicks.is_known(db, state.models, visit.code, visit.visitor_id):
            log_uncounted(visit.code, _UNKNOWN if visit.visitor_id is None else _UNKNOWN_OR_OWN)
            return None
    app, secret = app_ctx.app, cookies.secret()

    def insert() -> None:
        try:
            with app.app_context():
                with database.beside_host(state, None) as db:
                    recorded = clicks.record(db, state.models, state.settings, visit, secret)
                _announce(state, None, recorded)
        except Exception as error:
            if not losses.takes(error, app.logger):
                message = "The visit through referral code %s was not recorded."
                app.logger.exception(message, visit.code)

    response.call_on_close(insert)
    return touch_of(state, visit)


def _announce(state: State, session: Session | None, recorded: clicks.Recorded | None) -> None:
    outbox.announce(None, session, state.models, state.settings, *clicks.told(recorded))


def visitor_id(state: State) -> t.Any:
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
