"""Nothing that a client sends makes the API fail."""

from __future__ import annotations

import json
import random
import typing as t
from urllib.parse import unquote_to_bytes

import pytest
from flask import Flask
from flask import request
from werkzeug.exceptions import HTTPException

from ..hostile import BODIES
from ..hostile import hostile_headers
from ..hostile import PIECES
from ..hostile import QUERIES
from ..hostile import send
from ..memory import GENERATE
from ..memory import METHODS
from ..memory import start

SEED = 20261122
REQUESTS = 3000


def hostile_environ(rng: random.Random) -> dict[str, t.Any]:
    """Return a request as a WSGI server hands it over, which may be anything."""
    path = "/api/referral" + rng.choice(["/", "//"])
    path += "/".join(rng.choice(PIECES) for _ in range(rng.randint(0, 3)))
    if rng.random() < 0.4:
        path = GENERATE
    body = rng.choice(BODIES)
    environ: dict[str, t.Any] = {"body": body, "method": rng.choice(METHODS), "path": path}
    if rng.random() < 0.5:
        environ["method"] = "POST"
    environ["headers"] = hostile_headers(rng)
    environ["query"] = rng.choice(QUERIES)
    return environ


def is_ours(app: Flask, hostile: dict[str, t.Any]) -> bool:
    """Whether a request reaches a route of ours; the host answers all others."""
    if "HTTP_HOST" in hostile["headers"]:
        # Flask may refuse it before it looks for a route.
        return False
    path = unquote_to_bytes(hostile["path"]).decode(errors="replace")
    try:
        app.url_map.bind("localhost").match(path, hostile["method"])
    except HTTPException:
        return False
    return True


@pytest.mark.parametrize("reads", [False, True])
def test_hostile_requests(reads: bool) -> None:
    host = start(MAX_CONTENT_LENGTH=50_000, REFERRAL_WHOP_WEBHOOK_SECRET="ws_0123456789abcdefghij")
    host.app.get("/hosts-own/")(lambda: "")
    if reads:

        @host.app.before_request
        def read() -> None:
            _ = request.form, request.files, request.cookies, request.args
            request.get_json(silent=True)

    host.finish()
    rng = random.Random(SEED)
    seen: dict[int, int] = {}
    for number in range(REQUESTS):
        hostile = hostile_environ(rng)
        status, headers, body = send(host.app, hostile)
        seen[status] = seen.get(status, 0) + 1
        told = (SEED, number, hostile)
        assert status < 500, told
        assert "X-Evil" not in headers, told
        if "Location" in headers:
            # The router removes slashes. A client may name any host, but only to itself.
            is_own = headers["Location"].startswith("http://localhost/api/referral/")
            assert is_own or "HTTP_HOST" in hostile["headers"], told
        elif status >= 400 and hostile["method"] != "HEAD" and is_ours(host.app, hostile):
            assert headers["Content-Type"] == "application/json", told
            assert json.loads(body).keys() == {"error", "code"}, told
    # The corpus reaches the views, their refusals, and the router.
    assert {200, 401, 403, 404, 405} <= seen.keys()
    assert (413 in seen) is reads
