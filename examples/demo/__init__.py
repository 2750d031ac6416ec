"""A small subscription product that uses flask-referral as any application would.

``python -m examples.demo`` makes its database and serves it; ``flask --app examples.demo …`` runs
its commands.
"""

from __future__ import annotations

import os
import secrets
import typing as t
from pathlib import Path

from flask import Flask
from flask import render_template
from flask import Response
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from . import database
from . import operator
from . import plans
from . import provider
from . import views
from . import whop
from . import words
from .extensions import csrf
from .extensions import login
from .extensions import migrate
from .extensions import referral
from .models import db
from .models import User
from .models import WalletTransaction


def create_app(**config: t.Any) -> Flask:
    """Build the application.

    Its data is kept in the folder that ``DEMO_INSTANCE`` names, by default in ``instance``
    beside this file.

    :param config: settings; without ``SQLALCHEMY_DATABASE_URI`` the database is the one that
        ``DATABASE_URL`` names, or else an embedded PostgreSQL, which is started now.
    """
    instance = Path(
        os.environ.get("DEMO_INSTANCE") or Path(__file__).with_name("instance")
    ).resolve()
    instance.mkdir(parents=True, exist_ok=True)
    app = Flask(__name__, instance_path=str(instance))
    app.config.from_mapping(
        SECRET_KEY=_kept_secret(instance / "secret_key"),
        SESSION_COOKIE_SAMESITE="Lax",
        # A form may stay open for as long as its login lasts.
        WTF_CSRF_TIME_LIMIT=None,
        REFERRAL_BASE_URL=f"http://127.0.0.1:{os.environ.get('PORT') or 5000}",
        # The demo is served over plain HTTP, on this machine only.
        REFERRAL_COOKIE_SECURE=False,
        # The referrer's page stands in Larkmail's own layout.
        REFERRAL_BASE_TEMPLATE="base.html",
        REFERRAL_LEADERBOARD=True,
        REFERRAL_BONUS_CENTS=plans.BONUS_CENTS,
        REFERRAL_RENEWALS=plans.RENEWALS,
        REFERRAL_VANITY_CODES=True,
        # More purchases than this in a day wait for an operator.
        REFERRAL_VELOCITY_LIMIT=10,
        REFERRAL_IP_KEY=_kept_secret(instance / "ip_key"),
        REFERRAL_WHOP_WEBHOOK_SECRET="ws_" + _kept_secret(instance / "whop_secret"),
        REFERRAL_WHOP_COMPANY_ID=whop.COMPANY,
    )
    app.config.update(config)
    if "SQLALCHEMY_DATABASE_URI" not in app.config:
        app.config["SQLALCHEMY_DATABASE_URI"] = database.url(instance / "postgresql")

    db.init_app(app)
    migrate.init_app(app, db)
    csrf.init_app(app)
    login.init_app(app)
    referral.init_app(
        app,
        db,
        user_model=User,
        wallet_model=WalletTransaction,
        reward_policy=plans.reward_policy,
    )

    app.register_blueprint(views.blueprint)
    app.register_blueprint(provider.blueprint)
    operator.init_app(app)
    app.jinja_env.filters.update(money=words.money, day=words.day)
    app.jinja_env.globals.update(
        bonus_cents=plans.BONUS_CENTS,
        renewal_cents=plans.RENEWAL_CENTS,
        renewals=plans.RENEWALS,
        welcome_cents=plans.WELCOME_CENTS,
    )
    app.register_error_handler(HTTPException, _error_page)
    app.after_request(_security_headers)
    return app


def _error_page(error: HTTPException) -> ResponseReturnValue:
    return render_template("error.html", error=error), error.code or 500


def _security_headers(response: Response) -> Response:
    # Bootstrap, which the operator's desk looks like, draws its menu's sign from a data: address.
    response.headers["Content-Security-Policy"] = (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )
    return response


def _kept_secret(path: Path) -> str:
    # Kept, so that logins and hashed addresses outlive the process.
    path.touch(mode=0o600)
    secret = path.read_text()
    if not secret:
        secret = secrets.token_hex(32)
        path.write_text(secret)
    return secret
