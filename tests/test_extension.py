"""``Referral`` in a host: the ways to set it up, and what is refused at start-up."""

from __future__ import annotations

import sqlite3
import types
import typing as t

import pytest
import sqlalchemy as sa
from flask import Blueprint
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import relationship

from flask_referral import ConfigurationError
from flask_referral import Referral

from .hosts import make_wallet
from .memory import generate
from .memory import make_app
from .memory import make_user
from .memory import TABLES


@pytest.fixture
def db() -> SQLAlchemy:
    return SQLAlchemy()


@pytest.fixture
def referral() -> Referral:
    """A Referral object whose current user is user 1."""
    referral = Referral()
    referral.identity_loader(lambda: 1)
    return referral


def test_one_line(db: SQLAlchemy) -> None:
    app = make_app(db)
    referral = Referral(app, db, user_model=make_user(db))
    referral.identity_loader(lambda: 1)
    assert app.extensions["referral"] is referral
    assert generate(app)[0] == 200


def test_arguments_of_the_constructor(db: SQLAlchemy) -> None:
    referral = Referral(db=db, user_model=make_user(db))
    referral.identity_loader(lambda: 1)
    app = make_app(db)
    referral.init_app(app)
    assert generate(app)[0] == 200


def test_database_is_found_by_itself(db: SQLAlchemy, referral: Referral) -> None:
    app = make_app(db)
    referral.init_app(app, user_model=make_user(db))
    assert generate(app)[0] == 200


def test_arguments_of_init_app_go_first() -> None:
    one, two = SQLAlchemy(), SQLAlchemy()
    first = make_user(one)
    referral = Referral(db=one, user_model=first, wallet_model=make_wallet(one, first))
    app, user = make_app(two), make_user(two)
    wallet = make_wallet(two, user)
    referral.init_app(app, two, user_model=user, wallet_model=wallet, register_blueprint=False)
    assert referral.user_key is user.__table__.c.id
    assert referral.wallet_table is wallet.__table__
    assert "referral" not in app.blueprints


def test_loader_may_be_named_before_and_after(db: SQLAlchemy) -> None:
    app = make_app(db)
    referral = Referral(app, db, user_model=make_user(db))
    referral.identity_loader(lambda: None)
    assert generate(app)[0] == 401
    referral.identity_loader(lambda: 1)
    assert generate(app)[0] == 200


@pytest.mark.parametrize("migrate_first", [True, False])
def test_order_of_the_extensions(db: SQLAlchemy, referral: Referral, migrate_first: bool) -> None:
    app = make_app(db)
    if migrate_first:
        Migrate(app, db)
    referral.init_app(app, db, user_model=make_user(db))
    if not migrate_first:
        Migrate(app, db)
    assert app.test_cli_runner().invoke(args=["referral", "--help"]).exit_code == 0
    assert generate(app)[0] == 200


def test_inside_an_application_context(db: SQLAlchemy, referral: Referral) -> None:
    app = make_app(db)
    user = make_user(db)
    with app.app_context():
        session = db.session()
        referral.init_app(app, db, user_model=user)
        assert db.session() is session
    assert generate(app)[0] == 200


def test_classes_that_are_declared_later(db: SQLAlchemy, referral: Referral) -> None:
    user = make_user(db, orders=relationship("Order"))
    app = make_app(db)
    referral.init_app(app, db, user_model=user)

    class Order(db.Model):  # type: ignore[name-defined,misc]
        id = sa.Column(sa.Integer, primary_key=True)
        user_id = sa.Column(sa.ForeignKey(user.id))

    assert generate(app)[0] == 200


# What cannot work is said at start-up


def refused(app: Flask, message: str, **arguments: t.Any) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Referral().init_app(app, **arguments)
    # Nothing is half set up: the host may mend it and try again.
    assert "referral" not in app.extensions
    assert "referral" not in app.blueprints


def test_no_database(db: SQLAlchemy) -> None:
    user = make_user(db)
    refused(make_app(), r"call db.init_app\(app\) before", user_model=user)
    refused(make_app(), r"call db.init_app\(app\) before", db=db, user_model=user)
    refused(make_app(SQLAlchemy()), r"call db.init_app\(app\) before", db=db, user_model=user)


def test_no_user_model(db: SQLAlchemy) -> None:
    refused(make_app(db), "pass user_model=User", db=db)


class Unmapped:
    id = 1


@pytest.mark.parametrize("model", [Unmapped, "User", Unmapped(), 1, sa.MetaData()])
def test_unmapped_model(db: SQLAlchemy, model: t.Any) -> None:
    app = make_app(db)
    message = "which is neither a mapped class nor a Table; pass the model class"
    refused(app, f"^user_model is .*{message}", user_model=model)
    user = make_user(db)
    refused(app, f"^wallet_model is .*{message}", user_model=user, wallet_model=model)
    refused(app, message, user_model=user())
    Referral().init_app(app, user_model=user)


def test_composite_key(db: SQLAlchemy) -> None:
    user = make_user(db, tenant=sa.Column(sa.Integer, primary_key=True))
    refused(make_app(db), r"user table 'users' is \(id, tenant\).*exactly one", user_model=user)
    refused(make_app(db), r"\(id, tenant\); .*exactly one", user_model=user.__table__)


def test_table_without_a_key(db: SQLAlchemy) -> None:
    users = sa.Table("users", sa.MetaData(), sa.Column("id", sa.Integer))
    refused(make_app(db), r"user table 'users' is \(no column\)", user_model=users)


def test_two_user_models_in_one_database(db: SQLAlchemy) -> None:
    Referral(make_app(db), db, user_model=make_user(db))
    other = make_user(db, "Other", __tablename__="others")
    refused(make_app(db), "refer to users.id, so user_model cannot be", user_model=other)


def test_unknown_bind(db: SQLAlchemy) -> None:
    user = make_user(db, __bind_key__="accounts")
    refused(make_app(db), "database 'accounts', which SQLALCHEMY_BINDS does not", user_model=user)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("replicas", "'replicas', which SQLALCHEMY_BINDS does not name; add it there"),
        ("accounts", "'accounts', which is no replica of the users' database 'accounts': name an"),
        (
            "other kind",
            r"no replica .* another of the same kind \(sqlite\), or leave REFERRAL_READ",
        ),
        ("mapped", "cannot follow a schema_translate_map"),
    ],
)
def test_a_read_bind_that_is_no_replica(db: SQLAlchemy, name: str, message: str) -> None:
    user = make_user(db, __bind_key__="accounts")
    mapping = {"schema_translate_map": {None: "shop"}}
    binds = {
        "accounts": "sqlite://",
        "other kind": "postgresql+psycopg2://localhost/x",
        "mapped": {"url": "sqlite://", "execution_options": mapping},
    }
    app = make_app(db, SQLALCHEMY_BINDS=binds, REFERRAL_READ_BIND=name)
    refused(
        app, message if name == "mapped" else f"REFERRAL_READ_BIND .*{message}", user_model=user
    )


@pytest.mark.parametrize("url", ["mysql://localhost/x", "mariadb://localhost/x"])
def test_another_database(db: SQLAlchemy, url: str) -> None:
    # A driver in name only: nothing connects.
    driver = types.SimpleNamespace(paramstyle="format", __version__="0")
    options = {"module": driver}
    app = make_app(db, SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINE_OPTIONS=options)
    message = r"PostgreSQL 13\+ and SQLite 3.35\+, not with '(mysql|mariadb)'; set SQLALCHEMY_DATA"
    refused(app, message, user_model=make_user(db))


def test_an_engine_that_maps_schemas(db: SQLAlchemy) -> None:
    options = {"execution_options": {"schema_translate_map": {None: "shop"}}}
    app = make_app(db, SQLALCHEMY_ENGINE_OPTIONS=options)
    message = r"cannot follow a schema_translate_map .* name the schema in the models"
    refused(app, message, user_model=make_user(db))


@pytest.mark.parametrize(("version", "works"), [((3, 34, 1), False), ((3, 35, 0), True)])
def test_old_sqlite(
    db: SQLAlchemy, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], works: bool
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    monkeypatch.setattr(sqlite3, "sqlite_version", ".".join(map(str, version)))
    app = make_app(db)
    if works:
        Referral(app, db, user_model=make_user(db))
    else:
        refused(app, r"SQLite 3.35 or newer, and this Python has 3.34.1", user_model=make_user(db))


def test_bad_setting(db: SQLAlchemy) -> None:
    app = make_app(db, REFERRAL_HOLD_DAYS="14")
    refused(app, "^REFERRAL_HOLD_DAYS takes", user_model=make_user(db))
    assert not TABLES & db.metadata.tables.keys()


def test_second_time_on_one_application(db: SQLAlchemy, referral: Referral) -> None:
    app, user = make_app(db), make_user(db)
    referral.init_app(app, db, user_model=user)
    for other in (referral, Referral()):
        with pytest.raises(ConfigurationError, match="already been registered on this Flask app"):
            other.init_app(app, db, user_model=user)
    assert generate(app)[0] == 200


def test_blueprint_without_init_app(referral: Referral) -> None:
    app = make_app()
    app.debug = True
    app.register_blueprint(referral.blueprint, url_prefix="/x")
    answer = app.test_client().post("/x/generate")
    assert answer.status_code == 500
    assert "call referral.init_app(app, db, user_model=User) too" in answer.get_json()["error"]


# Blueprints


def test_host_registers_the_blueprint(db: SQLAlchemy, referral: Referral) -> None:
    app = make_app(db)
    referral.init_app(app, db, user_model=make_user(db), register_blueprint=False)
    app.register_blueprint(referral.blueprint, url_prefix="/x")
    assert generate(app, "/x/generate")[0] == 200
    assert generate(app)[0] == 404


def test_nested_blueprint(db: SQLAlchemy, referral: Referral) -> None:
    app = make_app(db)
    referral.init_app(app, db, user_model=make_user(db), register_blueprint=False)
    api, v1 = Blueprint("api", "host"), Blueprint("v1", "host")
    v1.register_blueprint(referral.blueprint, url_prefix="/friends")
    api.register_blueprint(v1, url_prefix="/v1")
    app.register_blueprint(api, url_prefix="/api")
    assert generate(app, "/api/v1/friends/generate")[0] == 200
    assert generate(app, "/api/v1/friends/nothing") == (404, None)


def test_blueprint_under_another_name_and_twice(db: SQLAlchemy, referral: Referral) -> None:
    app = make_app(db)
    app.register_blueprint(Blueprint("referral", "host"))
    referral.init_app(app, db, user_model=make_user(db), register_blueprint=False)
    app.register_blueprint(referral.blueprint, url_prefix="/x", name="friends")
    app.register_blueprint(referral.blueprint, url_prefix="/y", name="invites")
    assert generate(app, "/x/generate") == generate(app, "/y/generate")


def test_prefix_of_the_settings(db: SQLAlchemy, referral: Referral) -> None:
    app = make_app(db, REFERRAL_URL_PREFIX="/v2/friends")
    referral.init_app(app, db, user_model=make_user(db))
    assert generate(app, "/v2/friends/generate")[0] == 200


@pytest.mark.parametrize("type_", [sa.Integer, sa.String(32), sa.BigInteger])
def test_a_wallet_whose_reference_cannot_hold_an_id_is_refused(type_: t.Any) -> None:
    db = SQLAlchemy()
    user, app = make_user(db), make_app(db)
    columns = ("user_id", "amount_cents", "type", "reference_type")
    wallet = sa.Table(
        "wallet_transactions",
        db.metadata,
        *(sa.Column(name, sa.Text) for name in columns),
        sa.Column("reference_id", type_),
    )
    with pytest.raises(ConfigurationError, match=r"reference_id .* make it a UUID, or text of 36"):
        Referral(app, db, user_model=user, wallet_model=wallet)
