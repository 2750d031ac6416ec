"""The README tells the truth: its quickstart runs, its tables are complete."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
import typing as t
from pathlib import Path

import click
import pytest

from flask_referral import schema
from flask_referral.cli import referral
from flask_referral.settings import PREFIX
from flask_referral.settings import Settings
from flask_referral.web.errors import ErrorCode

from .conftest import MakeHost
from .money import amounts
from .money import refer

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


def test_another_provider_runs_as_pasted(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    source = section("Webhooks").split("```python\n")[2].split("```")[0]
    secret = b"the shop's"
    assert 'SHOP_SECRET = b"..."' in source
    source = source.replace('b"..."', repr(secret))
    exec(compile(source, "app.py", "exec"), {"referral": host.referral})
    referrer = host.add_user()
    charge = {"charge": "ch_1", "amount": 3000, "currency": "EUR"}
    events = [
        charge | {"id": "1", "type": "charge.paid", "customer_reference": refer(host, referrer)},
        charge | {"id": "2", "type": "charge.refunded", "refund": "re_1", "refund_amount": 1500},
        {"id": "3", "type": "charge.failed"},
    ]
    told = []
    for event in events:
        body = json.dumps(event).encode()
        signature = hmac.new(secret, body, hashlib.sha256).hexdigest()
        for given in (signature, signature[::-1], "ü", None):
            answer = host.client().post(
                "/api/referral/webhooks/shop",
                data=body,
                headers={} if given is None else {"Shop-Signature": given},
            )
            told.append((answer.status_code, answer.get_json().get("outcome")))
    assert told[::4] == [(200, "converted"), (200, "reversed"), (200, "charge.failed")]
    assert {status for status, _ in told if status != 200} == {401}
    assert amounts(host, referrer) == [1000, -500]


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
