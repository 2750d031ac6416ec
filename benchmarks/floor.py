"""The same work with the same guarantees, by hand: bare Flask, psycopg2 and SQL.

One connection for each process, one prepared answer to each question. What the package promises
is promised here too: codes and clicks are unique in the database, a click's id is derived, the
cookie is signed, a payment is claimed before anything is written, the wallet is locked before the
balance is computed, and all of a conversion is one transaction.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import time
import typing as t
import uuid

import psycopg2
import psycopg2.extensions
import sqlalchemy as sa
from flask import Flask
from flask import jsonify
from flask import redirect
from flask import request
from flask import Response
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from itsdangerous import BadSignature
from itsdangerous import Signer
from nanoid import generate

from .config import BASE_URL
from .config import BONUS_CENTS
from .config import COOKIE
from .config import DAYS
from .config import MAX_AGE
from .config import SECRET_KEY
from .config import WINDOW
from .database import dsn

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"

_CLICK = """
INSERT INTO referral_clicks
    (id, referral_code, referrer_user_id, clicked_at, referrer_url, user_agent)
SELECT %s, code, user_id, %s, %s, %s FROM referral_codes WHERE code = %s
ON CONFLICT (id) DO NOTHING RETURNING referrer_user_id
"""
_LOOK = """
SELECT click.referrer_user_id, click.referral_code,
       (SELECT id FROM referral_conversions WHERE referred_user_id = click.referred_user_id),
       (SELECT outcome FROM referral_events
        WHERE provider = 'host' AND kind = 'payment' AND event_id = %s),
       (SELECT max(number) FROM referral_rewards
        WHERE referred_user_id = click.referred_user_id AND status NOT IN ('reversed', 'void'))
FROM referral_clicks AS click WHERE click.referred_user_id = %s
"""
# The payment before the wallet; the last of the statements is the lock.
_CLAIM = """
INSERT INTO referral_events (provider, kind, event_id, payment_id, membership_id, outcome)
VALUES ('host', 'membership', %(payment)s, NULL, %(payment)s, 'known'),
       ('host', 'payment', %(payment)s, %(payment)s, %(payment)s, %(outcome)s)
ON CONFLICT (provider, kind, event_id) DO UPDATE SET outcome = referral_events.outcome;
SELECT 1 FROM users WHERE id = %(referrer)s FOR NO KEY UPDATE
"""
_CONVERT = """
WITH bound AS (
    SELECT click.referrer_user_id, click.referred_user_id, click.referral_code
    FROM referral_codes AS code
    JOIN LATERAL (SELECT * FROM referral_clicks
                  WHERE referral_code = code.code AND referred_user_id = %(referred)s
                  FOR NO KEY UPDATE) AS click ON true
    WHERE code.code = %(code)s
      AND EXISTS (SELECT FROM referral_events
                  WHERE provider = 'host' AND kind = 'payment' AND event_id = %(payment)s
                    AND outcome = %(outcome)s)
    FOR KEY SHARE OF code
), conversion AS (
    INSERT INTO referral_conversions (id, referrer_user_id, referred_user_id, referral_code,
                                      whop_membership_id, bonus_cents, converted_at)
    SELECT %(id)s, referrer_user_id, referred_user_id, referral_code, %(payment)s, %(cents)s,
           %(now)s
    FROM bound ON CONFLICT DO NOTHING RETURNING id
), reward AS (
    INSERT INTO referral_rewards (id, conversion_id, user_id, referred_user_id, role, provider,
                                  payment_id, membership_id, number, cents, status, credited_at,
                                  created_at)
    SELECT conversion.id, conversion.id, referrer_user_id, referred_user_id, 'referrer', 'host',
           %(payment)s, %(payment)s, 1, %(cents)s, 'credited', %(now)s, %(now)s
    FROM bound, conversion RETURNING id, user_id, cents
)
INSERT INTO wallet_transactions (user_id, amount_cents, type, reference_type, reference_id,
                                 description, metadata, created_at)
SELECT user_id, cents, 'referral_bonus', 'referral_conversion', id::text, 'Referral bonus',
       %(metadata)s, clock_timestamp()
FROM reward RETURNING id
"""
_STATS = """
WITH own AS (
    SELECT clicked_at, referred_user_id FROM referral_clicks WHERE referrer_user_id = %(user)s
), daily AS (
    SELECT (clicked_at AT TIME ZONE 'UTC')::date AS day, count(*) AS clicks,
           count(referred_user_id) AS signups
    FROM own GROUP BY 1
), earned AS (
    SELECT (created_at AT TIME ZONE 'UTC')::date AS day,
           count(*) FILTER (WHERE number = 1 AND status <> 'void') AS conversions,
           coalesce(sum(cents) FILTER (WHERE status IN ('credited', 'reversed')), 0) AS earned,
           coalesce(sum(cents - reversed_cents) FILTER (WHERE status IN ('pending', 'held')), 0)
               AS pending,
           coalesce(sum(reversed_cents) FILTER (WHERE status IN ('credited', 'reversed')), 0)
               AS reversed
    FROM referral_rewards WHERE user_id = %(user)s AND role = 'referrer' GROUP BY 1
)
SELECT code.code,
       (SELECT json_build_array(coalesce(sum(clicks), 0), coalesce(sum(signups), 0)) FROM daily),
       (SELECT json_build_array(coalesce(sum(conversions), 0), coalesce(sum(earned), 0),
                                coalesce(sum(pending), 0), coalesce(sum(reversed), 0)) FROM earned),
       (SELECT json_agg(json_build_object(
            'date', day, 'clicks', coalesce(daily.clicks, 0),
            'signups', coalesce(daily.signups, 0),
            'conversions', coalesce(earned.conversions, 0),
            'earned_cents', coalesce(earned.earned, 0)) ORDER BY day)
        FROM (SELECT %(today)s::date - n AS day FROM generate_series(0, %(days)s - 1) AS n) AS days
        LEFT JOIN daily USING (day) LEFT JOIN earned USING (day))
FROM referral_codes AS code WHERE code.user_id = %(user)s
"""


def create_app(url: str, *, in_session: bool = False) -> Flask:
    """Build it for a database.

    :param in_session: whether each request's user is loaded through Flask-SQLAlchemy's session
        first, as Flask-Login does; everything else then goes over the session's connection.
    """
    app = Flask("floor")
    app.secret_key = SECRET_KEY
    db = SQLAlchemy()
    users = sa.Table("users", db.metadata, sa.Column("id", sa.Integer, primary_key=True))
    if in_session:
        app.config["SQLALCHEMY_DATABASE_URI"] = url
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 1}
        db.init_app(app)
    signer = Signer(SECRET_KEY, b"visit", key_derivation="hmac", digest_method=hashlib.sha256)
    click_key = hmac.digest(SECRET_KEY.encode(), b"click id", "sha256")
    open_connections: list[psycopg2.extensions.connection] = []

    def connection() -> t.Any:
        if in_session:
            return db.session.connection().connection
        # Opened by the process that uses it.
        if not open_connections:
            made = psycopg2.connect(dsn(url))
            made.autocommit = True
            psycopg2.extensions.register_type(psycopg2.extensions.UNICODE, made)
            open_connections.append(made)
        return open_connections[0]

    def first(sql: str, parameters: t.Any) -> t.Any:
        cursor = connection().cursor()
        cursor.execute(sql, parameters)
        found = cursor.fetchone()
        cursor.close()
        return found

    @app.post("/api/referral/generate")
    def new_code() -> ResponseReturnValue:
        user = int(request.headers["X-User"])
        row = first("SELECT code FROM referral_codes WHERE user_id = %s", (user,))
        for _ in range(5):
            if row is not None:
                break
            row = first(
                "INSERT INTO referral_codes (user_id, code) VALUES (%s, %s) "
                "ON CONFLICT DO NOTHING RETURNING code",
                (user, generate(ALPHABET, 8)),
            ) or first("SELECT code FROM referral_codes WHERE user_id = %s", (user,))
        if in_session:
            db.session.commit()
        return _no_store(jsonify(code=row[0]))

    @app.get("/r/<code>")
    def follow(code: str) -> ResponseReturnValue:
        response = t.cast(Response, redirect("/"))
        now = time.time()
        bucket = int(now) // WINDOW
        remembered = request.cookies.get(COOKIE)
        if remembered is not None:
            try:
                _, seen, _, seconds = signer.unsign(remembered).decode().split(".")
                if seen == code and int(seconds) // WINDOW == bucket:
                    return _private(response)
            except (BadSignature, ValueError):
                pass
        agent = request.headers.get("User-Agent", "")[:256]
        message = f"{bucket}|{code}|{request.remote_addr}|{agent}".encode()
        tail = hmac.digest(click_key, message, "sha256")[:10]
        number = int.from_bytes((bucket * WINDOW * 1000).to_bytes(6, "big") + tail, "big")
        number = number & ~(0xF << 76) | 8 << 76
        click_id = uuid.UUID(int=number & ~(0x3 << 62) | 0x2 << 62)
        at = dt.datetime.fromtimestamp(now, dt.UTC)
        row = first(_CLICK, (str(click_id), at, None, agent, code))
        if row is not None:
            value = signer.sign(f"1.{code}.{click_id.hex}.{int(now)}").decode()
            response.set_cookie(
                COOKIE, value, max_age=MAX_AGE, secure=True, httponly=True, samesite="Lax"
            )
        return _private(response)

    @app.post("/buy")
    def buy() -> ResponseReturnValue:
        user, payment = int(request.headers["X-User"]), request.headers["X-Payment"]
        row = first(_LOOK, (payment, user))
        if row is None:
            return jsonify(outcome="not_referred")
        referrer, code, conversion, outcome, number = row
        if conversion is not None or number or (outcome or "").startswith("rewarded:"):
            return jsonify(outcome="already_converted")
        id = str(uuid.uuid4())
        outcome = f"rewarded:{id}"
        values = {
            "id": id,
            "payment": payment,
            "outcome": outcome,
            "referrer": referrer,
            "referred": user,
            "code": code,
            "cents": BONUS_CENTS,
            "now": dt.datetime.now(dt.UTC),
            "metadata": json.dumps({"payment_id": payment}),
        }
        with connection().cursor() as cursor:
            try:
                # The session has begun its transaction by itself.
                cursor.execute(_CLAIM if in_session else f"BEGIN; {_CLAIM}", values)
                cursor.execute(_CONVERT, values)
                stored = cursor.fetchone() is not None
                if not in_session:
                    cursor.execute("COMMIT" if stored else "ROLLBACK")
            except psycopg2.Error:
                if not in_session:
                    cursor.execute("ROLLBACK")
                raise
        if in_session:
            db.session.commit() if stored else db.session.rollback()
        return jsonify(outcome="converted" if stored else "already_converted")

    @app.get("/api/referral/stats")
    def stats() -> ResponseReturnValue:
        user = int(request.headers["X-User"])
        today = dt.datetime.now(dt.UTC).date()
        code, visits, money, daily = first(_STATS, {"user": user, "today": today, "days": DAYS})
        totals = {
            "clicks": visits[0],
            "signups": visits[1],
            "conversions": money[0],
            "earned_cents": money[1],
            "pending_cents": money[2],
            "reversed_cents": money[3],
        }
        return _no_store(
            jsonify(code=code, link=f"{BASE_URL}/r/{code}", days=DAYS, totals=totals, daily=daily)
        )

    @app.get("/")
    def page() -> str:
        return "A page of the host's."

    def log_in() -> None:
        user = request.headers.get("X-User")
        if user is not None:
            db.session.execute(sa.select(users).where(users.c.id == int(user))).first()

    if in_session:
        app.before_request(log_in)
    return app


def _no_store(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response


def _private(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "strict-origin-when-cross-origin"
    response.headers["X-Robots-Tag"] = "noindex"
    response.vary.add("Cookie")
    return response
