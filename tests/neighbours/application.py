"""One application with thirteen other extensions, set up as their documentation says.

Flask-Security brings Flask-Login; its register view is the sign-up, its session the log-in.
"""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from apiflask import APIFlask
from cachelib import SimpleCache
from flask import make_response
from flask import request
from flask import Response
from flask_babel import Babel
from flask_babel import gettext
from flask_caching import Cache
from flask_cors import CORS
from flask_jwt_extended import get_jwt_identity
from flask_jwt_extended import JWTManager
from flask_jwt_extended import verify_jwt_in_request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_login import current_user
from flask_login import login_required
from flask_migrate import Migrate
from flask_security import RoleMixin
from flask_security import Security
from flask_security import SQLAlchemyUserDatastore
from flask_security import user_registered
from flask_security import UserMixin
from flask_session import Session
from flask_smorest import Api
from flask_smorest import Blueprint as ApiBlueprint
from flask_socketio import emit
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from flask_talisman import Talisman
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf

from flask_referral import Referral

from ..hosts import Host
from ..hosts import make_wallet
from ..whop import CONFIG

FRONT_END = "https://app.example.com"
#: Requests of one address a minute to our routes, and to any other one.
LIMIT, DEFAULT_LIMIT = 6, 12

SETTINGS: dict[str, t.Any] = {
    "SECRET_KEY": "for tests only, and long enough for HS256",
    "TESTING": True,
    # What the test client asks with.
    "PREFERRED_URL_SCHEME": "https",
    "REFERRAL_BASE_URL": "https://example.com",
    "REFERRAL_USER_CREATED_COLUMN": "create_datetime",
    "REFERRAL_TRUSTED_ORIGINS": [FRONT_END],
    # Flask-WTF would refuse the front end over HTTPS: its Referer is another host's.
    "WTF_CSRF_SSL_STRICT": False,
    "SECURITY_PASSWORD_SALT": "salt",
    "SECURITY_PASSWORD_HASH": "plaintext",
    "SECURITY_REGISTERABLE": True,
    "SECURITY_SEND_REGISTER_EMAIL": False,
    "SECURITY_EMAIL_VALIDATOR_ARGS": {"check_deliverability": False},
    "SECURITY_USE_REGISTER_V2": True,
    "CACHE_TYPE": "SimpleCache",
    "SESSION_TYPE": "cachelib",
    "API_TITLE": "Shop",
    "API_VERSION": "1",
    "OPENAPI_VERSION": "3.1.0",
    **CONFIG,
}


def make_neighbourhood(url: str) -> Host:
    """Build the application and its tables."""
    app = APIFlask("neighbourhood")
    app.config.update(SETTINGS, SQLALCHEMY_DATABASE_URI=url, SESSION_CACHELIB=SimpleCache())
    db = SQLAlchemy()
    user_model, wallet_model, store = _models(db)
    db.init_app(app)
    Migrate(app, db)
    CSRFProtect(app)
    Security(app, store)
    JWTManager(app)
    Babel(app, locale_selector=lambda: request.accept_languages.best_match(["de", "en"]))
    Talisman(app, content_security_policy={"default-src": "'self'"})
    Session(app)
    cache = Cache(app)
    CORS(
        app,
        resources=r"/api/referral/(generate|stats)",
        origins=app.config["REFERRAL_TRUSTED_ORIGINS"],
        supports_credentials=True,
    )
    limiter = Limiter(
        get_remote_address,
        app=app,
        default_limits=[f"{DEFAULT_LIMIT} per minute"],
        storage_uri="memory://",
    )
    sockets = SocketIO(app, async_mode="threading", manage_session=False)
    referral = Referral()
    referral.init_app(app, db, user_model=user_model, wallet_model=wallet_model)

    @referral.identity_loader
    def who() -> t.Any:
        # A token where there is one, which may be bad; else the session.
        verify_jwt_in_request(optional=True)
        return get_jwt_identity() or current_user

    @limiter.request_filter
    def is_delivery() -> bool:
        return request.endpoint == "referral.webhook"

    limiter.limit(f"{LIMIT} per minute")(referral.blueprint)

    @user_registered.connect_via(app)
    def on_sign_up(sender: t.Any, user: t.Any, **rest: t.Any) -> None:
        db.session.flush()
        app.extensions["outcomes"].append(referral.attribute(user).reason)

    app.extensions["outcomes"] = []
    _add_pages(app, db, referral, cache)
    _add_sockets(sockets, referral)
    app.extensions["sockets"] = sockets
    host = Host(app, db, user_model, wallet_model, referral)
    with app.app_context():
        db.metadata.create_all(db.engine, [db.metadata.tables["role"]])
    host.create_tables()
    with app.app_context():
        db.metadata.create_all(db.engine, [db.metadata.tables["roles_users"]])
    host.cli("db", "upgrade")
    return host


def _models(db: SQLAlchemy) -> tuple[t.Any, t.Any, SQLAlchemyUserDatastore]:
    roles_users = sa.Table(
        "roles_users",
        db.metadata,
        sa.Column("user_id", sa.ForeignKey("users.id")),
        sa.Column("role_id", sa.ForeignKey("role.id")),
    )

    class Role(db.Model, RoleMixin):  # type: ignore[name-defined,misc]
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String(80), unique=True)

    class User(db.Model, UserMixin):  # type: ignore[name-defined,misc]
        __tablename__ = "users"
        id = sa.Column(sa.Integer, primary_key=True)
        email = sa.Column(sa.String(255), unique=True)
        password = sa.Column(sa.String(255))
        active = sa.Column(sa.Boolean)
        fs_uniquifier = sa.Column(sa.String(64), unique=True)
        create_datetime = sa.Column(sa.DateTime(timezone=True), server_default=sa.func.now())
        roles = db.relationship(Role, secondary=roles_users)

    return User, make_wallet(db, User), SQLAlchemyUserDatastore(db, User, Role)


def _add_pages(app: APIFlask, db: SQLAlchemy, referral: Referral, cache: Cache) -> None:
    made: list[None] = []

    @app.get("/pricing")
    @cache.cached(timeout=60, query_string=True)
    def pricing() -> Response:
        made.append(None)
        # Kept as a whole, with whatever headers it has by then.
        return make_response(f"{gettext('Prices')} {len(made)}")

    @app.get("/token")
    def token() -> str:
        return generate_csrf()

    @app.post("/buy")
    @login_required
    def buy() -> str:
        result = referral.convert(current_user, "mem_1", payment_id="pay_1", paid_cents=3000)
        if request.args.get("fail"):
            raise LookupError("the card was declined")
        db.session.commit()
        return str(result.reason)

    @app.errorhandler(LookupError)
    def declined(error: LookupError) -> tuple[str, int]:
        db.session.rollback()
        return str(error), 402

    shop = ApiBlueprint("shop", "shop", url_prefix="/shop")

    @shop.get("/")
    def goods() -> dict[str, int]:
        return {"goods": 1}

    Api(app).register_blueprint(shop)


def _add_sockets(sockets: SocketIO, referral: Referral) -> None:
    @sockets.on("link")
    def link() -> None:
        emit("link", referral.link_for(current_user))
