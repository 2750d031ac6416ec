"""The demo, on a fresh PostgreSQL that both migrations ran on."""

from __future__ import annotations

import datetime as dt
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
from examples.demo.extensions import referral
from examples.demo.models import db
from examples.demo.models import Purchase
from examples.demo.models import User
from examples.demo.models import WalletTransaction
from examples.demo.words import day
from flask_referral import normalize_code
from flask_referral.testing import travel

GENERATE = "/api/referral/generate"
ADA, BOB = (email for email, _ in deploy.USERS)
EVE = {"name": "Eve", "email": "eve@example.com", "password": "correct horse"}


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


def sign_up(app: Flask, **more: str) -> FlaskClient:
    """Return the browser of a new user."""
    visitor = app.test_client()
    assert submit(visitor, "/signup", **EVE, **more)[0] == 200
    return visitor


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
    assert f'value="{code}"' in page and f'value="http://127.0.0.1:5000/r/{code}"' in page


def test_nobody_gets_a_code_without_login_or_token(client: FlaskClient) -> None:
    answer = client.post(GENERATE, headers={"X-CSRFToken": token(client)})
    assert answer.status_code == 401 and answer.get_json().keys() == {"error", "code"}
    log_in(client)
    answer = client.post(GENERATE)
    assert answer.status_code == 400 and answer.get_json().keys() == {"error", "code"}


def test_the_button_leads_to_the_link_at_once(client: FlaskClient) -> None:
    log_in(client)
    assert "Get my code" in client.get("/account").text
    status, page = submit(client, "/account/code")
    assert status == 200 and f'value="http://127.0.0.1:5000/r/{get_code(client)}"' in page
    assert "Get my code" not in page


def test_the_referrers_page_stands_in_the_products_layout(client: FlaskClient) -> None:
    log_in(client)
    page = client.get("/referral/").text
    assert 'class="brand"' in page and 'aria-current="page">Invite</a>' in page
    assert "$10.00 goes into your wallet, and $5.00 into theirs" in page
    assert page.index("referral.css") < page.index("demo.css")


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
    assert status == 200 and "You are subscribed to Team for $29.00 a month." in page
    assert submit(client, "/plans/free")[0] == 404
    assert balance(client) == "$0.00"
    with app.app_context():
        purchase = db.session.scalars(sa.select(Purchase)).one()
        assert (purchase.user_id, purchase.plan) == (user_id("eve@example.com"), "team")
    submit(client, "/logout")
    assert "Log in to see this page." in client.get("/account", follow_redirects=True).text
    assert submit(client, "/login", email="EVE@example.com", password=password)[0] == 200


def follow(client: FlaskClient, code: str) -> None:
    visit = client.get(f"/r/{code}")
    assert (visit.status_code, visit.headers["Location"]) == (302, "/")


def actions(client: FlaskClient) -> list[str]:
    """Return what the provider's side offers now."""
    return re.findall('action="/provider/([^"]+)"', client.get("/provider/").text)


def test_from_a_link_to_a_bonus_and_back(app: Flask, client: FlaskClient) -> None:
    """The walk-through that the demo prints."""
    log_in(client)
    code = get_code(client)
    visitor = app.test_client()
    assert "invited you" not in visitor.get("/").text
    follow(visitor, code)
    assert "Ada invited you." in visitor.get("/").text
    page = visitor.get("/signup").text
    assert "Ada invited you." in page and f'value="{code}"' in page
    # As the form is filled.
    assert submit(visitor, "/signup", **EVE, code=code)[0] == 200
    page = submit(visitor, "/plans/team")[1]
    assert "Ada&#39;s bonus of $10.00 was credited." in page
    assert "Eve&#39;s welcome bonus of $5.00 was credited." in page
    assert (balance(client), balance(visitor)) == ("$25.00", "$5.00")
    assert "Eve subscribed" in client.get("/wallet").text
    for _ in range(2):
        page = submit(visitor, "/provider/payments/1/replay")[1]
        assert "It was known already, so nothing changed." in page
    assert balance(client) == "$25.00"
    page = submit(visitor, "/provider/payments/1/rest")[1]
    assert "Ada&#39;s bonus of $10.00 was taken back." in page
    assert (balance(client), balance(visitor)) == ("$15.00", "$0.00")
    told = client.get("/wallet").text
    assert "Referral bonus taken back: Eve subscribed" in told
    assert "The payment was refunded." in told
    with app.app_context():
        totals = referral.stats(user_id(ADA)).totals
    assert (totals.clicks, totals.signups, totals.conversions) == (1, 1, 1)
    assert (totals.earned_cents, totals.reversed_cents) == (1000, 1000)


def test_the_provider_offers_only_what_makes_sense(app: Flask) -> None:
    visitor = sign_up(app)
    assert actions(visitor) == []
    submit(visitor, "/plans/basic")
    renew, payment = "purchases/1/renew", "payments/1/"
    everything = [payment + act for act in ("part", "rest", "dispute", "replay")]
    assert actions(visitor) == [renew, *everything]
    submit(visitor, f"/provider/{payment}part")
    assert actions(visitor) == [renew, payment + "rest", payment + "dispute", payment + "replay"]
    submit(visitor, f"/provider/{payment}dispute")
    assert actions(visitor) == [payment + "win"]
    submit(visitor, f"/provider/{payment}win")
    assert actions(visitor) == [renew, payment + "rest", payment + "replay"]
    submit(visitor, f"/provider/{payment}rest")
    assert actions(visitor) == []
    for act in (renew, *everything, payment + "win"):
        status, page = submit(visitor, f"/provider/{act}")
        assert status == 409 and "the page shows what is" in page


def test_nobody_plays_with_the_purchases_of_others(app: Flask, client: FlaskClient) -> None:
    submit(sign_up(app), "/plans/basic")
    log_in(client)
    for act in ("purchases/1/renew", "payments/1/rest", "payments/1/dispute", "payments/2/win"):
        assert submit(client, f"/provider/{act}")[0] == 404


def test_three_renewals_earn_and_a_fourth_does_not(app: Flask, client: FlaskClient) -> None:
    log_in(client)
    visitor = sign_up(app, code=get_code(client))
    submit(visitor, "/plans/basic")
    for _ in range(3):
        page = submit(visitor, "/provider/purchases/1/renew")[1]
        assert "Ada&#39;s bonus of $2.00 was credited." in page
    page = submit(visitor, "/provider/purchases/1/renew")[1]
    assert "the invitation has earned all that it can" in page
    assert balance(client) == "$31.00"
    assert "Eve stayed, payment 4" in client.get("/wallet").text


def test_refunds_in_parts_take_parts_of_the_bonus(app: Flask, client: FlaskClient) -> None:
    log_in(client)
    visitor = sign_up(app, code=get_code(client))
    submit(visitor, "/plans/team")
    page = submit(visitor, "/provider/payments/1/part")[1]
    assert "$5.00 of Ada&#39;s bonus was taken back." in page
    assert "A part of the payment was refunded." in client.get("/wallet").text
    submit(visitor, "/provider/payments/1/rest")
    assert balance(client) == "$15.00"


def test_a_dispute_takes_the_bonus_until_it_is_won(app: Flask, client: FlaskClient) -> None:
    log_in(client)
    visitor = sign_up(app, code=get_code(client))
    submit(visitor, "/plans/team")
    page = submit(visitor, "/provider/payments/1/dispute")[1]
    assert "Ada&#39;s bonus of $10.00 was taken back." in page
    assert "The buyer&#39;s bank asked the payment back." in client.get("/wallet").text
    page = submit(visitor, "/provider/payments/1/win")[1]
    assert "Ada&#39;s bonus of $10.00 was given back." in page
    assert "The bank decided for Larkmail." in client.get("/wallet").text
    assert balance(client) == "$25.00"


def test_the_bonus_of_a_year_waits_for_two_weeks(app: Flask, client: FlaskClient) -> None:
    log_in(client)
    visitor = sign_up(app, code=get_code(client))
    due = dt.datetime.now(dt.UTC) + dt.timedelta(days=14)
    page = submit(visitor, "/plans/annual")[1]
    assert f"Ada&#39;s bonus of $10.00 is noted, and credited on {day(due)}." in page
    assert balance(client) == "$15.00"
    assert f"Yours on {day(due)}" in client.get("/wallet").text
    with travel(days=14, minutes=1), app.app_context():
        deploy.chores()
    assert balance(client) == "$25.00"
    assert "Yours on" not in client.get("/wallet").text


def test_a_purchase_without_an_invitation_says_so(app: Flask) -> None:
    visitor = sign_up(app)
    assert "Nobody invited this buyer" in submit(visitor, "/plans/team")[1]


def test_a_typed_code_refers_too(app: Flask, client: FlaskClient) -> None:
    log_in(client)
    code = get_code(client)
    visitor = app.test_client()
    status, page = submit(visitor, "/signup", **EVE, code="ZZZZZZZZ")
    assert status == 422 and 'aria-describedby="code-error"' in page
    typed = f"{code[:4]}-{code[4:]}".lower()
    assert submit(visitor, "/signup", **EVE, code=typed)[0] == 200
    assert "bonus of $10.00 was credited" in submit(visitor, "/plans/basic")[1]
    assert balance(client) == "$25.00"


def test_operators_see_what_waits_and_others_do_not(app: Flask, client: FlaskClient) -> None:
    log_in(client)
    assert client.get("/operator/").status_code == 403
    assert "/login" in app.test_client().get("/operator/").headers["Location"]
    operator = app.test_client()
    status, page = submit(operator, "/login", email=deploy.OPERATOR[0], password=deploy.PASSWORD)
    assert status == 200 and "<h1>Overview</h1>" in page
    assert "0 held rewards wait for a decision" in page


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/signup",
        "/login",
        "/account",
        "/wallet",
        "/plans",
        "/provider/",
        "/nothing",
        "/referral/",
    ],
)
def test_pages_keep_to_their_own_policy(client: FlaskClient, path: str) -> None:
    log_in(client)
    submit(client, "/plans/basic")
    page = client.get(path)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    # Neither an inline script or style, nor anything of another host.
    assert not re.search("<style| style=|<script(?! src=)| on[a-z]+=", page.text)
    assert not re.search("<(link|script|img|iframe)[^>]*(src|href)=.(https?:|//)", page.text)


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
    assert status == 422 and f'aria-describedby="{field}-error' in page
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
        assert db.session.scalar(sa.select(sa.func.count(User.id))) == len(deploy.USERS) + 1
        assert db.session.scalar(sa.select(sa.func.count(WalletTransaction.id))) == 2


def test_a_demo_of_before_keeps_its_purchases(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMO_INSTANCE", str(tmp_path))
    app = create_app(SQLALCHEMY_DATABASE_URI=postgresql_url)
    with app.app_context():
        flask_migrate.upgrade(revision="0001")
        db.session.execute(
            sa.text("INSERT INTO users (email, name, password_hash) VALUES ('e@e.org', 'Eve', '')")
        )
        db.session.execute(
            sa.text(
                "INSERT INTO purchases (user_id, plan, amount_cents, membership_id) "
                "VALUES (1, 'team', 2900, 'mem_1')"
            )
        )
        db.session.commit()
        deploy.upgrade()
        (payment,) = db.session.scalars(sa.select(Purchase)).one().payments
        # The name by which the provider told of it then.
        assert (payment.payment_id, payment.left_cents) == ("pay_mem_1", 2900)
        assert payment.created_at == payment.purchase.created_at
        db.session.remove()
        flask_migrate.downgrade(revision="0001")
        assert not sa.inspect(db.engine).has_table("payments")
        db.engine.dispose()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_a_bare_url_means_psycopg2(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://me:p%40ss@host/shop")
    assert database.url(Path("unused")) == "postgresql+psycopg2://me:p%40ss@host/shop"


@pytest.mark.parametrize("url", ["sqlite:///demo.db", "mysql://host/shop", "nonsense"])
def test_other_databases_are_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(database.UnusableDatabase, match="DATABASE_URL"):
        database.url(Path("unused"))
