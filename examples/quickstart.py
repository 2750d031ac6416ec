"""A whole application in one file.

flask --app examples/quickstart.py run
curl -X POST -H "X-User: ada" http://127.0.0.1:5000/api/referral/generate
"""

from __future__ import annotations

from flask import Flask
from flask import request
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from flask_referral import Referral
from flask_referral import schema

db, migrate, referral = SQLAlchemy(), Migrate(), Referral()


class User(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(80), nullable=False, unique=True)
    created_at = db.Column(db.DateTime(timezone=True), server_default=db.func.now())


@referral.identity_loader
def current_user() -> User | None:
    """Trust a header, which a real application never does; use Flask-Login there."""
    name = request.headers.get("X-User", "")
    return db.session.scalar(db.select(User).filter_by(name=name))


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SECRET_KEY"] = "change me: it signs the cookie of a visit"
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///quickstart.db"
    db.init_app(app)
    migrate.init_app(app, db)
    referral.init_app(app, db, user_model=User)
    with app.app_context():
        User.__table__.create(db.engine, checkfirst=True)
        schema.upgrade()
        if db.session.scalar(db.select(User)) is None:
            db.session.add_all([User(name="ada"), User(name="bob")])
            db.session.commit()
    return app
