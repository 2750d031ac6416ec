"""A host that uses flask-referral."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import Flask
from flask import jsonify
from flask import request
from flask.typing import ResponseReturnValue
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from flask_referral import Referral

from .config import BASE_URL
from .config import SECRET_KEY


def create_app(
    url: str, *, in_session: bool = False, with_referral: bool = True, **settings: t.Any
) -> Flask:
    """Build it for a database.

    :param in_session: whether each request's user is loaded through ``db.session`` first, as
        Flask-Login does.
    :param with_referral: False for the same host without the extension.
    :param settings: of the application, beside those that all measurements have.
    """
    db, referral = SQLAlchemy(), Referral()
    users = sa.Table(
        "users",
        db.metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True)),
    )
    wallet = sa.Table(
        "wallet_transactions",
        db.metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("amount_cents", sa.Integer, nullable=False),
        sa.Column("balance_after_cents", sa.Integer),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("reference_type", sa.Text),
        sa.Column("reference_id", sa.Text),
        sa.Column("status", sa.Text, server_default="completed", nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("metadata", sa.JSON),
        sa.Column("created_at", sa.DateTime(timezone=True)),
    )
    app = Flask("ours")
    app.config.update(
        SECRET_KEY=SECRET_KEY,
        SQLALCHEMY_DATABASE_URI=url,
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1},
        REFERRAL_BASE_URL=BASE_URL,
        # Its visitors differ by their agents alone.
        REFERRAL_CLICKS_PER_ADDRESS=2**31 - 1,
    )
    app.config.update(settings)
    db.init_app(app)
    Migrate(app, db)
    if with_referral:
        referral.init_app(app, db, user_model=users, wallet_model=wallet)

    @referral.identity_loader
    def identity() -> str | None:
        return request.headers.get("X-User")

    @app.post("/buy")
    def buy() -> ResponseReturnValue:
        result = referral.convert(int(request.headers["X-User"]), request.headers["X-Payment"])
        db.session.commit()
        return jsonify(outcome=result.reason)

    @app.get("/")
    def page() -> str:
        return "A page of the host's."

    def log_in() -> None:
        user = request.headers.get("X-User")
        if user is not None:
            db.session.execute(sa.select(users).where(users.c.id == int(user))).first()

    if in_session:
        app.before_request(log_in)
    return app
