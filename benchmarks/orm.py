"""The same work as it is ordinarily written: Flask-SQLAlchemy models and sessions.

It keeps the uniqueness of the database and one transaction for a conversion; the finer guarantees
(the lock of the wallet, facts before payments) it has as far as such code usually does.
"""

from __future__ import annotations

import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa
from flask import Flask
from flask import jsonify
from flask import redirect
from flask import request
from flask import Response
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from itsdangerous import BadSignature
from itsdangerous import URLSafeTimedSerializer
from nanoid import generate
from sqlalchemy.dialects.postgresql import JSONB

from .config import BASE_URL
from .config import BONUS_CENTS
from .config import COOKIE
from .config import DAYS
from .config import MAX_AGE
from .config import SECRET_KEY
from .config import WINDOW
from .floor import ALPHABET


def create_app(url: str, *, in_session: bool = False) -> Flask:
    """Build it for a database.

    :param in_session: whether each request's user is loaded through ``db.session`` first.
    """
    app = Flask("orm")
    app.config.update(
        SECRET_KEY=SECRET_KEY,
        SQLALCHEMY_DATABASE_URI=url,
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1},
    )
    db = SQLAlchemy()
    serializer = URLSafeTimedSerializer(SECRET_KEY)

    class User(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "users"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.Text)
        created_at = sa.Column(sa.DateTime(timezone=True))

    class Code(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "referral_codes"
        id = sa.Column(sa.Uuid, primary_key=True, default=uuid.uuid4)
        user_id = sa.Column(sa.Integer)
        code = sa.Column(sa.Text)

    class Click(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "referral_clicks"
        id = sa.Column(sa.Uuid, primary_key=True, default=uuid.uuid4)
        referral_code = sa.Column(sa.Text)
        referrer_user_id = sa.Column(sa.Integer)
        referred_user_id = sa.Column(sa.Integer)
        clicked_at = sa.Column(sa.DateTime(timezone=True))
        user_agent = sa.Column(sa.Text)

    class Conversion(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "referral_conversions"
        id = sa.Column(sa.Uuid, primary_key=True, default=uuid.uuid4)
        referrer_user_id = sa.Column(sa.Integer)
        referred_user_id = sa.Column(sa.Integer)
        referral_code = sa.Column(sa.Text)
        whop_membership_id = sa.Column(sa.Text)
        bonus_cents = sa.Column(sa.Integer)
        converted_at = sa.Column(sa.DateTime(timezone=True))

    class Reward(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "referral_rewards"
        id = sa.Column(sa.Uuid, primary_key=True, default=uuid.uuid4)
        conversion_id = sa.Column(sa.Uuid)
        user_id = sa.Column(sa.Integer)
        referred_user_id = sa.Column(sa.Integer)
        role = sa.Column(sa.Text)
        provider = sa.Column(sa.Text)
        payment_id = sa.Column(sa.Text)
        membership_id = sa.Column(sa.Text)
        number = sa.Column(sa.Integer)
        cents = sa.Column(sa.Integer)
        reversed_cents = sa.Column(sa.Integer, default=0)
        status = sa.Column(sa.Text)
        credited_at = sa.Column(sa.DateTime(timezone=True))
        created_at = sa.Column(sa.DateTime(timezone=True))

    class Wallet(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "wallet_transactions"
        id = sa.Column(sa.BigInteger, sa.Identity(), primary_key=True)
        user_id = sa.Column(sa.Integer)
        amount_cents = sa.Column(sa.Integer)
        type = sa.Column(sa.Text)
        reference_type = sa.Column(sa.Text)
        reference_id = sa.Column(sa.Text)
        details = sa.Column("metadata", JSONB)

    db.init_app(app)

    def user_id() -> int:
        return int(request.headers["X-User"])

    @app.post("/api/referral/generate")
    def new_code() -> ResponseReturnValue:
        found = db.session.scalars(sa.select(Code).filter_by(user_id=user_id())).first()
        if found is None:
            found = Code(user_id=user_id(), code=generate(ALPHABET, 8))
            db.session.add(found)
            try:
                db.session.commit()
            except sa.exc.IntegrityError:
                db.session.rollback()
                found = db.session.scalars(sa.select(Code).filter_by(user_id=user_id())).one()
        return jsonify(code=found.code)

    @app.get("/r/<code>")
    def follow(code: str) -> ResponseReturnValue:
        response = t.cast(Response, redirect("/"))
        if COOKIE in request.cookies:
            try:
                seen = serializer.loads(request.cookies[COOKIE], max_age=WINDOW)
                if seen["code"] == code:
                    return response
            except BadSignature:
                pass
        found = db.session.scalars(sa.select(Code).filter_by(code=code)).first()
        if found is not None:
            click = Click(
                referral_code=code,
                referrer_user_id=found.user_id,
                clicked_at=dt.datetime.now(dt.UTC),
                user_agent=request.headers.get("User-Agent"),
            )
            db.session.add(click)
            db.session.flush()
            value = serializer.dumps({"code": code, "click": click.id.hex})
            db.session.commit()
            response.set_cookie(COOKIE, value, max_age=MAX_AGE, httponly=True, samesite="Lax")
        return response

    @app.post("/buy")
    def buy() -> ResponseReturnValue:
        payment, now = request.headers["X-Payment"], dt.datetime.now(dt.UTC)
        click = db.session.scalars(sa.select(Click).filter_by(referred_user_id=user_id())).first()
        if click is None:
            return jsonify(outcome="not_referred")
        known = db.session.scalars(sa.select(Conversion).filter_by(referred_user_id=user_id()))
        if known.first() is not None:
            return jsonify(outcome="already_converted")
        db.session.execute(
            sa.select(User).filter_by(id=click.referrer_user_id).with_for_update(key_share=True)
        )
        conversion = Conversion(
            referrer_user_id=click.referrer_user_id,
            referred_user_id=click.referred_user_id,
            referral_code=click.referral_code,
            whop_membership_id=payment,
            bonus_cents=BONUS_CENTS,
            converted_at=now,
        )
        db.session.add(conversion)
        db.session.flush()
        reward = Reward(
            id=conversion.id,
            conversion_id=conversion.id,
            user_id=click.referrer_user_id,
            referred_user_id=click.referred_user_id,
            role="referrer",
            provider="host",
            payment_id=payment,
            membership_id=payment,
            number=1,
            cents=BONUS_CENTS,
            status="credited",
            credited_at=now,
            created_at=now,
        )
        wallet = Wallet(
            user_id=click.referrer_user_id,
            amount_cents=BONUS_CENTS,
            type="referral_bonus",
            reference_type="referral_conversion",
            reference_id=str(conversion.id),
            details={"payment_id": payment},
        )
        db.session.add_all((reward, wallet))
        db.session.commit()
        return jsonify(outcome="converted")

    @app.get("/api/referral/stats")
    def stats() -> ResponseReturnValue:
        code = db.session.scalars(sa.select(Code).filter_by(user_id=user_id())).one()
        today = dt.datetime.now(dt.UTC).date()
        click_day = sa.cast(sa.func.timezone("UTC", Click.clicked_at), sa.Date)
        reward_day = sa.cast(sa.func.timezone("UTC", Reward.created_at), sa.Date)
        visits = {
            row[0]: row
            for row in db.session.execute(
                sa.select(click_day, sa.func.count(), sa.func.count(Click.referred_user_id))
                .where(Click.referrer_user_id == code.user_id)
                .group_by(click_day)
            )
        }
        rewards = {
            row[0]: row
            for row in db.session.execute(
                sa.select(
                    reward_day,
                    sa.func.count(),
                    sa.func.sum(Reward.cents),
                    sa.func.sum(Reward.reversed_cents),
                )
                .where(Reward.user_id == code.user_id)
                .group_by(reward_day)
            )
        }
        days = [today - dt.timedelta(days=n) for n in range(DAYS)][::-1]
        none = (None, 0, 0, 0)
        daily = [
            {
                "date": day.isoformat(),
                "clicks": visits.get(day, none)[1],
                "signups": visits.get(day, none)[2],
                "conversions": rewards.get(day, none)[1],
                "earned_cents": rewards.get(day, none)[2],
            }
            for day in days
        ]
        totals = {
            "clicks": sum(row[1] for row in visits.values()),
            "signups": sum(row[2] for row in visits.values()),
            "conversions": sum(row[1] for row in rewards.values()),
            "earned_cents": sum(row[2] for row in rewards.values()),
            "reversed_cents": sum(row[3] for row in rewards.values()),
        }
        link = f"{BASE_URL}/r/{code.code}"
        return jsonify(code=code.code, link=link, days=DAYS, totals=totals, daily=daily)

    @app.get("/")
    def page() -> str:
        return "A page of the host's."

    def log_in() -> None:
        if "X-User" in request.headers:
            db.session.get(User, user_id())

    if in_session:
        app.before_request(log_in)
    return app
