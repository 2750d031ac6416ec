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

from . import whop
from .extensions import login
from .extensions import referral
from .models import add_user
from .models import db
from .models import Purchase
from .models import User
from .models import wallet_of

#: What can be bought, with the price of a month in cents.
PLANS = {"basic": 900, "team": 2900}

blueprint = Blueprint("demo", __name__)


@login.user_loader
def load_user(user_id: str) -> User | None:
    return db.session.get(User, int(user_id))


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
    return redirect(url_for("demo.account"))


@blueprint.post("/logout")
def log_out() -> ResponseReturnValue:
    logout_user()
    flash("You are logged out.")
    return redirect(url_for("demo.landing"))


@blueprint.get("/account")
@login_required
def account() -> str:
    reward = referral.models.ReferralReward
    own = sa.select(reward).where(reward.user_id == current_user.id).order_by(reward.created_at)
    return render_template(
        "account.html",
        stats=referral.stats(current_user),
        rewards=db.session.scalars(own).all(),
    )


@blueprint.post("/account/code")
@login_required
def make_code() -> ResponseReturnValue:
    """Do what ``POST /api/referral/generate`` does, for browsers without script."""
    referral.get_or_create_code(current_user)
    db.session.commit()
    return redirect(url_for("demo.account"))


@blueprint.get("/wallet")
@login_required
def wallet() -> str:
    return render_template("wallet.html", transactions=wallet_of(t.cast(User, current_user)))


@blueprint.get("/plans")
@login_required
def plans() -> str:
    own = sa.select(Purchase).where(Purchase.user_id == current_user.id).order_by(Purchase.id)
    return render_template("plans.html", plans=PLANS, purchases=db.session.scalars(own).all())


@blueprint.post("/plans/<plan>")
@login_required
def buy(plan: str) -> ResponseReturnValue:
    """Take the order; the payment's event, which pays the referrer, comes from the provider."""
    if plan not in PLANS:
        abort(404, "There is no such plan.")
    purchase = Purchase(user_id=current_user.id, plan=plan, amount_cents=PLANS[plan])
    db.session.add(purchase)
    db.session.commit()
    flash(f"You are subscribed to the {plan} plan. The payment's webhook: {whop.pay(purchase)}.")
    return redirect(url_for("demo.plans"))


@blueprint.post("/purchases/<int:purchase_id>/replay")
@login_required
def replay(purchase_id: int) -> ResponseReturnValue:
    """Deliver the payment's event once more, as providers do."""
    flash(f"The payment's webhook, again: {whop.pay(_own_purchase(purchase_id))}.")
    return redirect(url_for("demo.plans"))


@blueprint.post("/purchases/<int:purchase_id>/refund")
@login_required
def refund(purchase_id: int) -> ResponseReturnValue:
    """Give the money back, which takes the referrer's bonus back."""
    flash(f"The refund's webhook: {whop.refund(_own_purchase(purchase_id))}.")
    return redirect(url_for("demo.plans"))


def _own_purchase(purchase_id: int) -> Purchase:
    purchase = db.session.get(Purchase, purchase_id)
    if purchase is None or purchase.user_id != current_user.id:
        abort(404, "There is no such purchase.")
    return purchase


def _field(name: str) -> str:
    # PostgreSQL has no text with a NUL in it.
    return request.form.get(name, "").replace("\0", "").strip()
