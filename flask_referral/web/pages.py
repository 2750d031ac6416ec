"""The referrer's page, in the host's layout, for browsers with and without script."""

from __future__ import annotations

import io
import typing as t

from flask import abort
from flask import Blueprint
from flask import current_app
from flask import redirect
from flask import render_template
from flask import request
from flask import send_from_directory
from flask import url_for
from flask.typing import ResponseReturnValue

from .. import codes
from .. import vanity
from .. import words
from ..errors import CodeNotAllowed
from ..errors import CodeTaken
from ..errors import UnknownUser
from ..host import identity
from ..host.state import current_state
from ..rls.acting import own_read
from . import connections as database
from . import widgets
from .framing import framed
from .links import known_link
from .origin import is_cross_site

if t.TYPE_CHECKING:
    from ..host.state import State

_YEAR = 31_536_000


def create_blueprint() -> Blueprint:
    """Build the blueprint ``referral_pages``."""
    blueprint = Blueprint("referral_pages", __name__)
    blueprint.get("/")(page)
    blueprint.post("/code")(change_code)
    # Whoever follows a link of the page that a refused form was answered with, or loads it again.
    blueprint.get("/code", endpoint="after_refusal")(back)
    blueprint.get("/qr.svg")(qr)
    blueprint.get("/assets/<version>/<name>")(asset)
    return blueprint


def page() -> ResponseReturnValue:
    """Show the current user's page; a visitor goes to the host's log-in. It writes nothing."""
    state = current_state()
    user_id = identity.current_user_id(state)
    shown = widgets.shown(state)
    shown.user_id = user_id
    if shown.stats() is None:
        return _log_in()
    return framed(render_template("referral/page.html"))


def change_code() -> ResponseReturnValue:
    """Make or change the current user's code, and lead back to the page.

    The form's field ``action`` says what is to be done: ``make``, ``rotate``, or ``choose`` the
    word in the field ``code``, where ``REFERRAL_VANITY_CODES`` lets users choose.
    """
    state = current_state()
    if is_cross_site(state.settings):
        abort(403, words.gettext("This form was sent by another site; send it from here."))
    user_id = identity.current_user_id(state)
    if user_id is None:
        return _log_in()
    act = _ACTIONS.get(request.form.get("action", ""))
    if act is None or (act is _choose and not state.settings.vanity_codes):
        abort(400, words.gettext("This form asks for something that is not done here."))
    try:
        act(state, user_id)
    except UnknownUser:
        return _log_in()
    except (CodeNotAllowed, CodeTaken) as error:
        shown = widgets.shown(state)
        shown.user_id, shown.code_error = user_id, words.told(error)
        answer = framed(render_template("referral/page.html"))
        answer.status_code = 422
        return answer
    return redirect(url_for(".page"), 303)


def _make(state: State, user_id: t.Any) -> None:
    database.in_one_commit(
        state,
        lambda db: codes.get_or_create(db, state.models, user_id, reading=own_read(state, user_id)),
        codes.told,
    )


def _choose(state: State, user_id: t.Any) -> None:
    text, checker = request.form.get("code", ""), state.loaders.code_checker
    database.in_one_commit(
        state,
        lambda db: vanity.choose(db, state.models, state.settings, user_id, text, checker),
        vanity.told,
        locks=True,
    )


def _rotate(state: State, user_id: t.Any) -> None:
    database.in_one_commit(
        state,
        lambda db: vanity.rotate(db, state.models, user_id),
        vanity.told,
        locks=True,
    )


_ACTIONS = {"make": _make, "choose": _choose, "rotate": _rotate}


def back() -> ResponseReturnValue:
    """Lead to the page, with the period or the place in the list that was asked for."""
    # No others: url_for takes some for its own, such as _scheme.
    asked = {name: request.args[name] for name in ("days", "before") if name in request.args}
    return redirect(url_for(".page", _external=False, **asked))


def qr() -> ResponseReturnValue:
    """Draw the current user's link as a QR code (ISO/IEC 18004); 404 without the extra ``qr``."""
    if not widgets.has_segno():
        abort(404)
    state = current_state()
    user_id = identity.current_user_id(state)
    if user_id is None:
        return _log_in()
    with database.reading(state) as db, own_read(state, user_id):
        code = codes.shared(db, state.models, user_id)
    link = None if code is None else known_link(state, code)
    if link is None:
        abort(404)
    import segno

    drawing = io.BytesIO()
    # Black on white in dark pages too: not every reader takes the reverse.
    segno.make(widgets.tagged(link, "qr"), error="m", micro=False).save(
        drawing, kind="svg", border=4, light="#fff", dark="#000", scale=4, xmldecl=False
    )
    response = framed(drawing.getvalue())
    response.mimetype = "image/svg+xml"
    return response


def asset(version: str, name: str) -> ResponseReturnValue:
    """Send the stylesheet or the script; what has its version in its address, for a year."""
    if name not in (widgets.STYLESHEET, widgets.SCRIPT):
        abort(404)
    is_current = version == widgets.version(name)
    response = send_from_directory(widgets.ASSETS, name, max_age=_YEAR if is_current else 0)
    if is_current:
        response.cache_control.public = True
        response.cache_control.immutable = True
    return response


def _log_in() -> ResponseReturnValue:
    login_manager = getattr(current_app, "login_manager", None)
    if login_manager is not None:
        answer: ResponseReturnValue = login_manager.unauthorized()
        return answer
    abort(401, words.gettext("Log in to see your referrals."))
