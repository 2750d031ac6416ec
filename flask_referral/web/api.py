"""The JSON API."""

from __future__ import annotations

import typing as t

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
from ..errors import UnknownUser
from ..host import identity
from ..host.state import current_state
from ..payments.strict_json import load_object
from ..results import Stats
from ..rls.acting import own_read
from ..words import gettext
from ..words import told
from . import answers
from . import bodies
from . import connections as database
from . import deliveries as webhooks
from . import openapi
from . import reports
from .csrf import exempt_webhooks
from .errors import error_response
from .errors import ErrorCode
from .errors import json_errors
from .origin import refuse_cross_site
from .routes import Body
from .routes import NUMBER
from .routes import Query
from .routes import Route
from .routes import Variable

_LONGEST_SHOWN = 64
#: Bytes; a code is read from 2048 characters, of which JSON may escape each.
_LARGEST_BODY = 16_384

DAYS: t.Final = Query[int](
    name="days",
    default=station.DEFAULT_DAYS,
    form=NUMBER,
    read=int,
    check=station.checked_days,
    refusal=ErrorCode.invalid_days,
    schema={"type": "integer", "minimum": 1, "maximum": station.MOST_DAYS},
    description="How many days the series has; today (UTC) is the last.",
)
LIMIT: t.Final = Query[int](
    name="limit",
    default=people.DEFAULT_LIMIT,
    form=NUMBER,
    read=int,
    check=people.checked_limit,
    refusal=ErrorCode.invalid_limit,
    schema={"type": "integer", "minimum": 1, "maximum": people.MOST},
    description="How many entries are asked for.",
)
BEFORE: t.Final = Query["str | None"](
    name="before",
    default=None,
    form=people.CURSOR,
    read=str,
    check=people.checked_cursor,
    refusal=ErrorCode.invalid_cursor,
    schema={"type": "string", "pattern": f"^{people.CURSOR.pattern}$"},
    description="The `next` of the page before, or the `cursor` of an entry to go on after.",
)


def create_blueprint() -> Blueprint:
    """Build the blueprint ``referral``."""
    blueprint = Blueprint("referral", __name__)
    json_errors(blueprint)
    blueprint.register_error_handler(UnknownUser, _unknown_user)
    blueprint.after_request(_no_store)
    for route in ROUTES:
        route.add_to(blueprint)
    exempt_webhooks(blueprint, "webhook")
    return blueprint


def _no_store(response: Response) -> Response:
    # Every answer but the document is one user's, or an error that need not last.
    response.headers.setdefault("Cache-Control", "no-store")
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
        codes.told,
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
            vanity.told,
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
    return jsonify(reports.stats(state, user_id, DAYS.asked()))


def referrals() -> ResponseReturnValue:
    """Answer with whom the current user brought, newest first."""
    state = current_state()
    user_id = identity.current_user_id(state)
    if user_id is None:
        return error_response(gettext("Log in to see your referrals."), 401)
    page = reports.referrals(state, user_id, LIMIT.asked(), BEFORE.asked())
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


def describe() -> ResponseReturnValue:
    """Answer with this document."""
    return openapi.answer(openapi.mounted(current_state(), request.blueprint, ROUTES))


#: All that the API answers.
ROUTES: t.Final = (
    Route(
        method="POST",
        paths=("/generate",),
        view=generate,
        answer=answers.OwnCode,
        codes=(ErrorCode.cross_site,),
        is_personal=True,
    ),
    Route(
        method="PUT",
        paths=("/code",),
        view=choose_code,
        answer=answers.OwnCode,
        codes=(
            ErrorCode.bad_request,
            ErrorCode.cross_site,
            ErrorCode.code_taken,
            ErrorCode.too_large,
            ErrorCode.unsupported_media_type,
            ErrorCode.code_not_allowed,
        ),
        is_personal=True,
        body=Body(answers.ChosenCode),
        is_on=lambda settings: settings.vanity_codes,
    ),
    Route(
        method="GET",
        paths=("/stats",),
        view=stats,
        answer=Stats,
        is_personal=True,
        queries=(DAYS,),
    ),
    Route(
        method="GET",
        paths=("/referrals",),
        view=referrals,
        answer=answers.ReferralPage,
        is_personal=True,
        queries=(LIMIT, BEFORE),
    ),
    Route(
        method="GET",
        # A pasted link has slashes; of the two kinds of variables only the other takes line breaks.
        paths=("/codes/<code>", "/codes/<path:code>"),
        view=check_code,
        answer=answers.CheckedCode,
        variables=(
            Variable(
                "code",
                {"type": "string", "minLength": 1},
                "A code, however it is typed, or a share link.",
            ),
        ),
    ),
    Route(
        method="POST",
        paths=("/webhooks/<provider>",),
        view=webhooks.receive,
        endpoint="webhook",
        answer=answers.Delivered,
        codes=(
            ErrorCode.unknown_provider,
            ErrorCode.invalid_signature,
            ErrorCode.invalid_event,
            ErrorCode.too_large,
            ErrorCode.unavailable,
        ),
        body=Body(None, "The event, as the provider sends and signs it."),
    ),
    Route(method="GET", paths=("/openapi.json",), view=describe, endpoint="openapi", is_kept=True),
)
