"""The demo, on a fresh PostgreSQL that both migrations ran on."""

from __future__ import annotations

import re
import threading
import typing as t
from pathlib import Path

import flask_migrate
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from examples.demo import create_app
from examples.demo import database
from examples.demo import deploy
from examples.demo.models import db
from examples.demo.models import Purchase
from examples.demo.models import User
from examples.demo.models import WalletTransaction
from flask_referral import normalize_code

GENERATE = "/api/referral/generate"
ADA, BOB = (email for email, _ in deploy.USERS)


@pytest.fixture
def app(postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Flask]:
    monkeypatch.setenv("DEMO_INSTANCE", str(tmp_path))
    app = create_app(SQLALCHEMY_DATABASE_URI=postgresql_url, TESTING=True)
    with app.app_context():
        deploy.upgrade()
        deploy.seed()
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def token(client: FlaskClient) -> str:
    found = re.search('name="csrf-token" content="([^"]+)"', client.get("/").text)
    assert found is not None
    return found[1]


def submit(client: FlaskClient, path: str, **fields: str) -> tuple[int, str]:
    """Post a form and follow to the page that answers it."""
    fields["csrf_token"] = token(client)
    answer = client.post(path, data=fields, follow_redirects=True)
    return answer.status_code, answer.text


def log_in(client: FlaskClient) -> None:
    status, page = submit(client, "/login", email=ADA, password=deploy.PASSWORD)
    assert status == 200 and "<h1>Account</h1>" in page


def get_code(client: FlaskClient) -> str:
    answer = client.post(GENERATE, headers={"X-CSRFToken": token(client)})
    assert answer.status_code == 200, answer.text
    code: str = answer.get_json()["code"]
    return code


def balance(client: FlaskClient) -> str:
    found = re.search('id="balance">([^<]+)<', client.get("/wallet").text)
    assert found is not None
    return found[1]


def user_id(email: str) -> int:
    return db.session.scalars(sa.select(User.id).where(User.email == email)).one()


def test_a_seeded_user_gets_the_code(client: FlaskClient) -> None:
    log_in(client)
    code = get_code(client)
    assert normalize_code(code) == code
    assert get_code(client) == code
    page = client.get("/account").text
    assert f">{code}</output>" in page and f'data-api="{GENERATE}"' in page


def test_nobody_gets_a_code_without_login_or_token(client: FlaskClient) -> None:
    answer = client.post(GENERATE, headers={"X-CSRFToken": token(client)})
    assert answer.status_code == 401 and answer.get_json().keys() == {"error", "code"}
    log_in(client)
    answer = client.post(GENERATE)
    assert answer.status_code == 400 and answer.get_json().keys() == {"error", "code"}


def test_the_button_works_without_script(client: FlaskClient) -> None:
    log_in(client)
    status, page = submit(client, "/account/code")
    assert status == 200 and f">{get_code(client)}</output>" in page


def test_the_trigger_computes_the_balance(app: Flask, client: FlaskClient) -> None:
    log_in(client)
    assert balance(client) == "$15.00"
    with app.app_context():
        row = WalletTransaction(user_id=user_id(ADA), amount_cents=5, type="adjustment")
        db.session.add(row)
        db.session.commit()
    assert balance(client) == "$15.05"


def test_concurrent_credits_add_up(app: Flask) -> None:
    with app.app_context():
        row = {"user_id": user_id(BOB), "amount_cents": 100, "type": "deal_payment"}
    barrier = threading.Barrier(8)

    def credit() -> None:
        with app.app_context(), db.engine.connect() as connection:
            barrier.wait()
            for _ in range(20):
                connection.execute(sa.insert(WalletTransaction).values(row))
                connection.commit()

    threads = [threading.Thread(target=credit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wallet = sa.select(WalletTransaction.balance_after_cents).filter_by(user_id=row["user_id"])
    with app.app_context():
        balances = db.session.scalars(wallet.order_by(WalletTransaction.created_at)).all()
    assert balances == list(range(100, 16_001, 100))


def test_sign_up_and_purchase(app: Flask, client: FlaskClient) -> None:
    password = "correct horse"
    eve = {"name": "Eve", "email": "Eve@Example.com", "password": password}
    status, page = submit(client, "/signup", **eve)
    assert status == 200 and "Welcome, Eve." in page
    status, page = submit(client, "/plans/team")
    assert status == 200 and "mem_" in page
    assert submit(client, "/plans/free")[0] == 404
    assert balance(client) == "$0.00"
    with app.app_context():
        purchase = db.session.scalars(sa.select(Purchase)).one()
        assert (purchase.user_id, purchase.plan) == (user_id("eve@example.com"), "team")
    submit(client, "/logout")
    assert "Log in to see this page." in client.get("/account", follow_redirects=True).text
    assert submit(client, "/login", email="EVE@example.com", password=password)[0] == 200


def link(client: FlaskClient) -> str:
    get_code(client)
    found = re.search('id="link" href="([^"]+)"', client.get("/account").text)
    assert found is not None
    return found[1]


def test_from_a_link_to_a_bonus_and_back(app: Flask, client: FlaskClient) -> None:
    """The walk-through that the demo prints."""
    log_in(client)
    path = link(client).removeprefix("http://127.0.0.1:5000")
    visitor = app.test_client()
    visit = visitor.get(path)
    assert (visit.status_code, visit.headers["Location"]) == (302, "/")
    eve = {"name": "Eve", "email": "eve@example.com", "password": "correct horse"}
    assert submit(visitor, "/signup", **eve)[0] == 200
    assert "webhook: converted." in submit(visitor, "/plans/team")[1]
    assert balance(client) == "$25.00"
    assert "<td>credited</td>" in client.get("/account").text
    for outcome in ("duplicate", "duplicate"):
        assert f"again: {outcome}." in submit(visitor, "/purchases/1/replay")[1]
    assert balance(client) == "$25.00"
    # A second purchase of the same person pays nothing.
    assert "webhook: already_converted." in submit(visitor, "/plans/basic")[1]
    assert submit(client, "/purchases/1/refund")[0] == 404
    assert "webhook: reversed." in submit(visitor, "/purchases/1/refund")[1]
    assert "webhook: duplicate." in submit(visitor, "/purchases/1/refund")[1]
    assert balance(client) == "$15.00"
    told = " ".join(client.get("/account").text.split())
    assert "<td>reversed</td>" in told
    assert "1 visit, 1 sign-up, 1 purchase; $10.00 earned, $10.00 taken back." in told


def test_a_typed_code_refers_too(app: Flask, client: FlaskClient) -> None:
    log_in(client)
    code = get_code(client)
    visitor = app.test_client()
    eve = {"name": "Eve", "email": "eve@example.com", "password": "correct horse"}
    status, page = submit(visitor, "/signup", **eve, code="ZZZZZZZZ")
    assert status == 422 and 'aria-describedby="code-error"' in page
    typed = f"{code[:4]}-{code[4:]}".lower()
    assert submit(visitor, "/signup", **eve, code=typed)[0] == 200
    assert "webhook: converted." in submit(visitor, "/plans/basic")[1]
    assert balance(client) == "$25.00"


@pytest.mark.parametrize(
    "wrong",
    [
        {"email": "nobody"},
        {"email": "\0"},
        {"email": "ADA@example.com"},
        {"name": ""},
        {"password": "short"},
    ],
)
def test_sign_up_says_what_is_wrong(client: FlaskClient, wrong: dict[str, str]) -> None:
    form = {"name": "Eve", "email": "eve@example.com", "password": "correct horse", **wrong}
    status, page = submit(client, "/signup", **form)
    (field,) = wrong
    assert status == 422 and f'aria-describedby="{field}-error"' in page
    assert submit(client, "/login", email=form["email"], password=form["password"])[0] == 422


@pytest.mark.parametrize(
    "command",
    [
        # Flask-Migrate 4.0.0 has no such command yet.
        *(["db check"] if hasattr(flask_migrate, "check") else []),
        "referral db check",
        "referral doctor",
    ],
)
def test_the_deployed_database_is_in_order(app: Flask, command: str) -> None:
    result = app.test_cli_runner().invoke(args=command.split())
    assert result.exit_code == 0, result.output


def test_deploying_again_changes_nothing(app: Flask) -> None:
    with app.app_context():
        deploy.upgrade()
        deploy.seed()
        assert db.session.scalar(sa.select(sa.func.count(User.id))) == len(deploy.USERS)
        assert db.session.scalar(sa.select(sa.func.count(WalletTransaction.id))) == 2


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_a_bare_url_means_psycopg2(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://me:p%40ss@host/shop")
    assert database.url(Path("unused")) == "postgresql+psycopg2://me:p%40ss@host/shop"


@pytest.mark.parametrize("url", ["sqlite:///demo.db", "mysql://host/shop", "nonsense"])
def test_other_databases_are_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(database.UnusableDatabase, match="DATABASE_URL"):
        database.url(Path("unused"))
