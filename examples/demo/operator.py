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
        figures=referral.overview().totals,
        waiting=_waiting(),
        leaders=referral.leaderboard(),
    )


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
