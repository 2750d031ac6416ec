"""The lines of README's "Beside other extensions" and "OpenAPI" run as they stand."""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest
from apiflask import APIFlask
from flask import request
from flask_cors import CORS
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_smorest import Api
from flask_smorest import Blueprint
from flask_sqlalchemy import SQLAlchemy
from openapi_spec_validator import validate

from flask_referral import Referral

from ..memory import assert_json_error
from ..memory import GENERATE
from ..memory import make_user
from ..memory import start
from ..whop import CONFIG
from ..whop import payment
from ..whop import signed
from ..whop import URL

pytestmark = pytest.mark.neighbours

README = Path(__file__).resolve().parent.parent.parent / "README.md"
PAGE = "https://app.example.com"


def blocks(heading: str) -> list[str]:
    """Return the Python blocks of a section."""
    section = README.read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def test_limits_and_origins() -> None:
    host = start(REFERRAL_TRUSTED_ORIGINS=[PAGE], **CONFIG)
    (source,) = blocks("\n## Beside other extensions\n")
    limiter = Limiter(
        get_remote_address, app=host.app, default_limits=["12/minute"], storage_uri="memory://"
    )
    names = {"CORS": CORS, "app": host.app, "limiter": limiter, "referral": host.referral}
    exec(compile(source, "README.md", "exec"), {**names, "request": request})
    client = host.finish().client()
    asked = [client.post(GENERATE, headers={"Origin": PAGE}) for _ in range(11)]
    assert [answer.status_code for answer in asked] == [200] * 10 + [429]
    assert {answer.headers["Access-Control-Allow-Origin"] for answer in asked} == {PAGE}
    assert_json_error(asked[-1], 429)
    for number in range(25):
        body = json.dumps(payment("nobody", f"mem_{number}")).encode()
        answer = client.post(URL, data=body, headers=signed(body))
        assert (answer.status_code, "Access-Control-Allow-Origin" in answer.headers) == (200, False)


def test_document_is_part_of_apiflasks() -> None:
    app, db, referral = APIFlask("shop"), SQLAlchemy(), Referral()
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", SECRET_KEY="x", **CONFIG)
    app.config["OPENAPI_VERSION"] = "3.1.0"
    db.init_app(app)
    referral.init_app(app, db, user_model=make_user(db))
    app.get("/goods")(lambda: {"goods": 1})
    exec(
        compile(blocks("\n## OpenAPI\n")[0], "README.md", "exec"),
        {"app": app, "referral": referral},
    )
    whole = app.test_client().get("/openapi.json").get_json()
    validate(whole)
    assert "/goods" in whole["paths"]
    with app.app_context():
        assert_is_part(referral.openapi(), whole)


def test_document_is_part_of_flask_smorests() -> None:
    host = start(API_TITLE="Shop", API_VERSION="1", OPENAPI_VERSION="3.1.0", **CONFIG)
    host.app.config.update(OPENAPI_URL_PREFIX="/", OPENAPI_JSON_PATH="openapi.json")
    shop = Blueprint("shop", "shop", url_prefix="/shop")
    shop.get("/")(lambda: {"goods": 1})
    names = {"Api": Api, "app": host.app, "referral": host.referral}
    exec(compile(blocks("\n## OpenAPI\n")[1], "README.md", "exec"), names)
    names["api"].register_blueprint(shop)
    whole = host.client().get("/openapi.json").get_json()
    validate(whole)
    assert "/shop/" in whole["paths"]
    with host.app.app_context():
        assert_is_part(host.referral.openapi(), whole)


def assert_is_part(told: dict[str, t.Any], whole: dict[str, t.Any]) -> None:
    assert told["paths"].items() <= whole["paths"].items()
    for kind, parts in told["components"].items():
        assert parts.items() <= whole["components"][kind].items()
