"""The lines of README's "Beside other extensions" run as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask import request
from flask_cors import CORS
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from ..memory import assert_json_error
from ..memory import GENERATE
from ..memory import start
from ..whop import CONFIG
from ..whop import payment
from ..whop import signed
from ..whop import URL

pytestmark = pytest.mark.neighbours

README = Path(__file__).resolve().parent.parent.parent / "README.md"
PAGE = "https://app.example.com"


def test_limits_and_origins() -> None:
    host = start(REFERRAL_TRUSTED_ORIGINS=[PAGE], **CONFIG)
    section = README.read_text(encoding="utf-8").split("\n## Beside other extensions\n")[1]
    source = section.split("```python\n")[1].split("```")[0]
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
