"""What those who run Larkmail see of its referral program."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import abort
from flask import Blueprint
from flask import render_template
from flask_login import current_user
from flask_login import login_required
from sqlalchemy.orm import aliased

from .extensions import referral
from .models import db
from .models import User

blueprint = Blueprint("operator", __name__, url_prefix="/operator")


@blueprint.get("/")
@login_required
def overview() -> str:
    if not current_user.is_operator:
        abort(403, "This page is for those who run Larkmail.")
    return render_template(
        "operator.html",
        figures=_figures(),
        waiting=_waiting(),
        leaders=referral.leaderboard(),
    )


def _figures() -> dict[str, int]:
    reward = referral.models.ReferralReward
    click = referral.models.ReferralClick
    left = sa.func.coalesce(sa.func.sum(reward.cents - reward.reversed_cents), 0)
    return {
        "referred": db.session.scalar(sa.select(sa.func.count(click.referred_user_id))) or 0,
        "paying": db.session.scalar(sa.select(sa.func.count(referral.models.ReferralConversion.id)))
        or 0,
        "paid_cents": db.session.scalar(
            sa.select(left).where(reward.status.in_(("credited", "reversed")))
        )
        or 0,
        "owed_cents": db.session.scalar(
            sa.select(left).where(reward.status.in_(("pending", "held")))
        )
        or 0,
    }


def _waiting() -> t.Sequence[t.Any]:
    """Return the rewards that somebody has to decide on, the oldest first."""
    reward = referral.models.ReferralReward
    referrer, referred = aliased(User), aliased(User)
    return db.session.execute(
        sa.select(
            reward.id,
            reward.created_at,
            reward.cents,
            reward.role,
            referrer.name.label("whose"),
            referred.name.label("buyer"),
        )
        .join(referrer, referrer.id == reward.user_id)
        .outerjoin(referred, referred.id == reward.referred_user_id)
        .where(reward.status == "held")
        .order_by(reward.created_at, reward.id)
    ).all()
