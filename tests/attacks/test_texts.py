"""Texts from outside: on a terminal, in an error, in an export, and before a regular expression."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.cli.terminal import printable

from ..conftest import MakeHost
from ..hosts import Host
from ..money import pay
from ..money import refer
from ..visiting import add_referrer

#: A title is set, the screen cleared, a line overwritten, letters turned around or not seen.
HOSTILE = (
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "paid\rheld",
    "a\u202eb",
    "a\u2066b\u2069",
    "a\u200bb",
    "a\u2028b",
    "\x00\x08\x7f",
    "\ufeff\U000e0041",
)


def is_safe(text: str) -> bool:
    """Whether a terminal shows all of it, and obeys nothing of it but the ends of lines."""
    return all(line.isprintable() for line in text.split("\n"))


class TestTerminal:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_nothing_is_obeyed(self, text: str) -> None:
        shown = printable(f"before {text} after")
        assert is_safe(shown) and shown.startswith("before ") and shown.endswith(" after")
        assert shown.encode("ascii").decode("unicode_escape") == f"before {text} after"

    @pytest.mark.parametrize("text", ["Žofie", "東京", "مرحبا", "🎁", "1,000 cents", "a\nb"])
    def test_people_read_their_own_letters(self, text: str) -> None:
        assert printable(text) == text

    @pytest.mark.parametrize("text", [*HOSTILE, "evt\nevt_2  delivered"])
    def test_ids_of_deliveries(self, make_sqlite: MakeHost, text: str) -> None:
        host = make_sqlite()
        event = host.referral.models.ReferralEvent
        with host.app.app_context():
            host.db.session.add(
                event(
                    provider="shop",
                    kind="delivery",
                    event_id=f"evt{text}",
                    payment_id=text,
                    reference=text,
                    outcome="unknown_user",
                    details={"reason": text},
                )
            )
            host.db.session.commit()
        listed = host.cli("events", "list").stdout
        assert is_safe(listed) and len(listed.splitlines()) == 2
        assert is_safe(host.cli("events", "show", f"evt{text}").stdout)
        assert is_safe(host.failure("events", "show", text))
        with host.app.app_context():
            values = {"provider": f"other{text}", "kind": "delivery", "outcome": "unknown_user"}
            host.db.session.add(event(event_id=f"evt{text}", **values))
            host.db.session.commit()
        assert is_safe(host.failure("events", "show", f"evt{text}"))
        told = host.cli("events", "list", "--json").stdout
        assert is_safe(told) and json.loads(told)[0]["payment"] == text

    @pytest.mark.parametrize("text", [each for each in HOSTILE if "\0" not in each])
    def test_ids_of_users(self, make_sqlite: MakeHost, text: str) -> None:
        host = make_sqlite(key="str")
        user = host.add_user(id=text)
        for command in ("stats", "code", "export"):
            assert is_safe(host.cli(command, user).stdout)
        refused = host.cli("erase", user, input="n\n", status=1)
        assert is_safe(refused.stdout) and is_safe(refused.stderr)
        assert is_safe(host.failure("stats", f"{text}nobody"))
        code = add_referrer(host)[1]
        assert is_safe(host.cli("reattribute", user, code, "--yes").stdout)

    def test_what_doctor_tells(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(key="str")
        users = [host.add_user(id=f"{text}{number}") for number in (1, 2) for text in HOSTILE[1:3]]
        ring(host, users)
        found = host.cli("doctor", status=0).stdout
        [line] = [line for line in found.splitlines() if "in a ring" in line]
        # The colours are ours.
        assert is_safe(line.partition("4 users")[2])


def ring(host: Host, users: list[t.Any]) -> None:
    """Let each user have referred the next, and the last the first."""
    click = host.referral.models.ReferralClick
    with host.app.app_context():
        for referrer, referred in zip(users, [*users[1:], users[0]], strict=True):
            code = host.referral.get_or_create_code(referrer).code
            row = click(referral_code=code, referrer_user_id=referrer, referred_user_id=referred)
            host.db.session.add(row)
        host.db.session.commit()


class TestErrors:
    @pytest.fixture(params=[False, True])
    def debug(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    def test_a_fault_of_the_setup_is_told_to_the_log(
        self, make_sqlite: MakeHost, caplog: pytest.LogCaptureFixture, debug: bool
    ) -> None:
        host = make_sqlite()
        host.app.debug, host.current_user = debug, "ada@example.com"
        answer = host.client().get("/api/referral/stats")
        assert (answer.status_code, answer.get_json()["code"]) == (500, "not_configured")
        told = answer.get_json()["error"]
        assert ("ids are whole numbers" in told) is debug
        assert ("was logged" in told) is not debug
        assert "ids are whole numbers" in caplog.text

    def test_a_fault_of_the_database_is_told_to_the_log(
        self, make: MakeHost, caplog: pytest.LogCaptureFixture
    ) -> None:
        host = make()
        host.current_user = host.add_user()
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE referral_codes RENAME TO away"))
        answer = host.client().post("/api/referral/generate")
        assert answer.status_code == 500
        assert "referral_codes" not in answer.text and "referral_codes" in caplog.text

    @pytest.mark.parametrize("provider", ["whop", "stripe", "nobody"])
    def test_an_unknown_provider_hears_of_no_setting(
        self, make_sqlite: MakeHost, provider: str
    ) -> None:
        answer = make_sqlite().client().post(f"/api/referral/webhooks/{provider}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "unknown_provider")
        assert "REFERRAL_" not in answer.text

    def test_a_deleted_users_session_is_no_login(self, make: MakeHost) -> None:
        host = make()
        host.current_user = 999
        client = host.client()
        for answer in (client.post("/api/referral/generate"), client.get("/api/referral/stats")):
            assert (answer.status_code, answer.get_json()["code"]) == (401, "unknown_user")


class TestExports:
    def test_nothing_is_told_of_what_others_earned(self, make: MakeHost) -> None:
        host = make()
        referrer = host.add_user()
        buyer = refer(host, referrer)
        assert pay(host, buyer, bonus_cents=777_001) == "converted"
        host.cli("reverse", "mem_1", "--refund-id", "r_1", "--amount-cents", "777000")
        told = json.loads(host.cli("export", str(buyer)).stdout)
        text = json.dumps(told)
        assert "777001" not in text and "777000" not in text
        [conversion] = told["conversions_as_referred"]
        assert conversion["whop_membership_id"] == "mem_1"
        # What the referrer earned is the referrer's.
        assert "777001" in host.cli("export", str(referrer)).stdout

    def test_a_code_that_nobody_knows_stays_so(self, make: MakeHost) -> None:
        host = make()
        referrer, old = add_referrer(host)
        buyer = refer(host, referrer)
        assert pay(host, buyer) == "converted"
        assert json.loads(host.cli("export", str(referrer)).stdout)["code"]["code"] == old
        host.cli("erase", str(referrer), "--yes")
        table = host.referral.models.ReferralCode.__table__
        with host.app.app_context():
            new = host.db.session.scalar(sa.select(table.c.code))
        assert new != old
        for user in (referrer, buyer):
            assert new not in host.cli("export", str(user)).stdout


#: Looks for what hostile texts cost each regular expression of the package. A linear one takes
#: about a second for all of them; a quadratic one minutes, and the kernel ends it after 20 seconds.
MATCH_ALL = """
import ast, importlib, pathlib, pkgutil, re, resource, time
import flask_referral
from flask_referral.spelling import normalize_code
from flask_referral.web.bots import is_bot

found, ways = {}, {}
for info in pkgutil.walk_packages(flask_referral.__path__, "flask_referral."):
    module = importlib.import_module(info.name)
    for name, value in vars(module).items():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, re.Pattern) and isinstance(each.pattern, str):
                found[each] = f"{info.name}.{name}"
                if isinstance(value, tuple):
                    ways.setdefault(each, set()).add("search")
    for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        used = vars(module).get(node.value.id)
        if isinstance(used, re.Pattern):
            ways.setdefault(used, set()).add(node.attr)
    for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if getattr(node.func.value, "id", None) != "re" or not node.args:
            continue
        if isinstance(node.args[0], ast.Constant) and node.func.attr != "compile":
            pattern = re.compile(node.args[0].value)
            found.setdefault(pattern, f"{info.name}:{node.lineno}")
            ways.setdefault(pattern, set()).add(node.func.attr)
SIZE = 100_000
# What their functions read of a text at most.
SHORT = {"flask_referral.web.bots": 1024, "flask_referral.spelling": 2048}
units = (
    " ", "\\t\\n", "a", "A1", "a ", "_", "-", ".", "..", "/", "/.", "/*", "/* ", "--", "*/ ", "@",
    "a@", "a@b", "a.", "0", "1.", "(", "\\\\", "'", ";", "\\x00", "\\u200b", "\\xe9", "a_", "name_",
    "UPDATE ", "UPDATE a ", "FOR ", "SELECT ", "CREATE ", "https:/", "http", "bot", "com.",
)
beginnings = ("", "SELECT", "UPDATE a", "CREATE ", "/", "1.", "https://", "mozilla/5.0 (", "a@")
texts = [start + (unit * SIZE)[:SIZE] + ";\\x01" for start in beginnings for unit in units]
found |= {function: function.__name__ for function in (is_bot, normalize_code)}
for pattern, name in sorted(found.items(), key=lambda item: item[1]):
    print(name, flush=True)
    limit = int(time.process_time()) + 20
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    for text in texts:
        if callable(pattern):
            pattern(text)
        else:
            text = text[: SHORT.get(name.rpartition(".")[0])]
            # What a sub() or a split() looks for, it searches.
            for way in {
                way if way in ("match", "fullmatch") else "search"
                for way in ways.get(pattern, {"fullmatch"}) - {"pattern"}
            }:
                getattr(pattern, way)(text)
print(len(found), "patterns")
"""


def test_no_regular_expression_stalls() -> None:
    program = textwrap.dedent(MATCH_ALL)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=600
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} does not end: {done.stderr}"
    number, _, rest = lines[-1].partition(" ")
    assert rest == "patterns" and int(number) > 40
