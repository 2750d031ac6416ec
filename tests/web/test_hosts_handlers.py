"""A host's exceptions in its own functions get the host's own answers, and fill no log."""

from __future__ import annotations

import logging
import typing as t

import pytest
from flask import abort
from flask import Blueprint
from flask import Response
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import Unauthorized

from flask_referral import ReferralError

from ..conftest import MakeHost
from ..memory import assert_json_error
from ..memory import GENERATE
from ..memory import Host
from ..memory import start
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import clicks
from ..visiting import set_cookie

STATS = "/api/referral/stats"


class InvalidToken(Exception):
    """As PyJWT's."""


class ExpiredToken(InvalidToken):
    """What a host has a handler for the base of."""


class LoginNeeded(Unauthorized):
    """An HTTP error of the host's own, with a handler of its own."""


def fail_with(error: BaseException) -> t.Callable[[], t.NoReturn]:
    def load() -> t.NoReturn:
        raise error

    return load


def asked(host: Host) -> list[t.Any]:
    """Ask for a code and for figures; both must have one answer."""
    answers = [host.client().post(GENERATE), host.client().get(STATS)]
    assert len({(answer.status_code, answer.data) for answer in answers}) == 1
    return answers


@pytest.fixture
def host() -> Host:
    host = start()
    answer = ({"msg": "the host's"}, 401, {"WWW-Authenticate": "Bearer"})
    for class_ in (InvalidToken, LoginNeeded):
        host.app.register_error_handler(class_, lambda error: answer)
    for too_much in (401, 500, HTTPException, Exception):
        host.app.register_error_handler(too_much, lambda error: ("the host's page", 418))
    return host.finish()


@pytest.mark.parametrize("error", [InvalidToken("x"), ExpiredToken("x"), LoginNeeded()], ids=repr)
def test_exception_with_a_handler_is_answered_by_it(
    host: Host, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    host.referral.identity_loader(fail_with(error))
    for answer in asked(host):
        assert (answer.status_code, answer.get_json()) == (401, {"msg": "the host's"})
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Cache-Control"] == "no-store"
    assert caplog.records == []


def test_handler_of_a_parent_blueprint_is_the_hosts_too() -> None:
    host = start(register_blueprint=False)
    parent = Blueprint("parent", "host")
    parent.register_error_handler(InvalidToken, lambda error: ("parent's", 401))
    parent.register_blueprint(host.referral.blueprint, url_prefix="/friends")
    host.app.register_blueprint(parent, url_prefix="/api")
    host.app.register_error_handler(InvalidToken, lambda error: ("application's", 401))
    host.referral.identity_loader(fail_with(ExpiredToken()))
    assert host.finish().client().post("/api/friends/generate").text == "parent's"


def test_abort_in_a_loader_keeps_its_answer(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.referral.identity_loader(lambda: abort(401, "The token is old."))
    for answer in asked(host):
        assert assert_json_error(answer, 401) == "The token is old."
        assert answer.get_json()["code"] == "not_logged_in"
    host.referral.identity_loader(lambda: abort(Response("log in", 302, {"Location": "/log-in"})))
    for answer in asked(host):
        assert (answer.status_code, answer.headers["Location"]) == (302, "/log-in")
    refusal = Unauthorized()
    # As flask_smorest.abort(401, message=..., headers=...) does.
    refusal.data = {"message": "No token.", "headers": {"WWW-Authenticate": "Bearer"}}
    host.referral.identity_loader(fail_with(refusal))
    for answer in asked(host):
        assert assert_json_error(answer, 401) == "No token."
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert caplog.records == []


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError(), OperationalError("SELECT", {}, Exception()), ReferralError("No.")],
    ids=repr,
)
def test_what_nobody_foresaw_is_json_and_is_logged(
    host: Host, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    for class_ in (OperationalError, RuntimeError):
        # The database's errors and ours are ours to answer, on our routes.
        host.app.register_error_handler(class_, lambda error: ("the host's page", 418))
    host.referral.identity_loader(fail_with(error))
    for answer in asked(host):
        assert_json_error(answer, 500)
        assert answer.get_json()["code"] == "internal_error"
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2


def test_login_of_a_deleted_user_is_no_login(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.referral.identity_loader(lambda: 77)
    for answer in asked(host):
        assert_json_error(answer, 401)
        assert answer.get_json()["code"] == "unknown_user"
    assert caplog.records == []


def test_loader_that_answers_no_key_is_a_fault_of_the_setup(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.referral.identity_loader(lambda: "ada@example.com")
    for answer in asked(host):
        assert "was logged" in assert_json_error(answer, 500)
        assert answer.get_json()["code"] == "not_configured"
    assert "cannot be a user's id" in caplog.text


@pytest.mark.parametrize("loader", ["identity_loader", "consent_loader"])
def test_refused_token_on_a_visit_fills_no_log(
    make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture, loader: str
) -> None:
    host = make_sqlite()
    host.app.register_error_handler(InvalidToken, lambda error: ("", 401))
    host.app.add_url_rule("/page", view_func=lambda: "page")
    _, code = add_referrer(host)
    name = getattr(host.referral, loader)
    for number, error in enumerate((ExpiredToken(), Unauthorized(), ZeroDivisionError())):
        name(fail_with(error))
        caplog.clear()
        client = browser(host)
        client.environ_base["REMOTE_ADDR"] = f"10.0.0.{number}"
        answer = client.get(f"/page?ref={code}")
        assert (answer.status_code, answer.text) == (200, "page")
        # Nobody is known: an ordinary visit. Nobody agreed: none at all.
        assert (set_cookie(answer) is not None) is (loader == "identity_loader")
        foreseen = not isinstance(error, ZeroDivisionError)
        loud = [record for record in caplog.records if record.levelno > logging.DEBUG]
        assert len(loud) == (0 if foreseen else 1)
    assert len(clicks(host)) == (3 if loader == "identity_loader" else 0)
