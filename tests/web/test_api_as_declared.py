"""Schemathesis asks the running application what its own document says may be asked.

All its checks are on: no server error; status, media type, headers and schema of each answer as
declared; what the document allows is accepted, what it forbids refused, and so is any other method.
"""

from __future__ import annotations

import collections
import typing as t

import pytest
from schemathesis import openapi
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events
from schemathesis.engine import from_schema

from flask_referral import WebhookEvent
from flask_referral.errors import InvalidEvent

from .. import stripe
from .. import whop
from ..conftest import MakeHost
from ..hosts import Host
from ..money import pay
from ..money import refer
from ..visiting import add_referrer

DOCUMENT = "/api/referral/openapi.json"
CONFIG: dict[str, t.Any] = {"REFERRAL_VANITY_CODES": True, **whop.CONFIG, **stripe.CONFIG}
SETTINGS: dict[str, t.Any] = {
    "seed": 1,
    "generation": {"deterministic": True, "max-examples": 20, "database": "none"},
    # No schema says which codes are taken, which words are rude, and who is logged in.
    "checks": {"positive_data_acceptance": {"expected-statuses": [200, 401, 409, 422]}},
    "cache": {"enabled": False},
}
PERSONAL = {
    "POST /api/referral/generate",
    "PUT /api/referral/code",
    "GET /api/referral/stats",
    "GET /api/referral/referrals",
}
PUBLIC = {"GET /api/referral/codes/{code}", f"GET {DOCUMENT}"}
HOOKS = {f"POST /api/referral/webhooks/{name}" for name in ("stripe", "till", "whop")}


def open_till(host: Host) -> None:
    """Take deliveries of a third provider, which signs nothing."""

    @host.referral.webhook("till")
    def read(body: bytes, headers: t.Any) -> WebhookEvent:
        if not body.startswith(b"{"):
            raise InvalidEvent("This is no event of the till.")
        return WebhookEvent(id="evt_1", kind="ignored")


def ask(host: Host) -> tuple[dict[str, set[int]], list[str]]:
    """Let schemathesis ask; return the statuses that each route answered, and what is wrong."""
    document = host.client().get(DOCUMENT).get_json()
    for operations in document["paths"].values():
        for operation in operations.values():
            # What a host's own limits and tokens refuse; of ours each status is declared.
            del operation["responses"]["default"]
    schema = openapi.from_dict(document, config=SchemathesisConfig.from_dict(SETTINGS))
    schema.app = host.app
    answered: dict[str, set[int]] = collections.defaultdict(set)
    wrong: list[str] = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            wrong.append(repr(event))
        if not isinstance(event, events.ScenarioFinished | events.FuzzScenarioFinished):
            continue
        told = event.recorder
        for id, interaction in told.interactions.items():
            assert interaction.response is not None
            label = told.cases[id].value.operation.label
            answered[label].add(interaction.response.status_code)
        wrong += [
            f"{check.failure_info.code_sample}: {check.failure_info.failure}"
            for checks in told.checks.values()
            for check in checks
            if check.failure_info is not None
        ]
    return answered, wrong


def test_every_answer_is_as_the_document_says(make: MakeHost) -> None:
    host = make(**CONFIG)
    open_till(host)
    host.current_user, _ = add_referrer(host)
    pay(host, refer(host, host.current_user))
    answered, wrong = ask(host)
    assert wrong == []
    assert answered.keys() == PERSONAL | PUBLIC | HOOKS
    assert all(200 in answered[route] for route in (PERSONAL | PUBLIC))
    assert {200, 400} <= answered["POST /api/referral/webhooks/till"]
    assert 401 in answered["POST /api/referral/webhooks/whop"]
    assert {400, 415, 422} <= answered["PUT /api/referral/code"]


@pytest.mark.parametrize("user", [None, 999_999], ids=["nobody", "somebody deleted"])
def test_every_answer_to_nobody_is_as_the_document_says(make: MakeHost, user: int | None) -> None:
    host = make(**CONFIG)
    open_till(host)
    host.current_user = user
    answered, wrong = ask(host)
    assert wrong == []
    assert answered.keys() == PERSONAL | PUBLIC | HOOKS
    assert {route for route, statuses in answered.items() if 401 in statuses} >= PERSONAL - {
        # Whose account is gone has no referrals, and no statement more tells so.
        *(["GET /api/referral/stats", "GET /api/referral/referrals"] if user else [])
    }
