"""The product's pages."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import abort
from flask import Blueprint
from flask import flash
from flask import redirect
from flask import render_template
from flask import request
from flask import url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_login import login_required
from flask_login import login_user
from flask_login import logout_user

from flask_referral import AttributionReason

from . import orders
from . import told
from . import wallet as wallets
from .extensions import login
from .extensions import referral
from .models import add_user
from .models import db
from .models import Purchase
from .models import User
from .plans import PLANS
from .words import money

blueprint = Blueprint("demo", __name__)


@login.user_loader
def load_user(user_id: str) -> User | None:
    return db.session.get(User, int(user_id))


@referral.display_name_loader
def name_of(user_id: int) -> str | None:
    """Say what others may call a user: newsletters have names to be known by."""
    return db.session.scalar(sa.select(User.name).where(User.id == user_id))


@login.unauthorized_handler
def ask_to_log_in() -> ResponseReturnValue:
    flash("Log in to see this page.")
    return redirect(url_for("demo.log_in"))


@blueprint.get("/")
def landing() -> str:
    return render_template("landing.html", plans=PLANS)


@blueprint.route("/signup", methods=["GET", "POST"])
def sign_up() -> ResponseReturnValue:
    if request.method == "GET":
        return render_template("signup.html", errors={})
    email, name, password = _field("email"), _field("name"), request.form.get("password", "")
    errors = {}
    if "@" not in email or len(email) > 254:
        errors["email"] = "Enter an e-mail address."
    if not name or len(name) > 80:
        errors["name"] = "Enter a name of at most 80 characters."
    if len(password) < 8:
        errors["password"] = "Choose a password of 8 characters or more."
    user = None if errors else add_user(email, name, password)
    if user is None:
        errors = errors or {"email": "Somebody has an account with this address already."}
        return render_template("signup.html", errors=errors), 422
    # Whoever's link the visitor followed is in the cookie; a typed code goes before it.
    referred = referral.attribute(user, code=_field("code"))
    if referred.reason is AttributionReason.unknown_code:
        db.session.rollback()
        errors = {"code": "Nobody has this code; correct it or leave it out."}
        return render_template("signup.html", errors=errors), 422
    db.session.commit()
    login_user(user)
    flash(f"Welcome, {user.name}.")
    return redirect(url_for("demo.account"))


@blueprint.route("/login", methods=["GET", "POST"])
def log_in() -> ResponseReturnValue:
    if request.method == "GET":
        return render_template("login.html", error=None)
    user = db.session.scalar(sa.select(User).where(User.email == _field("email").lower()))
    if user is None or not user.check_password(request.form.get("password", "")):
        return render_template("login.html", error="Address and password do not match."), 422
    login_user(user)
    return redirect(url_for("referral_overview.index" if user.is_operator else "demo.account"))


@blueprint.post("/logout")
def log_out() -> ResponseReturnValue:
    logout_user()
    flash("You are logged out.")
    return redirect(url_for("demo.landing"))


@blueprint.get("/account")
@login_required
def account() -> str:
    return render_template("account.html")


@blueprint.post("/account/code")
@login_required
def make_code() -> ResponseReturnValue:
    """Do what ``POST /api/referral/generate`` does, for a form."""
    referral.get_or_create_code(current_user)
    db.session.commit()
    flash("Here are your code and your link.")
    return redirect(url_for("demo.account"))


@blueprint.get("/wallet")
@login_required
def wallet() -> str:
    user = t.cast(User, current_user)
    return render_template(
        "wallet.html",
        balance_cents=wallets.balance_of(user),
        coming=wallets.coming_to(user),
        lines=wallets.lines_of(user),
        shown=wallets.SHOWN,
    )


@blueprint.get("/plans")
@login_required
def plans() -> str:
    own = sa.select(Purchase).where(Purchase.user_id == current_user.id)
    purchases = db.session.scalars(own.order_by(Purchase.id.desc())).all()
    return render_template("plans.html", plans=PLANS, purchases=purchases)


@blueprint.post("/plans/<plan>")
@login_required
def buy(plan: str) -> ResponseReturnValue:
    """Take the order; the payment's event, which pays the referrer, comes from the provider."""
    if plan not in PLANS:
        abort(404, "There is no such plan.")
    payment, outcome = orders.buy(t.cast(User, current_user), plan)
    bought = PLANS[plan]
    flash(f"You are subscribed to {bought.name} for {money(bought.cents)} a {bought.period}.")
    changes = " ".join(told.sentences({}, payment, outcome))
    flash(f"The payment provider told Larkmail of the payment. {changes}")
    return redirect(url_for("demo.plans"))


def _field(name: str) -> str:
    # PostgreSQL has no text with a NUL in it.
    return request.form.get(name, "").replace("\0", "").strip()
