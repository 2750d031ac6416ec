"""The API's errors are JSON, and the host's own error pages stay as they are."""

from __future__ import annotations

import logging
import typing as t

import pytest
from flask import abort
from flask import Blueprint
from flask import Flask
from flask import got_request_exception
from flask import request
from flask import Response
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import TooManyRequests

from ..memory import assert_json_error
from ..memory import GENERATE
from ..memory import Host
from ..memory import METHODS
from ..memory import start

HOSTS_PAGE = "<h1>the host's page</h1>"


@pytest.fixture
def host() -> Host:
    return start().finish()


def test_no_user(host: Host) -> None:
    host.referral.identity_loader(lambda: None)
    assert_json_error(host.client().post(GENERATE), 401)


def test_paths_and_methods_of_no_route_are_the_hosts() -> None:
    host = start()
    add_pages(host.app)
    client = host.finish().client()
    for path in ("/api/referral", "/api/referral/", "/api/referral/x", f"{GENERATE}/"):
        for method in METHODS:
            answer = client.open(path, method=method)
            assert answer.status_code == 404
            assert method == "HEAD" or answer.text == HOSTS_PAGE
    answer = client.get(GENERATE)
    assert (answer.status_code, answer.text) == (405, HOSTS_PAGE)


def test_body_that_the_host_reads() -> None:
    host = start(MAX_CONTENT_LENGTH=100)

    @host.app.before_request
    def read() -> None:
        request.get_data()

    client = host.finish().client()
    assert_json_error(client.post(GENERATE, data=b"x" * 101), 413)
    assert client.post("/elsewhere", data=b"x" * 101).mimetype == "text/html"
    assert client.post(GENERATE, data=b"x" * 100).status_code == 200


def test_body_is_not_read_by_us() -> None:
    client = start(MAX_CONTENT_LENGTH=100).finish().client()
    assert client.post(GENERATE, data=b"x" * 101).status_code == 200


def test_media_type_that_the_host_refuses() -> None:
    host = start()

    @host.app.before_request
    def parse() -> None:
        if request.method == "POST":
            _ = request.json

    client = host.finish().client()
    assert_json_error(client.post(GENERATE, data=b"x"), 415)
    assert_json_error(client.post(GENERATE, data=b"{", content_type="application/json"), 400)
    assert client.post(GENERATE, json={}).status_code == 200


def test_host_name_that_is_not_trusted() -> None:
    host = start(TRUSTED_HOSTS=["example.com"]).finish()
    answer = host.client().post(GENERATE, headers={"Host": "evil.example"})
    # Flask 3.0 does not know this setting.
    assert answer.status_code == (400 if "TRUSTED_HOSTS" in Flask.default_config else 200)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "bad_request"),
        (401, "not_logged_in"),
        (403, "forbidden"),
        (404, "not_found"),
        (409, "http_409"),
        (413, "too_large"),
        (415, "unsupported_media_type"),
        (418, "http_418"),
        (429, "too_many_requests"),
        (500, "internal_error"),
        (503, "unavailable"),
    ],
)
def test_error_that_the_host_raises(status: int, code: str) -> None:
    host = start()

    @host.app.before_request
    def refuse() -> None:
        abort(status, "Not now.")

    answer = host.finish().client().post(GENERATE)
    assert assert_json_error(answer, status) == "Not now."
    assert answer.get_json()["code"] == code


def test_headers_of_an_error_are_kept() -> None:
    host = start()

    @host.app.before_request
    def refuse() -> None:
        raise TooManyRequests(retry_after=30)

    answer = host.finish().client().post(GENERATE)
    assert_json_error(answer, 429)
    assert answer.headers["Retry-After"] == "30"


def test_response_that_the_host_aborts_with() -> None:
    host = start()

    @host.app.before_request
    def refuse() -> None:
        abort(Response("maintenance", 503))

    answer = host.finish().client().post(GENERATE)
    assert (answer.status_code, answer.text) == (503, "maintenance")


# The database is away


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"TESTING": True},
        {"DEBUG": True},
        {"PROPAGATE_EXCEPTIONS": True},
        {"TRAP_HTTP_EXCEPTIONS": True},
        {"TRAP_BAD_REQUEST_ERRORS": True},
    ],
    ids=str,
)
def test_database_is_away(
    config: dict[str, bool],
    opened: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = start(**config).finish()
    if opened:

        @host.referral.identity_loader
        def load() -> int:
            host.app.extensions["sqlalchemy"].session()
            return 1

    with host.app.app_context():
        engine = host.app.extensions["sqlalchemy"].engine

    def away(*args: t.Any, **kwargs: t.Any) -> t.NoReturn:
        raise OperationalError("SELECT 1", {}, Exception("password of the server at 10.0.0.7"))

    monkeypatch.setattr(engine.pool, "connect", away)
    raised: list[BaseException] = []

    def listen(sender: Flask, exception: BaseException, **rest: t.Any) -> None:
        assert sender is host.app
        raised.append(exception)

    with got_request_exception.connected_to(listen), caplog.at_level(logging.ERROR):
        answer = host.client().post(GENERATE)
    assert "10.0.0.7" not in assert_json_error(answer, 500)
    # Monitoring hears of it once, and so does the log.
    assert [type(error) for error in raised] == [OperationalError]
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is raised[0]
    monkeypatch.undo()
    assert host.client().post(GENERATE).status_code == 200


@pytest.mark.parametrize(
    "key", ["TRAP_HTTP_EXCEPTIONS", "PROPAGATE_EXCEPTIONS", "TESTING", "DEBUG"]
)
def test_modes_of_flask(key: str) -> None:
    host = start(**{key: True}).finish()
    client = host.client()
    assert_json_error(client.post(GENERATE, headers={"Origin": "null"}), 403)
    host.referral.identity_loader(lambda: None)
    assert_json_error(client.post(GENERATE), 401)


def test_no_signal_for_what_the_client_did(host: Host) -> None:
    raised: list[t.Any] = []

    def listen(sender: Flask, **rest: t.Any) -> None:
        raised.append(rest)

    with got_request_exception.connected_to(listen):
        host.client().post(GENERATE, headers={"Origin": "null"})
    assert raised == []


# The host's own pages


def add_pages(app: Flask) -> None:
    for status in (400, 401, 403, 404, 405, 413, 415, 500):
        app.register_error_handler(status, lambda error: (HOSTS_PAGE, error.code))
    app.register_error_handler(Exception, lambda error: (HOSTS_PAGE, 500))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("prefix", ["/api/referral", "/x", "/a/b.c", "/<tenant>/friends"])
def test_pages_of_the_host_are_untouched(prefix: str, before: bool) -> None:
    host = start(register_blueprint=False)
    app = host.app
    if before:
        add_pages(app)

    @app.url_value_preprocessor
    def pull(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
        if values:
            values.pop("tenant", None)

    app.register_blueprint(host.referral.blueprint, url_prefix=prefix)
    app.add_url_rule("/only-post", "post", lambda: "", methods=["POST"])
    app.add_url_rule("/fail", "fail", lambda: 1 / 0)
    if not before:
        add_pages(app)
    client = host.finish().client()
    path = prefix.replace("<tenant>", "acme")

    assert client.post(f"{path}/generate").status_code == 200
    assert_json_error(client.post(f"{path}/generate", headers={"Origin": "null"}), 403)
    host.referral.identity_loader(lambda: 1 / 0)
    assert_json_error(client.post(f"{path}/generate"), 500)
    host.referral.identity_loader(lambda: None)
    assert_json_error(client.post(f"{path}/generate"), 401)

    own = {
        "/": 404,
        "/x-1": 404,
        f"{path}/x": 404,
        f"{path}/": 404,
        f"/y{path}": 404,
        "/only-post": 405,
        "/fail": 500,
    }
    for url, status in own.items():
        answer = client.get(url)
        assert (answer.status_code, answer.text) == (status, HOSTS_PAGE)
        assert "Cache-Control" not in answer.headers


@pytest.mark.parametrize("prefix", [None, "", "/"])
def test_blueprint_at_the_root(prefix: str | None) -> None:
    host = start(register_blueprint=False)
    add_pages(host.app)
    host.app.register_blueprint(host.referral.blueprint, url_prefix=prefix)
    client = host.finish().client()
    assert client.post("/generate").status_code == 200
    assert client.get("/x").text == HOSTS_PAGE


def test_handler_of_a_parent_blueprint() -> None:
    host = start(register_blueprint=False)
    parent = Blueprint("parent", "host")
    parent.register_error_handler(404, lambda error: (HOSTS_PAGE, 404))
    parent.register_blueprint(host.referral.blueprint, url_prefix="/friends")
    host.app.register_blueprint(parent, url_prefix="/api")
    host.referral.identity_loader(lambda: abort(404))
    assert_json_error(host.finish().client().post("/api/friends/generate"), 404)
