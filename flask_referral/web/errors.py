"""JSON for every error of the API, also for those that no view has seen."""

from __future__ import annotations

import typing as t
import weakref

from flask import Blueprint
from flask import current_app
from flask import Flask
from flask import got_request_exception
from flask import jsonify
from flask import request
from flask import Response
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from ..errors import ReferralError


def error_response(message: str, status: int) -> Response:
    """Return ``{"error": message}``."""
    response = jsonify(error=message)
    response.status_code = status
    return response


def json_errors(blueprint: Blueprint) -> None:
    """Make a blueprint answer with JSON, unknown paths under its prefix included.

    A blueprint's error handlers do not see a path or a method that matched no route, and an
    application-wide handler would replace the host's own; hence the look at the routing error
    before the request is dispatched.
    """
    prefixes: weakref.WeakKeyDictionary[Flask, set[str]] = weakref.WeakKeyDictionary()

    def remember_prefix(state: BlueprintSetupState) -> None:
        if state.url_prefix:
            app = t.cast(Flask, state.app)
            prefixes.setdefault(app, set()).add(state.url_prefix.rstrip("/"))

    def answer_routing_error() -> ResponseReturnValue | None:
        error = request.routing_exception
        if error is None or isinstance(error, RequestRedirect):
            return None
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        path = request.path + "/"
        if any(path.startswith(prefix + "/") for prefix in prefixes.get(app, ())):
            return _http_error(error)
        return None

    blueprint.record(remember_prefix)
    blueprint.before_app_request(answer_routing_error)
    blueprint.register_error_handler(HTTPException, _http_error)
    blueprint.register_error_handler(Exception, _unexpected_error)


def _http_error(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None or error.code is None:
        return error
    response = error_response(error.description or error.name, error.code)
    for name, value in error.get_headers():
        # What belongs to the error itself, such as Allow.
        if name.lower() != "content-type":
            response.headers[name] = value
    return response


def _unexpected_error(error: Exception) -> ResponseReturnValue:
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    # Flask sends this for errors that nobody handles; monitoring listens to it.
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
    app.logger.error("Exception on %s [%s]", request.path, request.method, exc_info=error)
    if isinstance(error, ReferralError):
        return error_response(str(error), 500)
    return error_response("The referral program could not answer; the error was logged.", 500)
