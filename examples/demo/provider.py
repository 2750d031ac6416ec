"""The payment provider's side, to play what happens to one's purchases after they are made.

No product has such a page: what the provider does comes as webhooks, which it signs.
"""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import abort
from flask import Blueprint
from flask import flash
from flask import redirect
from flask import render_template
from flask import url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user
from flask_login import login_required

from . import orders
from . import told
from . import whop
from .models import db
from .models import Payment
from .models import Purchase
from .plans import PLANS

blueprint = Blueprint("provider", __name__, url_prefix="/provider")


@blueprint.get("/")
@login_required
def panel() -> str:
    own = sa.select(Purchase).where(Purchase.user_id == current_user.id)
    purchases = db.session.scalars(own.order_by(Purchase.id.desc())).all()
    return render_template("provider.html", purchases=purchases, plans=PLANS)


@blueprint.post("/purchases/<int:purchase_id>/renew")
@login_required
def renew(purchase_id: int) -> ResponseReturnValue:
    """Charge the next period."""
    purchase = db.session.get(Purchase, purchase_id)
    if purchase is None or purchase.user_id != current_user.id:
        abort(404, "There is no such purchase.")
    _only_if(purchase.is_running)
    payment, outcome = orders.renew(purchase)
    return _answer("The next payment was made.", {}, payment, outcome)


@blueprint.post("/payments/<int:payment_id>/<any(part, rest):what>")
@login_required
def refund(payment_id: int, what: str) -> ResponseReturnValue:
    """Give half of a payment back, or all that is left of it."""
    payment = _own(payment_id)
    cents = half_of(payment) if what == "part" else payment.left_cents
    _only_if(is_refundable(payment) and cents <= payment.left_cents)
    before = told.rewards_of(payment)
    return _answer("The refund was made.", before, payment, orders.refund(payment, cents))


@blueprint.post("/payments/<int:payment_id>/dispute")
@login_required
def dispute(payment_id: int) -> ResponseReturnValue:
    """Ask the money back through one's bank."""
    payment = _own(payment_id)
    _only_if(payment.dispute is None and is_refundable(payment))
    before = told.rewards_of(payment)
    return _answer("The dispute was opened.", before, payment, orders.dispute(payment))


@blueprint.post("/payments/<int:payment_id>/win")
@login_required
def win(payment_id: int) -> ResponseReturnValue:
    """Let the bank decide for Larkmail."""
    payment = _own(payment_id)
    _only_if(payment.dispute == "open")
    before = told.rewards_of(payment)
    return _answer("The dispute was closed.", before, payment, orders.win(payment))


@blueprint.post("/payments/<int:payment_id>/replay")
@login_required
def replay(payment_id: int) -> ResponseReturnValue:
    """Tell of a payment once more, as providers do."""
    payment = _own(payment_id)
    _only_if(is_refundable(payment))
    before = told.rewards_of(payment)
    return _answer("The payment was told of again.", before, payment, whop.paid(payment))


@blueprint.app_template_test("refundable")
def is_refundable(payment: Payment) -> bool:
    """Whether money of a payment is left, and no bank has a hand on it."""
    return payment.left_cents > 0 and payment.dispute != "open"


@blueprint.app_template_filter("half")
def half_of(payment: Payment) -> int:
    """Return half of a payment, in cents."""
    return payment.amount_cents // 2


def _own(payment_id: int) -> Payment:
    payment = db.session.get(Payment, payment_id)
    if payment is None or payment.purchase.user_id != current_user.id:
        abort(404, "There is no such payment.")
    return payment


def _only_if(condition: bool) -> None:
    if not condition:
        abort(409, "This is not possible any more; the page shows what is.")


def _answer(
    done: str, before: told.Rewards, payment: Payment, outcome: t.Any
) -> ResponseReturnValue:
    for sentence in (done, *told.sentences(before, payment, outcome)):
        flash(sentence)
    return redirect(url_for("provider.panel"))
