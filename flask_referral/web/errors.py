"""JSON for every error of the API, also for those that no view has raised."""

from __future__ import annotations

import enum
import itertools
import typing as t

from flask import Blueprint
from flask import current_app
from flask import got_request_exception
from flask import jsonify
from flask import request
from flask import Response
from flask.globals import app_ctx
from flask.typing import ErrorHandlerCallable
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import default_exceptions
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException

from ..errors import ConfigurationError
from ..errors import ReferralError
from ..words import gettext
from ..words import gettext_noop


class ErrorCode(enum.StrEnum):
    """What an error is, in a word that never changes, for programs."""

    bad_request = enum.auto()
    code_not_allowed = enum.auto()
    code_taken = enum.auto()
    cross_site = enum.auto()
    forbidden = enum.auto()
    internal_error = enum.auto()
    invalid_cursor = enum.auto()
    invalid_days = enum.auto()
    invalid_event = enum.auto()
    invalid_limit = enum.auto()
    invalid_signature = enum.auto()
    not_configured = enum.auto()
    not_found = enum.auto()
    not_logged_in = enum.auto()
    too_large = enum.auto()
    too_many_requests = enum.auto()
    unavailable = enum.auto()
    unknown_provider = enum.auto()
    unknown_user = enum.auto()
    unsupported_media_type = enum.auto()


class Failure(t.NamedTuple):
    """What an :class:`ErrorCode` means."""

    status: int
    #: In which case; Markdown, as in the README's table of errors.
    when: str


_REFUSED = "the application refused the request: a CSRF token, a rate limit, an `abort()`"
FAILURES: t.Final[dict[ErrorCode, Failure]] = {
    ErrorCode.not_logged_in: Failure(
        401, "nobody is logged in, or the identity loader says `abort(401)`"
    ),
    ErrorCode.unknown_user: Failure(401, "the token or the session is of a user who was deleted"),
    ErrorCode.cross_site: Failure(
        403, "another site's page made the browser ask; see `REFERRAL_TRUSTED_ORIGINS`"
    ),
    ErrorCode.code_not_allowed: Failure(
        422, "a word that is no code, is reserved or rude, or that `@referral.code_checker` refuses"
    ),
    ErrorCode.code_taken: Failure(409, "somebody else has the code, or had it"),
    ErrorCode.invalid_days: Failure(400, "`days` is no whole number from 1 to 366"),
    ErrorCode.invalid_limit: Failure(400, "`limit` is no whole number from 1 to 100"),
    ErrorCode.invalid_cursor: Failure(400, "`before` is no `cursor` of an entry"),
    ErrorCode.unknown_provider: Failure(404, "a webhook that is not set up"),
    ErrorCode.invalid_signature: Failure(
        401, "a delivery that is not the provider's, or is too old"
    ),
    ErrorCode.invalid_event: Failure(400, "a delivery that cannot be read"),
    ErrorCode.too_large: Failure(
        413, "a delivery of more than 256 KiB, a chosen code's body of more than 16 KiB"
    ),
    ErrorCode.unavailable: Failure(
        503, "the database is away or busy; a delivery is to be sent again"
    ),
    ErrorCode.not_configured: Failure(
        500, "the setup is wrong; the log, and in debug mode the sentence, names the cure"
    ),
    ErrorCode.internal_error: Failure(500, "anything else; it was logged"),
    ErrorCode.bad_request: Failure(400, f"{_REFUSED}; a chosen code's body is not as it is to be"),
    ErrorCode.unsupported_media_type: Failure(
        415, f"{_REFUSED}; a chosen code's body is not said to be JSON"
    ),
    ErrorCode.forbidden: Failure(403, _REFUSED),
    ErrorCode.not_found: Failure(404, _REFUSED),
    ErrorCode.too_many_requests: Failure(429, _REFUSED),
}
#: The words for errors that have none of their own, as what a host aborts with.
_BY_STATUS: t.Final = {
    FAILURES[code].status: code
    for code in (
        ErrorCode.bad_request,
        ErrorCode.not_logged_in,
        ErrorCode.forbidden,
        ErrorCode.not_found,
        ErrorCode.too_large,
        ErrorCode.unsupported_media_type,
        ErrorCode.too_many_requests,
        ErrorCode.internal_error,
        ErrorCode.unavailable,
    )
}


def word_of(status: int) -> str:
    """Return the ``code`` of an error that has no word of its own."""
    return _BY_STATUS.get(status, f"http_{status}")


def error_response(message: str, status: int, code: ErrorCode | None = None) -> Response:
    """Return ``{"error": message, "code": code}``.

    :param code: default: the status's.
    """
    response = jsonify(error=message, code=code or word_of(status))
    response.status_code = status
    return response


def json_errors(blueprint: Blueprint) -> None:
    """Make a blueprint answer every error in its routes with JSON.

    A host's handler for an exception of the host's own goes before ours. Unknown paths under
    the prefix and methods that no route takes are the host's: Flask knows no blueprint for them.
    """
    # One handler for each status: the host's handler of a status goes before a handler that is
    # registered for all of them.
    for status in default_exceptions:
        blueprint.register_error_handler(status, _http_error)
    blueprint.register_error_handler(HTTPException, _http_error)
    blueprint.register_error_handler(Exception, _unexpected_error)


def is_the_hosts(error: Exception) -> bool:
    """Whether the host answers this error: it aborts with it, or has a handler for its class."""
    return isinstance(error, HTTPException) or _hosts_handler(error, request.blueprints) is not None


def _hosts_handler(error: Exception, blueprints: list[str]) -> ErrorHandlerCallable | None:
    """Return the handler that a host registered for an exception of its own.

    That is one for its class or a base of it, and neither for a status nor for every exception:
    those are about the host's pages. Flask looks into a request's blueprints first, whatever
    the application has for the very class, so it is looked up here, as Flask does it.

    :param blueprints: whose handlers count besides the application's, the innermost first.
    """
    if isinstance(error, ReferralError | SQLAlchemyError):
        return None
    code = error.code if isinstance(error, HTTPException) else None
    own = itertools.takewhile(_is_particular, type(error).__mro__)
    spec = current_app.error_handler_spec
    # The order in which Flask asks.
    for key, name, class_ in itertools.product((code, None), (*blueprints, None), tuple(own)):
        if (handler := spec.get(name, {}).get(key, {}).get(class_)) is not None:
            return handler
    return None


def _is_particular(class_: type) -> bool:
    return class_ is not Exception and not class_.__module__.startswith("werkzeug.")


def _http_error(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None or error.code is None or isinstance(error, RoutingException):
        return error
    if (handler := _hosts_handler(error, request.blueprints[1:])) is not None:
        return _call(handler, error)
    # What abort() of webargs, which flask-smorest lends out, was given.
    given = getattr(error, "data", None)
    given = given if isinstance(given, dict) else {}
    message = given.get("message") or error.description or error.name
    response = error_response(str(message), error.code)
    for name, value in error.get_headers():
        # What belongs to the error itself, such as Allow.
        if name.lower() != "content-type":
            response.headers[name] = value
    response.headers.update(given.get("headers") or {})
    return response


def _unexpected_error(error: Exception) -> ResponseReturnValue:
    if (handler := _hosts_handler(error, request.blueprints[1:])) is not None:
        return _call(handler, error)
    app = app_ctx.app
    # Flask sends this for errors that nobody handles; monitoring listens to it.
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=error)
    app.logger.error("Exception on %s [%s]", request.path, request.method, exc_info=error)
    # Our sentences name tables, settings and roles: for whoever has the log, or debugs.
    told = str(error) if isinstance(error, ReferralError) and app.debug else _logged()
    is_setup = isinstance(error, ConfigurationError)
    return error_response(told, 500, ErrorCode.not_configured if is_setup else None)


def _logged() -> str:
    sentence = gettext_noop("The referral program could not answer; the error was logged.")
    try:
        return gettext(sentence)
    except Exception:
        # The host's choice of a language may need what has just failed, or be it.
        current_app.logger.exception("The language of this answer could not be found out")
        return sentence


def _call(handler: ErrorHandlerCallable, error: Exception) -> ResponseReturnValue:
    answer: ResponseReturnValue = current_app.ensure_sync(handler)(error)
    return answer
