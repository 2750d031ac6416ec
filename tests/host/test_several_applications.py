"""Several applications, databases and Referral objects in one process."""

from __future__ import annotations

import gc
import shutil
import typing as t
import weakref
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_referral import ConfigurationError
from flask_referral import Referral
from flask_referral.errors import UnknownUser

from ..memory import GENERATE
from ..memory import generate
from ..memory import make_app
from ..memory import make_user
from ..memory import TABLES


@pytest.fixture
def db() -> SQLAlchemy:
    return SQLAlchemy()


@pytest.fixture
def referral() -> Referral:
    """A Referral object whose current user is user 1."""
    referral = Referral()
    referral.identity_loader(lambda: 1)
    return referral


def test_two_applications_with_different_settings(db: SQLAlchemy, referral: Referral) -> None:
    user = make_user(db)
    one = make_app(db, REFERRAL_BONUS_CENTS=1)
    two = make_app(db, REFERRAL_BONUS_CENTS=2, REFERRAL_URL_PREFIX="/two")
    for app in (one, two):
        referral.init_app(app, db, user_model=user)
    for app, cents in ((one, 1), (two, 2)):
        with app.app_context():
            assert referral.settings.bonus_cents == cents
    first = generate(one)
    second = generate(two, "/two/generate")
    assert first[0] == second[0] == 200
    # Each has a database of its own, in memory.
    assert first != second
    assert generate(two)[0] == 404
    assert referral.models is referral.state.models
    with make_app().app_context(), pytest.raises(ConfigurationError, match="does not know the cur"):
        _ = referral.models


def test_two_referral_objects(db: SQLAlchemy) -> None:
    user = make_user(db)
    one, two = Referral(), Referral()
    apps = [make_app(db), make_app(db)]
    for app, referral, answer in zip(apps, (one, two), (None, 1), strict=True):
        referral.init_app(app, db, user_model=user)
        referral.identity_loader(lambda answer=answer: answer)  # type: ignore[misc]
    assert [generate(app)[0] for app in apps] == [401, 200]
    assert one.models is two.models
    with apps[0].app_context(), pytest.raises(ConfigurationError, match="does not know the cur"):
        _ = two.settings


def test_two_databases(referral: Referral) -> None:
    apps = []
    for _ in range(2):
        db = SQLAlchemy()
        apps.append(make_app(db))
        referral.init_app(apps[-1], db, user_model=make_user(db))
        assert generate(apps[-1])[0] == 200
    with apps[0].app_context():
        first = referral.models
    with apps[1].app_context():
        assert referral.models is not first
    with pytest.raises(ConfigurationError, match=r"needs an application here.*app.app_context\(\)"):
        _ = referral.models


def test_two_applications_of_which_one_reads_from_a_copy(
    db: SQLAlchemy, referral: Referral, tmp_path: Path
) -> None:
    user, main, copy = make_user(db), tmp_path / "main.db", tmp_path / "copy.db"
    copied = {"SQLALCHEMY_BINDS": {"copy": f"sqlite:///{copy}"}}
    settings: list[dict[str, t.Any]] = [copied | {"REFERRAL_READ_BIND": "copy"}, {}, copied]
    apps = [make_app(db, SQLALCHEMY_DATABASE_URI=f"sqlite:///{main}", **each) for each in settings]
    for app in apps:
        referral.init_app(app, db, user_model=user)
    code = generate(apps[0])[1]["code"]
    visit(apps[0], code, "before the copy")
    shutil.copy(main, copy)
    visit(apps[0], code, "after it")
    found = [app.test_client().get("/api/referral/stats").get_json() for app in apps]
    assert [data["totals"]["clicks"] for data in found] == [1, 2, 2]


def visit(app: Flask, code: str, agent: str) -> None:
    """Follow a link as a visitor whom nobody knows."""
    referral: Referral = app.extensions["referral"]
    referral.identity_loader(lambda: None)
    assert app.test_client().get(f"/r/{code}", headers={"User-Agent": agent}).status_code == 302
    referral.identity_loader(lambda: 1)


def test_before_any_application(referral: Referral) -> None:
    with pytest.raises(ConfigurationError, match=r"forget to call init_app\(\)"):
        _ = referral.models


def test_users_in_another_bind(db: SQLAlchemy, referral: Referral) -> None:
    user = make_user(db, __bind_key__="accounts")
    app = make_app(db, SQLALCHEMY_BINDS={"accounts": "sqlite://"})
    referral.init_app(app, db, user_model=user)
    assert set(db.metadatas["accounts"].tables) == {"users", *TABLES}
    with app.app_context():
        db.create_all()
        for statement in (None, sa.text("SELECT 1")):
            if statement is not None:
                db.session.execute(statement)
            with pytest.raises(UnknownUser, match="There is no user 1"):
                referral.get_or_create_code(1)
            assert app.test_client().post(GENERATE).status_code == 401
        db.session.add(user(id=1))
        db.session.commit()
        code = referral.get_or_create_code(1).code
        db.session.commit()
        assert app.test_client().post(GENERATE).get_json() == {"code": code}


def collect() -> None:
    for _ in range(3):
        gc.collect()


def test_fifty_applications_with_models_of_the_module(db: SQLAlchemy, referral: Referral) -> None:
    user = make_user(db)

    def create_app() -> Flask:
        app = make_app(db)
        referral.init_app(app, db, user_model=user)
        assert generate(app)[0] == 200
        return app

    kept = create_app()
    tables = dict(db.metadata.tables)
    mappers = set(db.Model.registry.mappers)
    gone = [weakref.ref(create_app()) for _ in range(50)]
    collect()
    assert [ref for ref in gone if ref() is not None] == []
    assert list(referral._states) == [kept]
    assert dict(db.metadata.tables) == tables
    assert set(db.Model.registry.mappers) == mappers


def test_fifty_applications_with_models_of_their_own(referral: Referral) -> None:
    def create_app() -> tuple[weakref.ref[Flask], weakref.ref[SQLAlchemy], weakref.ref[t.Any]]:
        db = SQLAlchemy()
        user = make_user(db)
        app = make_app(db)
        referral.init_app(app, db, user_model=user)
        assert generate(app)[0] == 200
        with app.app_context():
            model = referral.models.ReferralCode
            db.engine.dispose()
        return weakref.ref(app), weakref.ref(db), weakref.ref(model)

    gone = [ref for _ in range(50) for ref in create_app()]
    collect()
    # The oldest SQLAlchemy's defaults remember the last table that they were copied to.
    assert [ref() for ref in gone[:-3] if ref() is not None] == []
    assert len(referral._states) == 0
