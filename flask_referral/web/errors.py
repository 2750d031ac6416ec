"""JSON for every error of the API, also for those that no view has raised."""

from __future__ import annotations

from flask import Blueprint
from flask import got_request_exception
from flask import jsonify
from flask import request
from flask import Response
from flask.globals import app_ctx
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import default_exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException

from ..errors import ReferralError


def error_response(message: str, status: int) -> Response:
    """Return ``{"error": message}``."""
    response = jsonify(error=message)
    response.status_code = status
    return response


def json_errors(blueprint: Blueprint) -> None:
    """Make a blueprint answer every error in its routes with JSON.

    Unknown paths under its prefix and methods that no route takes are the host's: Flask knows no
    blueprint for them.
    """
    # One handler for each status: the host's handler of a status goes before a handler that is
    # registered for all of them.
    for status in default_exceptions:
        blueprint.register_error_handler(status, _http_error)
    blueprint.register_error_handler(HTTPException, _http_error)
    blueprint.register_error_handler(Exception, _unexpected_error)


def _http_error(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None or error.code is None or isinstance(error, RoutingException):
        return error
    response = error_response(error.description or error.name, error.code)
    for name, value in error.get_headers():
        # What belongs to the error itself, such as Allow.
        if name.lower() != "content-type":
            response.headers[name] = value
    return response


def _unexpected_error(error: Exception) -> ResponseReturnValue:
    app = app_ctx.app
    # Flask sends this for errors that nobody handles; monitoring listens to it.
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
    app.logger.error("Exception on %s [%s]", request.path, request.method, exc_info=error)
    if isinstance(error, ReferralError):
        return error_response(str(error), 500)
    return error_response("The referral program could not answer; the error was logged.", 500)
