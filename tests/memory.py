"""Small hosts with their database in memory, for tests of what needs no real one."""

from __future__ import annotations

import re
import typing as t

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from werkzeug.test import TestResponse

from flask_referral import Referral

GENERATE = "/api/referral/generate"
TABLES = {
    "referral_alembic_version",
    "referral_clicks",
    "referral_codes",
    "referral_conversions",
    "referral_daily",
    "referral_daily_sources",
    "referral_disabled",
    "referral_events",
    "referral_issued_codes",
    "referral_outbox",
    "referral_rewards",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def make_app(db: SQLAlchemy | None = None, **config: t.Any) -> Flask:
    """Build an application without the extension, with ``db`` where it is given."""
    app = Flask("host")
    app.config.update({"SQLALCHEMY_DATABASE_URI": "sqlite://", "SECRET_KEY": "x"})
    app.config.update(config)
    if db is not None:
        db.init_app(app)
    return app


def make_user(db: SQLAlchemy, name: str = "User", **attributes: t.Any) -> t.Any:
    """Declare a model with an integer key, of table ``users``."""
    columns = {"__tablename__": "users", "id": sa.Column(sa.Integer, primary_key=True)}
    return type(name, (db.Model,), {**columns, **attributes})


def generate(app: Flask, url: str = GENERATE) -> tuple[int, t.Any]:
    """Store user 1 where there is none, and ask for the code of the current user."""
    store_user(app)
    answer = app.test_client().post(url)
    return answer.status_code, answer.get_json(silent=True)


def store_user(app: Flask) -> None:
    """Make all tables, and user 1 where there is none."""
    with app.app_context():
        db = app.extensions["sqlalchemy"]
        db.create_all()
        users = db.metadata.tables["users"]
        if not db.session.execute(sa.select(users)).all():
            db.session.execute(users.insert().values(id=1))
        db.session.commit()


class Host(t.NamedTuple):
    """A host in memory whose current user is user 1."""

    app: Flask
    referral: Referral

    def client(self) -> FlaskClient:
        # No cookies of the test client's, and no exceptions through it.
        return self.app.test_client(use_cookies=False)

    def finish(self) -> Host:
        """Make the tables and the user, once everything is set up."""
        store_user(self.app)
        return self


def start(
    *,
    register_blueprint: bool = True,
    before: t.Callable[[Flask], object] | None = None,
    **config: t.Any,
) -> Host:
    """Build a host; its tables come with :meth:`Host.finish`.

    :param before: called with the application before the extension is initialised.
    """
    db, referral = SQLAlchemy(), Referral()

    user, app = make_user(db), make_app(db, **config)
    if before is not None:
        before(app)
    referral.init_app(app, db, user_model=user, register_blueprint=register_blueprint)
    referral.identity_loader(lambda: 1)
    return Host(app, referral)


def assert_json_error(answer: TestResponse, status: int) -> str:
    assert answer.status_code == status
    assert answer.mimetype == "application/json"
    body = answer.get_json()
    assert body.keys() == {"error", "code"}
    assert isinstance(body["error"], str)
    assert body["error"]
    assert re.fullmatch("[a-z0-9_]+", body["code"])
    assert answer.headers["Cache-Control"] == "no-store"
    return str(body["error"])
