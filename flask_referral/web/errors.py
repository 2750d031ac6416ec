"""JSON for every error of the API, also for those that no view has seen."""

from __future__ import annotations

import re
import typing as t
import weakref

from flask import abort
from flask import Blueprint
from flask import current_app
from flask import Flask
from flask import got_request_exception
from flask import jsonify
from flask import request
from flask import Response
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import default_exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException
from werkzeug.routing import Rule

from ..errors import ReferralError

_VARIABLE = re.compile(r"(<[^<>]+>)")


def error_response(message: str, status: int) -> Response:
    """Return ``{"error": message}``."""
    response = jsonify(error=message)
    response.status_code = status
    return response


def json_errors(blueprint: Blueprint) -> None:
    """Make a blueprint answer every error with JSON, unknown paths under its prefix included."""
    # One handler for each status: the host's handler of a status goes before a handler that is
    # registered for all of them.
    for status in default_exceptions:
        blueprint.register_error_handler(status, _http_error)
    blueprint.register_error_handler(HTTPException, _http_error)
    blueprint.register_error_handler(Exception, _unexpected_error)
    _own_unknown_paths(blueprint)


def _own_unknown_paths(blueprint: Blueprint) -> None:
    """Make the paths and methods that match no route under the prefix the blueprint's.

    Flask knows no blueprint for them, so its handlers would not be asked. Neither a handler of
    the whole application (it would replace the host's) nor an early answer (it would skip the
    host's ``before_request`` functions) will do; naming the rule that such a request belongs
    to makes Flask ask the blueprint when it raises the routing error.
    """
    rules: weakref.WeakKeyDictionary[Flask, list[tuple[re.Pattern[str], Rule]]]
    rules = weakref.WeakKeyDictionary()

    def remember(state: BlueprintSetupState) -> None:
        prefix = (state.url_prefix or "").rstrip("/")
        if not prefix:
            # Mounted at the root, where an unknown path is the host's.
            return
        app = t.cast(Flask, state.app)
        endpoint = f"{state.name_prefix}.{state.name}.unknown".lstrip(".")
        app.view_functions[endpoint] = _unknown
        parts = _VARIABLE.split(prefix)
        pattern = "".join("[^/]+" if part[:1] == "<" else re.escape(part) for part in parts)
        rule = Rule(f"{prefix}/<path:unknown>", endpoint=endpoint)
        rules.setdefault(app, []).append((re.compile(pattern + "(/|$)"), rule))

    def claim(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
        if request.routing_exception is None:
            return
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        for pattern, rule in rules.get(app, ()):
            if pattern.match(request.path):
                request.url_rule = rule

    blueprint.record(remember)
    blueprint.app_url_value_preprocessor(claim)


def _unknown(**values: t.Any) -> t.NoReturn:
    # Flask raises the routing error before it calls a view; this one has a name to be found by.
    abort(404)


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
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    # Flask sends this for errors that nobody handles; monitoring listens to it.
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
    app.logger.error("Exception on %s [%s]", request.path, request.method, exc_info=error)
    if isinstance(error, ReferralError):
        return error_response(str(error), 500)
    return error_response("The referral program could not answer; the error was logged.", 500)
