"""``GET /openapi.json`` tells of the API as the application serves it."""

from __future__ import annotations

import dataclasses
import json
import re
import typing as t

import pytest
from flask import abort
from flask import Blueprint
from openapi_spec_validator import validate
from werkzeug.test import TestResponse

from flask_referral import ConfigurationError
from flask_referral import results
from flask_referral import WebhookEvent
from flask_referral.web.errors import FAILURES

from .. import stripe
from .. import whop
from ..conftest import MakeHost
from ..hosts import Host as StoredHost
from ..memory import Host
from ..memory import start
from ..visiting import add_referrer

DOCUMENT = "/api/referral/openapi.json"
ALWAYS = {"/generate", "/stats", "/referrals", "/codes/{code}", "/openapi.json"}
EVERYTHING: dict[str, t.Any] = {"REFERRAL_VANITY_CODES": True, **whop.CONFIG, **stripe.CONFIG}


def document(host: Host | StoredHost, path: str = DOCUMENT) -> dict[str, t.Any]:
    answer = host.client().get(path)
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    told: dict[str, t.Any] = answer.get_json()
    validate(told)
    return told


def below(prefix: str, *more: str) -> set[str]:
    return {prefix + path for path in (*ALWAYS, *more)}


@pytest.mark.parametrize("config", [{}, EVERYTHING], ids=["as it comes", "everything on"])
def test_document_is_valid_and_of_all_routes_that_answer(config: dict[str, t.Any]) -> None:
    host = start(**config).finish()
    more = ["/code", "/webhooks/whop", "/webhooks/stripe"] if config else []
    told = document(host)
    assert told["openapi"].startswith("3.1.")
    assert told["paths"].keys() == below("/api/referral", *more)
    rules = {
        # A second rule of one view is the same operation.
        (method.lower(), rule.endpoint)
        for rule in host.app.url_map.iter_rules()
        if rule.endpoint.startswith("referral.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    operations = [
        (method, operation["operationId"])
        for each in told["paths"].values()
        for method, operation in each.items()
    ]
    named = {(method, re.sub("_(whop|stripe)$", "", name)) for method, name in operations}
    expected = {(method, endpoint.replace(".", "_")) for method, endpoint in rules}
    if not config:
        expected -= {("put", "referral_choose_code"), ("post", "referral_webhook")}
    assert named == expected


def test_route_that_is_switched_off_is_not_told_of() -> None:
    host = start().finish()
    for method, path in (("PUT", "/api/referral/code"), ("POST", whop.URL)):
        assert host.client().open(path, method=method, json={"code": "ADA"}).status_code == 404
        assert path not in document(host)["paths"]


def test_webhook_that_is_named_later_is_told_of() -> None:
    host = start().finish()
    assert "/api/referral/webhooks/till-2" not in document(host)["paths"]

    @host.referral.webhook("till-2")
    def read(body: bytes, headers: t.Any) -> WebhookEvent:
        return WebhookEvent(id="evt_1", kind="ignored")

    operation = document(host)["paths"]["/api/referral/webhooks/till-2"]["post"]
    # Whatever its signature is, it is nobody's log-in.
    assert operation["security"] == []


def test_every_built_in_webhook_says_how_it_is_signed() -> None:
    told = document(start(**EVERYTHING).finish())
    for name, sign in (("whop", whop.signed), ("stripe", stripe.signed)):
        operation = told["paths"][f"/api/referral/webhooks/{name}"]["post"]
        ((scheme,),) = operation["security"]
        header = told["components"]["securitySchemes"][scheme]
        assert header["in"] == "header"
        assert header["name"] in sign(b"{}")


# Mounted


@pytest.mark.parametrize("prefix", ["/friends", "/a/b.c", "", "/<tenant>/x", "/<int:tenant>/x"])
def test_paths_are_as_mounted(prefix: str) -> None:
    host = start(register_blueprint=False)

    @host.app.url_value_preprocessor
    def pull(endpoint: str | None, values: dict[str, t.Any] | None) -> None:
        if values:
            values.pop("tenant", None)

    host.app.register_blueprint(host.referral.blueprint, url_prefix=prefix or None)
    host.finish()
    asked = re.sub("<.*>", "7", prefix)
    told = document(host, f"{asked}/openapi.json")
    shown = re.sub("<.*>", "{tenant}", prefix)
    assert told["paths"].keys() == below(shown)
    (stats,) = told["paths"][f"{shown}/stats"].values()
    in_path = [each["name"] for each in stats["parameters"] if each["in"] == "path"]
    assert in_path == (["tenant"] if "<" in prefix else [])
    for path in told["paths"]:
        answer = host.client().open(path.replace("{tenant}", "7").replace("{code}", "x"))
        assert answer.status_code in (200, 405)


def test_prefix_is_the_setting() -> None:
    host = start(REFERRAL_URL_PREFIX="/friends").finish()
    assert document(host, "/friends/openapi.json")["paths"].keys() == below("/friends")


def test_blueprint_inside_another() -> None:
    host = start(register_blueprint=False)
    outer = Blueprint("outer", "host")
    outer.register_blueprint(host.referral.blueprint, url_prefix="/friends")
    host.app.register_blueprint(outer, url_prefix="/api")
    host.finish()
    assert document(host, "/api/friends/openapi.json")["paths"].keys() == below("/api/friends")
    with host.app.app_context():
        assert host.referral.openapi()["paths"].keys() == below("/api/friends")


def test_blueprint_at_two_places_tells_each_its_own() -> None:
    host = start(register_blueprint=False)
    host.app.register_blueprint(host.referral.blueprint, url_prefix="/old")
    host.app.register_blueprint(host.referral.blueprint, url_prefix="/new", name="new")
    host.finish()
    for prefix in ("/old", "/new"):
        assert document(host, f"{prefix}/openapi.json")["paths"].keys() == below(prefix)


def test_servers_have_the_path_that_the_application_is_below() -> None:
    host = start().finish()
    # The path of the address is what a server calls SCRIPT_NAME.
    told = host.client().get(DOCUMENT, base_url="http://localhost/shop é").get_json()
    validate(told)
    assert told["servers"] == [{"url": "/shop%20%C3%A9"}]
    assert document(host)["servers"] == [{"url": "/"}]


def test_servers_outside_of_requests() -> None:
    host = start(APPLICATION_ROOT="/shop/").finish()
    with host.app.app_context():
        assert host.referral.openapi()["servers"] == [{"url": "/shop"}]


# The host's part


def test_method_gives_the_document_as_the_callers_own() -> None:
    host = start(**EVERYTHING).finish()
    with host.app.app_context():
        given = host.referral.openapi()
    served = document(host)
    assert given == served
    given["paths"].clear()
    given["components"]["schemas"].clear()
    with host.app.app_context():
        assert host.referral.openapi() == served == document(host)


def test_method_without_the_blueprint_says_what_is_missing() -> None:
    host = start(register_blueprint=False).finish()
    with host.app.app_context(), pytest.raises(ConfigurationError, match=r"register_blueprint\("):
        host.referral.openapi()


def test_log_in_is_the_hosts_to_say() -> None:
    told = document(start(**EVERYTHING).finish())
    assert "security" not in told
    open_to_hosts = {
        path
        for path, operations in told["paths"].items()
        for operation in operations.values()
        if "security" not in operation
    }
    personal = {f"/api/referral/{name}" for name in ("generate", "code", "stats", "referrals")}
    assert open_to_hosts == personal
    for path in personal:
        (operation,) = told["paths"][path].values()
        assert {"not_logged_in", "unknown_user"} <= set(words(told, operation, 401))


# Kept


def test_document_is_built_once_and_asked_for_with_its_tag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A prefix of its own: what another test asked for is kept too.
    host = start(REFERRAL_URL_PREFIX="/built-once").finish()
    built: list[object] = []
    dumps = json.dumps

    def counted(value: t.Any, **options: t.Any) -> str:
        built.append(value)
        return dumps(value, **options)

    monkeypatch.setattr("flask_referral.web.openapi.json.dumps", counted)
    client = host.client()
    first, again = (client.get("/built-once/openapi.json") for _ in range(2))
    # Sessions write JSON too.
    assert len([each for each in built if isinstance(each, dict) and "openapi" in each]) == 1
    assert first.data == again.data
    assert first.headers["Cache-Control"] == "no-cache"
    tag = {"If-None-Match": first.headers["ETag"]}
    unchanged = client.get("/built-once/openapi.json", headers=tag)
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    other = start(REFERRAL_URL_PREFIX="/built-once", REFERRAL_VANITY_CODES=True).finish()
    assert other.client().get("/built-once/openapi.json", headers=tag).status_code == 200


def test_no_other_answer_is_kept() -> None:
    client = start().finish().client()
    for path in ("stats", "referrals", "codes/x", "stats?days=0"):
        assert client.get(f"/api/referral/{path}").headers["Cache-Control"] == "no-store"


def test_document_asks_no_database(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    with host.statements() as statements:
        document(host)
    assert statements == []


# What it says


def test_answers_have_the_fields_of_the_results() -> None:
    schemas = document(start().finish())["components"]["schemas"]
    for class_ in (results.Stats, results.StatsDay, results.StatsSource, results.ReferralEntry):
        name = class_.__name__
        schema = schemas[name if name.startswith("Referral") else f"Referral{name}"]
        names = [field.name for field in dataclasses.fields(class_)]
        assert [*schema["properties"]] == schema["required"] == names
    assert schemas["ReferralState"]["enum"] == [*results.ReferralState]
    assert "cents" in schemas["ReferralStatsTotals"]["description"]


def words(told: dict[str, t.Any], operation: dict[str, t.Any], status: int) -> list[str]:
    """Return the words that an operation may answer with a status."""
    schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
    assert schema["$ref"] == "#/components/schemas/ReferralRefusal"
    found: list[str] = schema["properties"]["code"]["enum"]
    return found


def declared(host: Host | StoredHost, answer: TestResponse) -> tuple[int, str]:
    """Return an error's status and word, which the document has to name for its route."""
    told = document(host)
    path = re.sub("/codes/.*", "/codes/{code}", answer.request.path)
    operation = told["paths"][path][answer.request.method.lower()]
    word = answer.get_json()["code"]
    assert word in words(told, operation, answer.status_code), answer.request
    return answer.status_code, word


def test_every_error_is_told_of_somewhere() -> None:
    told = document(start(**EVERYTHING).finish())
    everywhere = {
        word: int(status)
        for operations in told["paths"].values()
        for operation in operations.values()
        for status in operation["responses"]
        if status.startswith(("4", "5"))
        for word in words(told, operation, int(status))
    }
    ours = {str(code): failure.status for code, failure in FAILURES.items()}
    # What only a host says has the status's word.
    assert (
        everywhere.items()
        >= {word: status for word, status in ours.items() if word != "too_many_requests"}.items()
    )


def test_errors_that_need_a_story_are_as_declared(make: MakeHost) -> None:
    host = make(**EVERYTHING)
    ada, bob = add_referrer(host)[0], host.add_user()
    client = host.client()
    host.current_user = ada

    def choose(**options: t.Any) -> TestResponse:
        return client.put("/api/referral/code", **options)

    assert choose(json={"code": "ADA"}).status_code == 200
    host.current_user = bob
    cross_site = {"Sec-Fetch-Site": "cross-site"}
    large = json.dumps({"code": "x" * 20_000})
    big = client.post(whop.URL, data=b"x" * 300_000)
    assert [
        declared(host, choose(json={"code": "ADA"})),
        declared(host, choose(json={"code": "ADMIN"})),
        declared(host, choose(data="ADA")),
        declared(host, choose(json=["ADA"])),
        declared(host, choose(data=large, content_type="application/json")),
        declared(host, choose(json={"code": "BOB"}, headers=cross_site)),
        declared(host, client.post("/api/referral/generate", headers=cross_site)),
        declared(host, big),
        declared(host, client.get("/api/referral/stats?days=367")),
        declared(host, client.get("/api/referral/referrals?limit=101")),
        declared(host, client.get("/api/referral/referrals?before=x")),
    ] == [
        (409, "code_taken"),
        (422, "code_not_allowed"),
        (415, "unsupported_media_type"),
        (400, "bad_request"),
        (413, "too_large"),
        (403, "cross_site"),
        (403, "cross_site"),
        (413, "too_large"),
        (400, "invalid_days"),
        (400, "invalid_limit"),
        (400, "invalid_cursor"),
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503])
def test_what_a_host_refuses_with_is_as_declared(status: int) -> None:
    host = start(**EVERYTHING).finish()
    told = document(host)
    host.referral.identity_loader(lambda: abort(status))
    answer = host.client().put("/api/referral/code", json={"code": "ADA"})
    responses = told["paths"]["/api/referral/code"]["put"]["responses"]
    declared_for = responses.get(str(status), responses["default"])
    schema = declared_for["content"]["application/json"]["schema"]
    assert schema["$ref"] == "#/components/schemas/ReferralRefusal"
    assert answer.status_code == status
    named = schema.get("properties", {}).get("code", {"enum": [answer.get_json()["code"]]})
    assert answer.get_json()["code"] in named["enum"]
