"""The host's own pages answer strangers as they did before the extension was there."""

from __future__ import annotations

import random
import typing as t

import sqlalchemy as sa
from flask import abort
from flask import Flask
from flask import redirect
from flask import Response
from flask import session
from flask import stream_with_context

from ..conftest import MakeHost
from ..hostile import BODIES
from ..hostile import hostile_headers
from ..hostile import PIECES
from ..hostile import send
from ..hosts import Host
from ..visiting import add_referrer
from ..visiting import clicks

SEED = 20261130
REQUESTS = 2000
PATHS = ("/", "/account", "/order", "/stream", "/moved", "/gone", "/static/none.css", "/nowhere")
#: What a visit adds to an answer.
OURS = {"set-cookie", "vary", "cache-control"}
NOISE = ("a=1&a=2", "=&&=", "%", "x" * 3000, "%ff=%00", "utm_source=%0d%0aX-Evil:1", "")


def add_pages(app: Flask, count_users: t.Callable[[], int]) -> None:
    """Give an application pages of all kinds: its session, its database, a stream, errors."""

    @app.get("/")
    def landing() -> str:
        return "landing"

    @app.get("/account")
    def account() -> str:
        session["seen"] = True
        return f"{count_users()} users"

    @app.route("/order", methods=["GET", "POST"])
    def order() -> Response:
        return Response(f"{count_users()} users order", headers={"Cache-Control": "public"})

    @app.get("/stream")
    def stream() -> Response:
        pieces = (f"{count_users()} users in piece {number}" for number in range(3))
        return Response(stream_with_context(pieces))

    @app.get("/moved")
    def moved() -> t.Any:
        return redirect("/")

    @app.get("/gone")
    def gone() -> str:
        abort(410)


def test_2000_fuzzed_requests_find_the_hosts_pages_as_they_were(make: MakeHost) -> None:
    host = make(REFERRAL_CLICKS_PER_ADDRESS=8)
    bare = Flask("bare")
    bare.secret_key = host.app.secret_key
    _, code = add_referrer(host)
    add_pages(host.app, lambda: _count(host))
    add_pages(bare, lambda: 1)
    # As servers hand over what is no ASCII.
    pieces = [piece.encode().decode("latin-1") for piece in PIECES]
    queries = (*NOISE, *(f"ref={piece}" for piece in pieces), f"ref={code}", f"ref={code}&a=%ff")
    rng = random.Random(SEED)
    bound = 0
    for number in range(REQUESTS):
        hostile = {
            "path": rng.choice(PATHS),
            "method": rng.choice(("GET", "GET", "GET", "POST", "HEAD", "PUT")),
            "query": "&".join(rng.sample(queries, rng.randint(1, 3))),
            "headers": hostile_headers(rng),
            "body": rng.choice(BODIES),
        }
        told = (SEED, number, hostile)
        (status, headers, body), expected = send(host.app, hostile), send(bare, hostile)
        assert (status, body) == (expected[0], expected[2]), told
        ours, theirs = (
            {name: value for name, value in given.items() if name.lower() not in OURS}
            for given in (headers, expected[1])
        )
        assert ours == theirs, told
        assert "X-Evil" not in str(headers), told
        bound += "virtuna_referral=" in headers.get("Set-Cookie", "")
    # Visits were among them, and the flood left what one address may leave.
    assert bound > 20
    assert 0 < len(clicks(host)) <= 8


def _count(host: Host) -> int:
    count: int = host.db.session.scalar(sa.select(sa.func.count()).select_from(host.User))
    return count
