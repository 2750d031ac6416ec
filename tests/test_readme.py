"""The README tells the truth: its quickstart runs, its tables are complete."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
import time
import typing as t
from pathlib import Path

import click
import pytest
import sqlalchemy as sa

from flask_referral import schema
from flask_referral import WebhookEvent
from flask_referral.cli import referral
from flask_referral.settings import PREFIX
from flask_referral.settings import Settings
from flask_referral.web.errors import ErrorCode

from . import stripe
from . import whop
from .conftest import MakeHost
from .money import amounts
from .money import refer
from .visiting import add_referrer
from .visiting import browser

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def table(title: str) -> list[list[str]]:
    rows = [
        line.strip("| ").split(" | ") for line in section(title).splitlines() if line[:1] == "|"
    ]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def test_quickstart_runs_as_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = section("Quickstart").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, t.Any] = {"__name__": "quickstart_of_the_readme"}
    exec(compile(source, "app.py", "exec"), namespace)
    app = namespace["create_app"]()
    app.instance_path = str(tmp_path)
    answers = [
        app.test_client().post("/api/referral/generate", headers={"X-User": "ada"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    code = answers[0].get_json()["code"]
    assert answers[1].get_json() == {"code": code}
    visit = app.test_client().get(f"/r/{code}")
    assert (visit.status_code, visit.headers["Location"]) == (302, "/")
    assert "Set-Cookie" in visit.headers
    with app.app_context():
        for engine in namespace["db"].engines.values():
            engine.dispose()


def code_of(section_title: str, starts: str) -> str:
    """Return the one block of Python of a section that has a line which starts so."""
    blocks = [each.split("```")[0] for each in section(section_title).split("```python\n")[1:]]
    (found,) = [each for each in blocks if re.search(rf"^{re.escape(starts)}", each, re.MULTILINE)]
    return found


def test_another_provider_runs_as_pasted(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    host.app.config["PADDLE_SECRET"] = secret = "pdl_ntfset_1"
    source = code_of("Webhooks", '@referral.webhook("paddle")')
    exec(compile(source, "paddle.py", "exec"), {"referral": host.referral, "app": host.app})
    referrer = host.add_user()
    sale = {
        "id": "txn_1",
        "subscription_id": None,
        "custom_data": {"user_id": refer(host, referrer)},
        "currency_code": "EUR",
        "details": {"totals": {"total": "3100", "credit": "100", "grand_total": "3000"}},
    }
    adjusted = {"transaction_id": "txn_1", "status": "approved", "totals": {"total": "1500"}}
    refund = adjusted | {"id": "adj_1", "action": "refund"}
    events: list[tuple[str, dict[str, t.Any], str]] = [
        ("transaction.completed", sale, "converted"),
        ("adjustment.created", refund | {"status": "pending_approval"}, "adjustment.created"),
        ("adjustment.updated", refund, "reversed"),
        ("adjustment.created", adjusted | {"id": "adj_2", "action": "chargeback"}, "reversed"),
        (
            "adjustment.created",
            adjusted | {"id": "adj_3", "action": "chargeback_reverse"},
            "nothing_to_reverse",
        ),
        ("transaction.completed", sale | {"id": "txn_2", "custom_data": None}, "unknown_user"),
        ("customer.created", {"id": "ctm_1"}, "customer.created"),
    ]
    for number, (type, data, told) in enumerate(events):
        body = json.dumps(
            {
                "event_id": f"evt_{number}",
                "event_type": type,
                "occurred_at": f"2026-06-02T{number:02}:00:00.123456Z",
                "data": data,
            }
        ).encode()

        def sign(moment: float, body: bytes = body) -> str:
            signed = f"{moment:.0f}:".encode() + body
            return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()

        now = time.time()
        for header, status in (
            (None, 401),
            ("", 401),
            ("ts", 401),
            (f"ts={now:.0f};h1", 401),
            (f"ts={now:.0f};h1={sign(now)[::-1]}", 401),
            (f"ts={now:.0f};h1=ü", 401),
            (f"ts={now - 400:.0f};h1={sign(now - 400)}", 401),
            (f"ts={now:.0f};h1=old;h1={sign(now)}", 200),
        ):
            answer = host.client().post(
                "/api/referral/webhooks/paddle",
                data=body,
                headers={} if header is None else {"Paddle-Signature": header},
            )
            assert answer.status_code == status, (header, answer.text)
        assert answer.get_json() == {"outcome": told}
    assert amounts(host, referrer) == [1000, -500, -500, 500]


@pytest.mark.parametrize("provider", [whop, stripe])
def test_the_functions_that_find_a_buyer_run_as_pasted(
    make_sqlite: MakeHost, provider: t.Any
) -> None:
    host = make_sqlite(**provider.CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    name = provider.__name__.rpartition(".")[2]
    asked: list[dict[str, t.Any]] = []

    class Query:
        def filter_by(self, **by: t.Any) -> Query:
            asked.append(by)
            return self

        def first(self) -> t.Any:
            return referred

    class User:
        query = Query()

    source = code_of("Webhooks", f"@referral.{name}_user_loader")
    exec(compile(source, f"{name}.py", "exec"), {"referral": host.referral, "User": User})
    sale = whop.payment(None) if provider is whop else stripe.subscribed(None)
    assert provider.outcome(host, sale) == "converted"
    assert asked in ([{"whop_id": "user_1"}], [{"stripe_customer_id": "cus_1"}])


def test_once_more_runs_as_pasted(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    call, loader = (
        part.split("```")[0]
        for part in section("Webhooks").split("### Once more")[1].split("```python\n")[1:]
    )
    host.User.shop_id = sa.orm.synonym("name")
    exec(compile(loader, "app.py", "exec"), {"referral": host.referral, "User": host.User})
    host.referral.webhook("shop")(
        lambda body, headers: WebhookEvent(
            id="1", kind="purchase", payment_id="ch_1", payload=json.loads(body)
        )
    )
    outcomes: list[dict[str, int]] = []

    @host.app.post("/signup")
    def sign_up() -> str:
        user = host.User(name="cus_1")
        host.db.session.add(user)
        names = {"referral": host.referral, "db": host.db, "user": user}
        exec(
            compile(call.replace("referral.retry", "told = referral.retry"), "app.py", "exec"),
            names,
        )
        outcomes.append(names["told"])
        return ""

    shop = "/api/referral/webhooks/shop"
    answer = host.client().post(shop, json={"customer_id": "cus_1"})
    assert answer.get_json() == {"outcome": "unknown_user"}
    referrer, code = add_referrer(host)
    told = "{" + call.split("# {")[1].split("}")[0] + "}"
    client = browser(host)
    client.get(f"/r/{code}")
    assert client.post("/signup").status_code == 200
    assert outcomes == [json.loads(told)]
    assert amounts(host, referrer) == [1000]


def test_settings_are_all_there_with_their_defaults() -> None:
    documented = {row[0]: row[1] for row in table("Settings")}
    shown = {}
    for field in dataclasses.fields(Settings):
        is_secret_or_id = field.name.startswith("whop_")
        default = None if is_secret_or_id and field.default == () else field.default
        shown[PREFIX + field.name.upper()] = str(default)
    shown["REFERRAL_COOKIE_SECURE"] = "True` outside debug"
    assert documented == shown


def test_words_of_errors_are_all_there() -> None:
    documented = [word for row in table("Errors") for word in row[0].split("`, `")]
    assert sorted(documented) == sorted(ErrorCode)


def test_commands_are_all_there() -> None:
    documented = " ".join(row[0] for row in table("Commands"))
    context = click.Context(referral)

    def names(group: click.Group) -> t.Iterator[str]:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from names(command)
            else:
                yield name

    there = set(names(referral))
    for name in there:
        assert re.search(rf"\b{name}\b", documented), name
    for row in table("Commands"):
        for command in row[0].split("`, `"):
            # "db" and "rls" are groups.
            first, *rest = command.split()
            assert first in there or rest[0] in there, command


@pytest.mark.parametrize("row", table("Troubleshooting"), ids=lambda row: row[0][:40])
def test_messages_exist(row: list[str]) -> None:
    """Each message of ours that the README explains is one that the code has."""
    root = Path(__file__).parent.parent
    sources = [*root.glob("flask_referral/**/*.py"), *schema.migrations_path().glob("**/*.py")]
    # Line breaks in the source are not in the message.
    text = re.sub(r'"\s*f?"', "", " ".join(path.read_text(encoding="utf-8") for path in sources))
    foreign = ("No module named", "Can't locate revision", "permission denied")
    for message in row[0].split("`, `"):
        for part in message.split("…"):
            part = part.strip(" `.,()")
            if part and not part.startswith(foreign):
                assert part in text, part
