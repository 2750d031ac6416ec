"""The OpenAPI 3.1 document of the JSON API, https://spec.openapis.org/oas/v3.1.1.html."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
import typing as t
from urllib.parse import quote

from flask import current_app
from flask import has_request_context
from flask import request
from flask import Response

from ..errors import ConfigurationError
from ..payments import providers
from ..payments import stripe
from ..payments import whop
from .answers import Refusal
from .errors import ErrorCode
from .errors import FAILURES
from .errors import word_of
from .routes import Body
from .routes import Query
from .routes import Route
from .routes import Variable
from .shapes import described
from .shapes import Schema
from .shapes import schema_of

if t.TYPE_CHECKING:
    from flask import Blueprint

    from ..host.state import State

_OWN = "/openapi.json"
_PROVIDER = "{provider}"
#: A variable in Flask's notation, with its converter and the converter's arguments.
_VARIABLE = re.compile(r"<(?:[^<>:]*:)?(\w+)>")
_JSON = "application/json"
_PERSONAL = (ErrorCode.not_logged_in, ErrorCode.unknown_user)
_ALWAYS = (ErrorCode.internal_error, ErrorCode.not_configured)
_SIGNATURES: t.Final = {
    # https://github.com/standard-webhooks/standard-webhooks
    whop.NAME: ("webhook-signature", "Signed as Standard Webhooks says."),
    # https://docs.stripe.com/webhooks#verify-manually
    stripe.NAME: ("Stripe-Signature", "Signed as Stripe signs."),
}


class Mount(t.NamedTuple):
    """What the document of an application depends on."""

    routes: tuple[Route, ...]
    #: Of the blueprint, in Flask's notation.
    prefix: str
    #: The path that the application is mounted below, or nothing.
    root: str
    #: Whose webhooks are taken.
    providers: tuple[str, ...]


def mounted(state: State, blueprint: str | None, routes: tuple[Route, ...]) -> Mount:
    """Return how the current application answers these routes.

    :param blueprint: the name that the blueprint is registered by.
    """
    app = current_app
    rule = next(app.url_map.iter_rules(f"{blueprint}.openapi")).rule
    root = request.root_path if has_request_context() else app.config["APPLICATION_ROOT"]
    return Mount(
        tuple(route for route in routes if route.is_on(state.settings)),
        rule.removesuffix(_OWN),
        root.rstrip("/"),
        providers.set_up(state),
    )


def name_of(blueprint: Blueprint) -> str:
    """Return the name that a blueprint is registered by, of several the first.

    :raises ConfigurationError: where it is not registered.
    """
    for name, registered in current_app.blueprints.items():
        if registered is blueprint:
            return name
    raise ConfigurationError(
        "The JSON API is not registered on this application; call "
        "app.register_blueprint(referral.blueprint, url_prefix=...)."
    )


def answer(mount: Mount) -> Response:
    """Return the document as a response; it is built once for each mount."""
    text, tag = _served(mount)
    response = Response(text, mimetype=_JSON)
    # Browsers and caches keep it and ask whether it still holds.
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(tag)
    response.make_conditional(request)
    return response


# Where a proxy passes on whatever X-Forwarded-Prefix a client sends, there is no end of them.
@functools.lru_cache(maxsize=16)
def _served(mount: Mount) -> tuple[bytes, str]:
    text = json.dumps(_document(mount), ensure_ascii=False, separators=(",", ":")).encode()
    return text, hashlib.sha256(text).hexdigest()[:32]


def document(mount: Mount) -> dict[str, t.Any]:
    """Return the OpenAPI document, a new dict of plain values."""
    # What is declared stays as it is, whatever the caller does with it.
    found: dict[str, t.Any] = json.loads(_served(mount)[0])
    return found


def _document(mount: Mount) -> dict[str, t.Any]:
    schemas: dict[str, Schema] = {}
    paths: dict[str, dict[str, t.Any]] = {}
    for route in mount.routes:
        path = _VARIABLE.sub(r"{\1}", mount.prefix + route.paths[0])
        operation = _operation(mount, route, schemas)
        method = route.method.lower()
        if _PROVIDER not in path:
            paths.setdefault(path, {})[method] = operation
            continue
        for provider in mount.providers:
            own = path.replace(_PROVIDER, provider)
            paths.setdefault(own, {})[method] = _of_provider(operation, provider)
    components: dict[str, t.Any] = {"schemas": schemas}
    signatures = {
        _scheme_of(provider): {
            "type": "apiKey",
            "in": "header",
            "name": _SIGNATURES[provider][0],
            "description": _SIGNATURES[provider][1],
        }
        for provider in mount.providers
        if provider in _SIGNATURES
    }
    if signatures:
        components["securitySchemes"] = signatures
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Referral program",
            "version": importlib.metadata.version("flask-referral"),
            "description": (
                "Codes, statistics and referrals of the user who is logged in, and the webhooks "
                "of payment providers. How users log in is the application's own; an operation "
                "that needs it answers 401 `not_logged_in` without. What the application's own "
                "error handlers answer is not told here. Amounts are in cents."
            ),
        },
        "servers": [{"url": quote(mount.root) or "/"}],
        "tags": [{"name": "referral"}],
        "paths": paths,
        "components": components,
    }


def _operation(mount: Mount, route: Route, schemas: dict[str, Schema]) -> dict[str, t.Any]:
    summary, _, more = described(route.view)[0].partition("\n\n")
    operation: dict[str, t.Any] = {
        "operationId": f"referral_{route.name}",
        "tags": ["referral"],
        "summary": summary,
    }
    if more:
        operation["description"] = more
    # Of a prefix, whose meaning the host knows.
    names = _VARIABLE.findall(mount.prefix)
    variables = [*(Variable(name, {"type": "string"}, "") for name in names), *route.variables]
    parameters = [_variable(each) for each in variables] + [_query(each) for each in route.queries]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = _body(route.body, schemas)
    if not route.is_personal:
        operation["security"] = []
    operation["responses"] = _responses(route, schemas)
    return operation


def _variable(variable: Variable) -> dict[str, t.Any]:
    told = {"description": variable.description} if variable.description else {}
    return {
        "name": variable.name,
        "in": "path",
        "required": True,
        "schema": variable.schema,
        **told,
    }


def _query(query: Query[t.Any]) -> dict[str, t.Any]:
    default = {} if query.default is None else {"default": query.default}
    return {
        "name": query.name,
        "in": "query",
        "schema": {**query.schema, **default},
        "description": query.description,
    }


def _body(body: Body, schemas: dict[str, Schema]) -> dict[str, t.Any]:
    schema = {"type": "object"} if body.shape is None else schema_of(body.shape, schemas)
    told = {"description": body.description} if body.description else {}
    return {"required": True, **told, "content": {_JSON: {"schema": schema}}}


def _responses(route: Route, schemas: dict[str, Schema]) -> dict[str, t.Any]:
    schema = {"type": "object"} if route.answer is None else schema_of(route.answer, schemas)
    done: dict[str, t.Any] = {"description": "Done.", "content": {_JSON: {"schema": schema}}}
    responses = {"200": done}
    if route.is_kept:
        done["headers"] = {"ETag": {"required": True, "schema": {"type": "string"}}}
        responses["304"] = {"description": "It is as it was when `If-None-Match` was given."}
    by_status: dict[int, list[ErrorCode]] = {}
    for code in (
        *(query.refusal for query in route.queries),
        *(_PERSONAL if route.is_personal else ()),
        *route.codes,
        *_ALWAYS,
    ):
        by_status.setdefault(FAILURES[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        when = "; ".join(f"`{code}`: {FAILURES[code].when}" for code in codes)
        # The last is what a host refuses with by its status alone: a rate limit, a CSRF token.
        words = dict.fromkeys([*codes, word_of(status)])
        named = {"enum": [str(word) for word in words]}
        responses[str(status)] = _refusal(f"{when}.", named, schemas)
    if ErrorCode.unavailable in route.codes:
        responses["503"]["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "In seconds."}
        }
    responses["default"] = _refusal(
        "The application refused the request; the word is its status's.", {}, schemas
    )
    return responses


def _refusal(description: str, code: Schema, schemas: dict[str, Schema]) -> dict[str, t.Any]:
    schema = schema_of(Refusal, schemas) | ({"properties": {"code": code}} if code else {})
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _of_provider(operation: dict[str, t.Any], provider: str) -> dict[str, t.Any]:
    own = {**operation, "operationId": f"{operation['operationId']}_{provider.replace('-', '_')}"}
    if provider in _SIGNATURES:
        own["security"] = [{_scheme_of(provider): []}]
    return own


def _scheme_of(provider: str) -> str:
    return f"referral{provider.capitalize()}"
