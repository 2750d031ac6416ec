"""Share links: following one, ``?ref=`` on any page, and building one."""

from __future__ import annotations

import typing as t
from urllib.parse import parse_qsl
from urllib.parse import urlencode
from urllib.parse import urlsplit
from urllib.parse import urlunsplit

from flask import Blueprint
from flask import current_app
from flask import has_request_context
from flask import redirect
from flask import request
from flask import Response
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BuildError

from .. import codes
from ..errors import ConfigurationError
from ..host.state import current_state
from . import query
from . import visits

if t.TYPE_CHECKING:
    from ..host.state import State
    from ..settings import Settings
_LONGEST_QUERY = 2048
#: What a content delivery network goes by instead of Cache-Control: RFC 9213 and the names that
#: vendors derive from it, as Cloudflare-CDN-Cache-Control, and what was there before it.
_TARGETED = "-cache-control"
_PRIVATE = "private, no-store"
#: Surrogate-Control is of https://www.w3.org/TR/edge-arch/, Edge-Control of Akamai, and for nginx
#: an X-Accel-Expires of 0 keeps an answer out of its cache.
_OF_VENDORS = {
    "surrogate-control": "no-store, max-age=0",
    "edge-control": "no-store, max-age=0",
    "x-accel-expires": "0",
}
_OURS = f"{__name__.partition('.')[0]}."
_LOCAL = ("localhost", "127.0.0.1", "::1")


def create_blueprint() -> Blueprint:
    """Build the blueprint ``referral_links``."""
    blueprint = Blueprint("referral_links", __name__)
    # Mangled links have slashes and line breaks; no kind of variable takes both.
    for rule in ("/<code>", "/<path:code>"):
        blueprint.add_url_rule(rule, view_func=follow, methods=["GET"])
    blueprint.after_app_request(capture_from_query)
    return blueprint


def follow(code: str) -> Response:
    """Send the visitor to the landing page, the same way whether the code exists or not."""
    state = current_state()
    response = t.cast(Response, redirect(_landing_url(state.settings), 302))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "strict-origin-when-cross-origin"
    response.headers["X-Robots-Tag"] = "noindex"
    response.vary.add("Cookie")
    normalized = codes.normalized(code, state.settings)
    if normalized is not None:
        visits.capture(state, response, normalized)
    else:
        visits.log_uncounted(code, "that is no code")
    return response


def capture_from_query(response: Response) -> Response:
    """Treat a page that was asked for with ``?ref=CODE`` as a visit through the code."""
    # Nearly every request of the host's has none or another, and nothing else of ours runs on it.
    query = request.environ.get("QUERY_STRING")
    if not query:
        return response
    try:
        state = current_state()
        if state.settings.query_param not in query:
            return response
        code = _code_in_query(state, response)
    except Exception:
        current_app.logger.exception("A page's referral code could not be read.")
        return response
    if code is not None:
        _keep_out_of_shared_caches(response)
        visits.capture(state, response, code)
    return response


def _keep_out_of_shared_caches(response: Response) -> None:
    """Make an answer private: who asks decides what it carries."""
    response.vary.add("Cookie")
    if not response.cache_control.no_store:
        response.cache_control.public = False
        response.cache_control.s_maxage = None
        response.cache_control.private = True
    for name in list(response.headers.keys()):
        lowered = name.lower()
        if lowered.endswith(_TARGETED):
            response.headers[name] = _PRIVATE
        elif lowered in _OF_VENDORS:
            response.headers[name] = _OF_VENDORS[lowered]


def _code_in_query(state: State, response: Response) -> str | None:
    values = query.given(state.settings)
    if not values:
        return None
    if (reason := _why_no_page(response)) is not None:
        visits.log_uncounted(values[0], reason)
        return None
    code = query.first_code(values, state.settings)
    if code is None:
        visits.log_uncounted(values[0], "that is no code")
    return code


def _why_no_page(response: Response) -> str | None:
    """Return why what was asked for is no page of the host's; None where it is one."""
    endpoint = request.endpoint
    if request.method != "GET":
        return "its method is not GET"
    if endpoint is None or response.status_code >= 400:
        return f"the answer is {response.status_code}"
    if endpoint.rpartition(".")[2] == "static":
        return "a static file is no page"
    blueprint = current_app.blueprints.get(request.blueprint or "")
    # The host may have mounted ours where it likes.
    if blueprint is not None and blueprint.import_name.startswith(_OURS):
        return "a referral route is no page of the host's"
    return None


def _landing_url(settings: Settings) -> str:
    """Return the landing page with the query parameters that the visitor brought.

    A parameter that the setting has itself stays as it is.
    """
    landing = settings.landing_url
    if landing.startswith("/"):
        landing = f"{_mount_point()}{landing}"
    if not request.environ.get("QUERY_STRING"):
        return landing
    parts = urlsplit(landing)
    own = parse_qsl(parts.query, keep_blank_values=True)
    taken = {name for name, _ in own} | {settings.query_param}
    # Of "&amp;", as it stands in a page's source, the rest comes with the name.
    items = ((name.removeprefix("amp;"), value) for name, value in request.args.items(multi=True))
    brought = [item for item in items if item[0] not in taken]
    carried = urlencode(brought)
    if not brought or len(carried) > _LONGEST_QUERY:
        return landing
    carried = f"{parts.query}&{carried}" if parts.query else carried
    return urlunsplit(parts._replace(query=carried))


def _mount_point() -> str:
    """Return the path that the host is mounted below, as ``/shop``; empty at the root.

    WSGI names it ``SCRIPT_NAME``. Behind a proxy that cuts it off and does not say so, Flask's
    ``APPLICATION_ROOT`` does.
    """
    below = request.script_root.strip("/") if has_request_context() else ""
    below = below or str(current_app.config.get("APPLICATION_ROOT") or "").strip("/")
    return f"/{below}" if below else ""


def share_link(state: State, code: str) -> str:
    """Return the absolute link that brings visitors to a code.

    :raises ConfigurationError: where no trustworthy host is known to build it with.
    """
    return f"{_base_url(state.settings)}{_path(state.settings, code)}"


def known_link(state: State, code: str) -> str | None:
    """Return :func:`share_link`, or None where no trustworthy host is known."""
    try:
        return share_link(state, code)
    except ConfigurationError:
        return None


def check_base_url(state: State) -> None:
    """Raise what :func:`share_link` would raise."""
    _base_url(state.settings)


def _path(settings: Settings, code: str) -> str:
    try:
        # The host may have mounted the links where it likes.
        return current_app.url_map.bind("").build("referral_links.follow", {"code": code})
    except BuildError:
        return f"{settings.link_prefix}/{code}"


def _base_url(settings: Settings) -> str:
    if settings.base_url is not None:
        return settings.base_url
    config = current_app.config
    if config.get("SERVER_NAME"):
        return f"{config['PREFERRED_URL_SCHEME']}://{config['SERVER_NAME']}{_mount_point()}"
    if has_request_context() and _is_host_trusted():
        return f"{request.host_url.rstrip('/')}{_mount_point()}"
    raise ConfigurationError(
        "The address of share links is not known, and a request's Host header is anybody's to "
        "write: set REFERRAL_BASE_URL = 'https://your.site' (or SERVER_NAME, or TRUSTED_HOSTS "
        "with Flask 3.1 or newer)."
    )


def _is_host_trusted() -> bool:
    try:
        host = request.host
    except HTTPException:
        return False
    # Flask 3.1 sets this from TRUSTED_HOSTS; the line above has compared the two.
    if request.trusted_hosts:
        return True
    is_local = urlsplit(f"//{host}").hostname in _LOCAL
    return is_local and (current_app.debug or current_app.testing)
