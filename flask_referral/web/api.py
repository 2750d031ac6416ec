"""The JSON API."""

from __future__ import annotations

import typing as t

from flask import Blueprint
from flask import current_app
from flask import jsonify
from flask.typing import ResponseReturnValue

from .. import codes
from .. import identity
from . import database
from .errors import error_response
from .errors import json_errors
from .origin import refuse_cross_site

if t.TYPE_CHECKING:
    from ..extension import Referral


def create_blueprint() -> Blueprint:
    """Build the blueprint ``referral``."""
    blueprint = Blueprint("referral", __name__)
    json_errors(blueprint)
    blueprint.post("/generate")(generate)
    return blueprint


def _referral() -> Referral:
    referral: Referral = current_app.extensions["referral"]
    return referral


def generate() -> ResponseReturnValue:
    """Answer with the current user's code, made on the first call."""
    refuse_cross_site()
    state = _referral().state
    user_id = identity.current_user_id(state)
    if user_id is None:
        return error_response("Log in to get a referral code.", 401)
    with database.one_commit(state) as connection:
        with state.acting_as(user_id):
            row = codes.find(connection, state.models, user_id)
        row = row or codes.create(connection, state.models, user_id)
        code = row.code
    return jsonify(code=code)
