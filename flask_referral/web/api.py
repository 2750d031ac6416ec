"""The JSON API."""

from __future__ import annotations

import re

from flask import abort
from flask import Blueprint
from flask import jsonify
from flask import request
from flask import Response
from flask.typing import ResponseReturnValue

from .. import clicks
from .. import codes
from .. import referrals as people
from .. import stats as station
from .. import vanity
from ..errors import CodeNotAllowed
from ..errors import CodeTaken
from ..errors import InvalidEvent
from ..errors import ReferralError
from ..errors import UnknownUser
from ..host import identity
from ..host.state import current_state
from ..payments.strict_json import load_object
from ..rls.acting import own_read
from ..words import gettext
from ..words import told
from . import bodies
from . import connections as database
from . import deliveries as webhooks
from . import reports
from .csrf import exempt_webhooks
from .errors import error_response
from .errors import ErrorCode
from .errors import json_errors
from .origin import refuse_cross_site

_LONGEST_SHOWN = 64
#: Bytes; a code is read from 2048 characters, of which JSON may escape each.
_LARGEST_BODY = 16_384
# ASCII digits only: int() reads many other scripts' digits, signs and underscores.
_NUMBER = re.compile(r"[0-9]{1,9}")


def create_blueprint() -> Blueprint:
    """Build the blueprint ``referral``."""
    blueprint = Blueprint("referral", __name__)
    json_errors(blueprint)
    blueprint.register_error_handler(UnknownUser, _unknown_user)
    blueprint.after_request(_no_store)
    blueprint.post("/generate")(generate)
    blueprint.put("/code")(choose_code)
    blueprint.get("/stats")(stats)
    blueprint.get("/referrals")(referrals)
    # A pasted link has slashes; of the two kinds of variables only the other takes line breaks.
    blueprint.get("/codes/<code>")(check_code)
    blueprint.get("/codes/<path:code>")(check_code)
    blueprint.post("/webhooks/<provider>", endpoint="webhook")(webhooks.receive)
    exempt_webhooks(blueprint, "webhook")
    return blueprint


def _no_store(response: Response) -> Response:
    # Every answer is one user's, or an error that need not last.
    response.headers["Cache-Control"] = "no-store"
    return response


def _unknown_user(error: UnknownUser) -> Response:
    # A token, or a session, outlives the account that it was made for.
    message = gettext("The account of this login does not exist any more; log in with another one.")
    return error_response(message, 401, ErrorCode.unknown_user)


def generate() -> ResponseReturnValue:
    """Answer with the current user's code, made on the first call."""
    state = current_state()
    refuse_cross_site(state.settings)
    user_id = identity.current_user_id(state)
    if user_id is None:
        return error_response(gettext("Log in to get a referral code."), 401)
    code, _ = database.in_one_commit(
        state,
        lambda db: codes.get_or_create(db, state.models, user_id, reading=own_read(state, user_id)),
        codes.announce,
    )
    return jsonify(code=code.code)


def choose_code() -> ResponseReturnValue:
    """Make a word the current user's code, where ``REFERRAL_VANITY_CODES`` lets users choose."""
    state = current_state()
    if not state.settings.vanity_codes:
        abort(404)
    refuse_cross_site(state.settings)
    user_id = identity.current_user_id(state)
    if user_id is None:
        return error_response(gettext("Log in to choose a referral code."), 401)
    sentence = gettext('Send {"code": "…"} as JSON.')
    if not request.is_json:
        return error_response(sentence, 415)
    try:
        text = load_object(bodies.read(_LARGEST_BODY, "A code")).get("code")
    except InvalidEvent:
        text = None
    if not isinstance(text, str):
        return error_response(sentence, 400)
    checker = state.loaders.code_checker
    try:
        given = database.in_one_commit(
            state,
            lambda db: vanity.choose(db, state.models, state.settings, user_id, text, checker),
            vanity.announce,
            locks=True,
        )
    except CodeNotAllowed as error:
        return error_response(told(error), 422, ErrorCode.code_not_allowed)
    except CodeTaken as error:
        return error_response(told(error), 409, ErrorCode.code_taken)
    return jsonify(code=given.code)


def stats() -> ResponseReturnValue:
    """Answer with the current user's totals and daily series."""
    state = current_state()
    user_id = identity.current_user_id(state)
    if user_id is None:
        return error_response(gettext("Log in to see your referral statistics."), 401)
    text = request.args.get("days", str(station.DEFAULT_DAYS))
    try:
        days = station.checked_days(int(text) if _NUMBER.fullmatch(text) else None)
    except ReferralError as error:
        return error_response(told(error), 400, ErrorCode.invalid_days)
    return jsonify(reports.stats(state, user_id, days))


def referrals() -> ResponseReturnValue:
    """Answer with whom the current user brought, newest first."""
    state = current_state()
    user_id = identity.current_user_id(state)
    if user_id is None:
        return error_response(gettext("Log in to see your referrals."), 401)
    text = request.args.get("limit", str(people.DEFAULT_LIMIT))
    before = request.args.get("before")
    try:
        limit = people.checked_limit(int(text) if _NUMBER.fullmatch(text) else None)
    except ReferralError as error:
        return error_response(told(error), 400, ErrorCode.invalid_limit)
    try:
        people.checked_cursor(before)
    except ReferralError as error:
        return error_response(told(error), 400, ErrorCode.invalid_cursor)
    page = reports.referrals(state, user_id, limit, before)
    return jsonify(referrals=page.entries, next=page.next)


def check_code(code: str) -> ResponseReturnValue:
    """Say whether somebody has this code; of the owner nothing is told."""
    state = current_state()
    normalized = codes.normalized(code, state.settings)
    valid = False
    if normalized is not None:
        with database.reading(state) as connection:
            valid = clicks.is_known(connection, state.models, normalized)
    shown = normalized or clicks.clean_text(code, _LONGEST_SHOWN) or ""
    return jsonify(code=shown, valid=valid)
