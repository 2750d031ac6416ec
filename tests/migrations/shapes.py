"""Hosts whose users are not a plain ``users(id)``."""

from __future__ import annotations

import types
import typing as t

import sqlalchemy as sa
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from flask_referral import Referral
from flask_referral.db.models import user_key
from tests.hosts import Host
from tests.hosts import make_wallet

DeclareUsers = t.Callable[[SQLAlchemy], t.Any]


def make_shape(
    url: str,
    declare: DeclareUsers,
    *,
    wallet: bool = False,
    schema: str | None = None,
    migrate: dict[str, t.Any] | None = None,
    **config: t.Any,
) -> Host:
    """Build a host around the users that ``declare`` declares.

    :param migrate: further options of ``Migrate``.
    :param config: settings of the application.
    """
    db = SQLAlchemy(metadata=sa.MetaData(schema=schema))
    users = declare(db)
    wallet_model = make_wallet(db, types.SimpleNamespace(id=user_key(users))) if wallet else None
    app = Flask("shape")
    app.config.update(
        {"SQLALCHEMY_DATABASE_URI": url, "SECRET_KEY": "for tests only", "TESTING": True}
    )
    app.config.update(config)
    db.init_app(app)
    Migrate(app, db, **(migrate or {}))
    referral = Referral(app, db, user_model=users, wallet_model=wallet_model)
    return Host(app, db, users, wallet_model, referral)


def supabase_users(where: str) -> DeclareUsers:
    """Return a function that declares ``auth.users``.

    :param where: ``"own"`` for a MetaData that nothing else looks at, or ``"host"``.
    """

    def declare(db: SQLAlchemy) -> sa.Table:
        metadata = sa.MetaData() if where == "own" else db.metadata
        return sa.Table(
            "users", metadata, sa.Column("id", sa.Uuid, primary_key=True), schema="auth"
        )

    return declare
