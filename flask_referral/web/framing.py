"""Pages of ours that no other site may show in a frame, unless the host says otherwise."""

from __future__ import annotations

import functools
import typing as t

from flask import current_app
from flask import Response
from werkzeug.datastructures import Headers

if t.TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def framed(body: str | bytes | t.Iterable[str]) -> Response:
    """Return an answer that is not kept, in the host's class of responses."""
    hosts_class: t.Any = current_app.response_class
    response: Response = _page_class(hosts_class)(body)
    response.headers["Cache-Control"] = "no-store"
    return response


@functools.cache
def _page_class(base: t.Any) -> t.Any:
    """Return the host's class of responses, with frames of other sites forbidden at the last.

    That is when all of the host's ``after_request`` functions have said what they have to say of
    the headers, in whatever order they were registered.
    """

    class Page(base):  # type: ignore[misc]
        def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
            headers: Headers = super().get_wsgi_headers(environ)
            policies = headers.getlist("Content-Security-Policy")
            # frame-ancestors goes before X-Frame-Options, so one of the host's is never joined
            # by the other of ours: https://www.w3.org/TR/CSP3/#frame-ancestors-and-frame-options
            if "X-Frame-Options" not in headers and "frame-ancestors" not in " ".join(policies):
                headers["X-Frame-Options"] = "SAMEORIGIN"
                # A second policy takes nothing from the first.
                headers.add("Content-Security-Policy", "frame-ancestors 'self'")
            return headers

    return Page
