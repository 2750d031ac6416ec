"""The extension object's wiring; what it does is in :mod:`flask_referral.program`."""

from __future__ import annotations

import re
import typing as t
import weakref

import sqlalchemy as sa
from flask import Blueprint
from flask import current_app
from flask import Flask
from flask import has_app_context
from flask_sqlalchemy import SQLAlchemy

from . import cli
from . import wallet
from .conversions.payment import HOST
from .db.models import bind_key_of
from .db.models import build_models
from .db.models import declare_wallet_index
from .db.models import Models
from .db.models import table_of
from .errors import ConfigurationError
from .host.state import BotDetector
from .host.state import ConsentLoader
from .host.state import EXTENSION_KEY
from .host.state import IdentityLoader
from .host.state import Loaders
from .host.state import State
from .host.state import WhopUserLoader
from .payments.handling import WebhookReader
from .program import Program
from .results import RewardPolicy
from .settings import Settings
from .web import api
from .web import auto
from .web import links

IdentityLoaderT = t.TypeVar("IdentityLoaderT", bound=IdentityLoader)
ConsentLoaderT = t.TypeVar("ConsentLoaderT", bound=ConsentLoader)
BotDetectorT = t.TypeVar("BotDetectorT", bound=BotDetector)
WhopUserLoaderT = t.TypeVar("WhopUserLoaderT", bound=WhopUserLoader)
WebhookReaderT = t.TypeVar("WebhookReaderT", bound=WebhookReader)


class Referral(Program):
    """The referral program of a Flask application.

    :param app: the application; leave it out and call :meth:`init_app` in a factory.
    :param db: the host's :class:`flask_sqlalchemy.SQLAlchemy` object.
    :param user_model: the host's user class, or a :class:`sqlalchemy.Table`.
    :param wallet_model: the host's ``wallet_transactions``, as a class or a table. Without it
        conversions are recorded and nothing is credited.
    :param register_blueprint: whether ``init_app`` registers the blueprints; a host that says
        False registers the ones it wants itself.
    :param reward_policy: decides what a conversion is worth: takes a
        :class:`~flask_referral.results.Purchase` and returns the bonus in cents or a
        :class:`~flask_referral.results.Reward`. Default: ``REFERRAL_BONUS_CENTS``.
    """

    def __init__(
        self,
        app: Flask | None = None,
        db: SQLAlchemy | None = None,
        *,
        user_model: t.Any = None,
        wallet_model: t.Any = None,
        register_blueprint: bool = True,
        reward_policy: RewardPolicy | None = None,
    ) -> None:
        self._db = db
        self._user_model = user_model
        self._wallet_model = wallet_model
        self._register_blueprint = register_blueprint
        self._reward_policy = reward_policy
        self._states: weakref.WeakKeyDictionary[Flask, State] = weakref.WeakKeyDictionary()
        self._loaders = Loaders()
        #: The JSON API, mounted at ``REFERRAL_URL_PREFIX``.
        self.blueprint: Blueprint = api.create_blueprint()
        #: Share links, mounted at ``REFERRAL_LINK_PREFIX``, and ``?ref=`` on any page.
        self.links: Blueprint = links.create_blueprint()
        if app is not None:
            self.init_app(app)

    def init_app(
        self,
        app: Flask,
        db: SQLAlchemy | None = None,
        *,
        user_model: t.Any = None,
        wallet_model: t.Any = None,
        register_blueprint: bool | None = None,
        reward_policy: RewardPolicy | None = None,
    ) -> None:
        """Set up one application; each argument falls back to the constructor's.

        :raises ConfigurationError: for a setting, a model or a database that cannot work; the
            message names the cure.
        """
        if EXTENSION_KEY in app.extensions:
            raise ConfigurationError(
                "A Referral object has already been registered on this Flask application; "
                "import and use that object instead of calling init_app again."
            )
        settings = Settings.from_config(app.config, debug=app.debug)
        registered: SQLAlchemy | None = app.extensions.get("sqlalchemy")
        db = db or self._db or registered
        if db is None or db is not registered:
            raise ConfigurationError(
                "flask-referral needs the database first: call db.init_app(app) before "
                "referral.init_app(app, db, user_model=User)."
            )
        user_model = user_model if user_model is not None else self._user_model
        if user_model is None:
            raise ConfigurationError(
                "flask-referral needs to know the users: pass user_model=User to Referral() or "
                "init_app()."
            )
        wallet_model = wallet_model if wallet_model is not None else self._wallet_model
        models = build_models(db, user_model)
        with app.app_context():
            if models.bind_key not in db.engines:
                raise ConfigurationError(
                    f"The user model belongs to the database {models.bind_key!r}, which "
                    "SQLALCHEMY_BINDS does not name; add it there."
                )
            _check_dialect(db.engines[models.bind_key].dialect)
        wallet_table = None if wallet_model is None else _wallet_table(db, models, wallet_model)
        self._states[app] = State(
            settings=settings,
            db=db,
            models=models,
            user_class=None if isinstance(user_model, sa.Table) else user_model,
            user_attribute=_attribute_of_key(user_model, models.user_key),
            wallet_table=wallet_table,
            loaders=self._loaders,
            reward_policy=reward_policy or self._reward_policy,
        )
        if settings.auto_attribute:
            auto.listen(user_model)
        app.extensions[EXTENSION_KEY] = self
        app.cli.add_command(cli.referral)
        if self._register_blueprint if register_blueprint is None else register_blueprint:
            app.register_blueprint(self.blueprint, url_prefix=settings.url_prefix)
            app.register_blueprint(self.links, url_prefix=settings.link_prefix)

    @property
    def state(self) -> State:
        """The current application's state.

        :raises ConfigurationError: outside an application context with several applications,
            or before ``init_app``.
        """
        if has_app_context():
            app = current_app._get_current_object()  # type: ignore[attr-defined]
            if app in self._states:
                return self._states[app]
            raise ConfigurationError(
                "This Referral object does not know the current application; call "
                "referral.init_app(app, db, user_model=User) first."
            )
        states = list(self._states.values())
        if len({id(state.models) for state in states}) != 1:
            raise ConfigurationError(
                "flask-referral needs an application here; did you forget to call init_app(), "
                "or to push an application context with app.app_context()?"
            )
        return states[0]

    @property
    def models(self) -> Models:
        """The mapped classes: ``ReferralCode``, ``ReferralClick``, ``ReferralConversion``."""
        return self.state.models

    @property
    def settings(self) -> Settings:
        """The current application's settings."""
        return self.state.settings

    @property
    def user_key(self) -> sa.Column[t.Any]:
        """The key of the host's users; the migrations read it."""
        return self.state.models.user_key

    @property
    def wallet_table(self) -> sa.Table | None:
        """The host's ``wallet_transactions``, or None; the migrations read it."""
        return self.state.wallet_table

    def identity_loader(self, function: IdentityLoaderT) -> IdentityLoaderT:
        """Name the function that returns the current user, the user's id, or None."""
        self._loaders.identity = function
        return function

    def consent_loader(self, function: ConsentLoaderT) -> ConsentLoaderT:
        """Name the function that says whether this visitor agreed to be remembered.

        Without it everybody did. A visitor who did not leaves no row and gets no cookie.
        """
        self._loaders.consent = function
        return function

    def bot_detector(self, function: BotDetectorT) -> BotDetectorT:
        """Name the function that says whether a ``User-Agent`` header is a program's.

        It replaces :func:`flask_referral.web.bots.is_bot`.
        """
        self._loaders.bot_detector = function
        return function

    def whop_user_loader(self, function: WhopUserLoaderT) -> WhopUserLoaderT:
        """Name the function that finds the buyer of a Whop event.

        It takes the event's payload (a dict; numbers with a point are ``Decimal``) and returns a
        user, a user's id, or None. Without it the id is ``user_id`` in the checkout's metadata.
        """
        self._loaders.whop_user = function
        return function

    def webhook(self, provider: str) -> t.Callable[[WebhookReaderT], WebhookReaderT]:
        """Name the function that reads another provider's webhooks.

        Deliveries go to ``POST <REFERRAL_URL_PREFIX>/webhooks/<provider>``. The function takes
        the raw body (at most 256 KiB) and the headers, checks the signature, and returns a
        :class:`~flask_referral.webhooks.WebhookEvent`; it raises
        :class:`~flask_referral.errors.InvalidSignature` (answered with 401) or
        :class:`~flask_referral.errors.InvalidEvent` (400).

        :param provider: a word of lower-case letters, digits and dashes.
        :raises ConfigurationError: for another word, or one that is taken.
        """
        if not re.fullmatch("[a-z0-9-]{1,64}", provider) or provider in (
            HOST,
            "whop",
            *self._loaders.webhooks,
        ):
            raise ConfigurationError(
                f"{provider!r} cannot be a webhook's provider: choose a word of lower-case "
                "letters, digits and dashes that has no webhook yet."
            )

        def register(function: WebhookReaderT) -> WebhookReaderT:
            self._loaders.webhooks[provider] = function
            return function

        return register


def _check_dialect(dialect: sa.Dialect) -> None:
    if dialect.name not in ("postgresql", "sqlite"):
        raise ConfigurationError(
            f"flask-referral works with PostgreSQL 13+ and SQLite 3.35+, not with "
            f"{dialect.name!r}; set SQLALCHEMY_DATABASE_URI to one of them."
        )
    if dialect.name == "sqlite":
        import sqlite3

        if sqlite3.sqlite_version_info < (3, 35):
            raise ConfigurationError(
                f"flask-referral needs SQLite 3.35 or newer, and this Python has "
                f"{sqlite3.sqlite_version}; install a newer Python or use PostgreSQL."
            )


def _wallet_table(db: SQLAlchemy, models: Models, wallet_model: t.Any) -> sa.Table:
    table = table_of(wallet_model, "wallet_model")
    bind_key = bind_key_of(db, table)
    if bind_key != models.bind_key:
        raise ConfigurationError(
            f"The wallet table {table.fullname!r} is in the database {bind_key or 'default'!r} and "
            f"the users in {models.bind_key or 'default'!r}, but a bonus and its purchase are "
            "stored in one transaction; put both into one database (__bind_key__)."
        )
    missing = set(wallet.COLUMNS) - {column.name for column in table.columns}
    if missing:
        raise ConfigurationError(
            f"The wallet table {table.fullname!r} has no column {', '.join(sorted(missing))}; "
            "wallet_model has to be the host's wallet_transactions."
        )
    declare_wallet_index(table)
    return table


def _attribute_of_key(user_model: t.Any, key: sa.Column[t.Any]) -> str:
    if isinstance(user_model, sa.Table):
        return str(key.key)
    return str(sa.inspect(user_model).get_property_by_column(key).key)
