"""The referral program as a host sees it: how it is set up, and all that it can do."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing as t
import weakref

import sqlalchemy as sa
from flask import Blueprint
from flask import Flask
from flask import has_app_context
from flask.globals import app_ctx
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Session

from . import attribution
from . import cli
from . import clock
from . import codes
from . import disabled
from . import eligibility
from . import leaderboard
from . import outbox
from . import referrals
from . import vanity
from . import wallet
from .conversions import aliases
from .conversions import entities
from .conversions import reversals
from .conversions.convert import convert
from .conversions.payment import checked_payment
from .conversions.payment import HOST
from .conversions.payment import is_id
from .conversions.transaction import Transaction
from .db.building import bind_key_of
from .db.building import build_models
from .db.building import declare_wallet_index
from .db.entities import attach
from .db.models import Models
from .db.models import ReferralCodeMixin
from .db.models import table_of
from .errors import ConfigurationError
from .events import EVENTS
from .host import identity
from .host import json
from .host.awaiting import awaited
from .host.state import BotDetector
from .host.state import BuyerLoader
from .host.state import ConsentLoader
from .host.state import DisplayNameLoader
from .host.state import EXTENSION_KEY
from .host.state import IdentityLoader
from .host.state import Loaders
from .host.state import State
from .payments import retries
from .payments.events import WebhookReader
from .payments.providers import BUILT_IN
from .results import Attribution
from .results import ConversionResult
from .results import Invitation
from .results import LeaderboardEntry
from .results import Overview
from .results import ReferralEntry
from .results import ReversalResult
from .results import RewardPolicy
from .results import Stats
from .rls import acting as rls
from .settings import Settings
from .stats import DEFAULT_DAYS
from .web import api
from .web import auto
from .web import links
from .web import openapi
from .web import pages
from .web import reports
from .web import sign_ups
from .web import widgets

IdentityLoaderT = t.TypeVar("IdentityLoaderT", bound=IdentityLoader)
CodeCheckerT = t.TypeVar("CodeCheckerT", bound=vanity.CodeChecker)
DisplayNameLoaderT = t.TypeVar("DisplayNameLoaderT", bound=DisplayNameLoader)
ConsentLoaderT = t.TypeVar("ConsentLoaderT", bound=ConsentLoader)
BotDetectorT = t.TypeVar("BotDetectorT", bound=BotDetector)
AttributionCheckT = t.TypeVar("AttributionCheckT", bound=attribution.AttributionCheck)
BuyerLoaderT = t.TypeVar("BuyerLoaderT", bound=BuyerLoader)
HandlerT = t.TypeVar("HandlerT", bound=t.Callable[..., t.Any])
WebhookReaderT = t.TypeVar("WebhookReaderT", bound=WebhookReader)


class Referral:
    """The referral program of a Flask application.

    Its methods flush and never commit.

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
        for provider, reader in BUILT_IN.items():
            self.webhook(provider)(reader)
        #: The JSON API, mounted at ``REFERRAL_URL_PREFIX``.
        self.blueprint: Blueprint = api.create_blueprint()
        #: Share links, mounted at ``REFERRAL_LINK_PREFIX``, and ``?ref=`` on any page.
        self.links: Blueprint = links.create_blueprint()
        #: The referrer's page, mounted at ``REFERRAL_PAGE_PREFIX``.
        self.pages: Blueprint = pages.create_blueprint()
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
        if "REFERRAL_USER_CREATED_COLUMN" in app.config:
            _check_created_column(models, settings)
        with app.app_context():
            if models.bind_key not in db.engines:
                raise ConfigurationError(
                    f"The user model belongs to the database {models.bind_key!r}, which "
                    "SQLALCHEMY_BINDS does not name; add it there."
                )
            _check_dialect(db.engines[models.bind_key].dialect)
            _check_schemas(db.engines[models.bind_key])
            if settings.read_bind is not None:
                _check_read_bind(db, models, settings.read_bind)
        wallet_table = None if wallet_model is None else _wallet_table(db, models, wallet_model)
        policy = reward_policy or self._reward_policy
        self._states[app] = State(
            settings=settings,
            db=db,
            models=models,
            user_class=None if isinstance(user_model, sa.Table) else user_model,
            user_attribute=_attribute_of_key(user_model, models.user_key),
            wallet_table=wallet_table,
            loaders=self._loaders,
            reward_policy=None if policy is None else awaited(policy),
        )
        if settings.auto_attribute:
            auto.listen(user_model)
        json.teach(app.json)
        app.extensions[EXTENSION_KEY] = self
        app.cli.add_command(cli.referral)
        # Templates and no routes: the host's own pages have the widgets in any case.
        app.register_blueprint(widgets.create_blueprint())
        if self._register_blueprint if register_blueprint is None else register_blueprint:
            app.register_blueprint(self.blueprint, url_prefix=settings.url_prefix)
            app.register_blueprint(self.links, url_prefix=settings.link_prefix)
            app.register_blueprint(self.pages, url_prefix=settings.page_prefix)

    @property
    def state(self) -> State:
        """The current application's state.

        :raises ConfigurationError: outside an application context with several applications,
            or before ``init_app``.
        """
        if has_app_context():
            if (app := app_ctx.app) in self._states:
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

    def get_or_create_code(self, user: t.Any) -> ReferralCodeMixin:
        """Return the user's one generated code, made now if there was none.

        It never changes, and clicks and conversions refer to it; what the user shares may be
        another, see :meth:`set_code`.

        Flushes, never commits.

        :param user: a user object or a user id.
        :raises UnknownUser: where there is no such user.
        :raises CodeExhausted: where five codes in a row belonged to others.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        session = _flushed_session(state)
        db, reading = state.models.connection(session), rls.own_read(state, user_id)
        found = codes.get_or_create(db, state.models, user_id, reading=reading)
        outbox.announce(db, session, state.models, state.settings, *codes.told(found))
        return attach(session, state.models.ReferralCode, **found[0]._asdict())

    def set_code(self, user: t.Any, code: str) -> str:
        """Make a word the code that the user shares, and return it as it is stored.

        The codes that the user had before go on leading to the user. Flushes, never commits. It
        does so whatever ``REFERRAL_VANITY_CODES`` says, which is for what users do themselves and
        for links: without it nobody is led by a word.

        :param user: a user object or a user id.
        :param code: 3 to 32 letters from A to Z and digits; spaces and dashes are dropped.
        :raises CodeNotAllowed: for what is no code, a reserved or rude word, and what the function
            of :meth:`code_checker` refuses.
        :raises CodeTaken: for a code that somebody else has, or ever had.
        :raises UnknownUser: where there is no such user.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        session = _flushed_session(state)
        db, checker = state.models.connection(session), state.loaders.code_checker
        given = vanity.choose(db, state.models, state.settings, user_id, code, checker)
        outbox.announce(db, session, state.models, state.settings, *vanity.told(given))
        return given.code

    def rotate_code(self, user: t.Any) -> str:
        """Give the user a new generated code to share, and return it; the old ones go on working.

        Flushes, never commits.

        :param user: a user object or a user id.
        :raises UnknownUser: where there is no such user.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        session = _flushed_session(state)
        db = state.models.connection(session)
        given = vanity.rotate(db, state.models, user_id)
        outbox.announce(db, session, state.models, state.settings, *vanity.told(given))
        return given.code

    def disable(self, user: t.Any, *, reason: str) -> bool:
        """Switch a user's code off: links lead on without being counted, and nobody is bound.

        What people whom the user referred buy from now on earns nothing (``disabled``), for the
        payments of that time also later. What was earned stays. Flushes, never commits.

        :param user: a user object or a user id.
        :param reason: why, for operators; 1 to 500 characters. Of a user who is disabled already
            it takes the place of the one before.
        :return: whether the code was on.
        :raises ReferralError: where ``reason`` is empty or too long.
        :raises UnknownUser: where there is no such user.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        db = state.models.connection(_flushed_session(state))
        return disabled.disable(db, state.models, user_id, reason, clock.now())

    def enable(self, user: t.Any) -> bool:
        """Switch a user's code on again. Flushes, never commits.

        :param user: a user object or a user id.
        :return: whether the code was off.
        :raises UnknownUser: where there is no such user.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        db = state.models.connection(_flushed_session(state))
        return disabled.enable(db, state.models, user_id)

    def link_for(self, user: t.Any) -> str:
        """Return the user's share link, an absolute URL; a code is made if there was none.

        Its address is ``REFERRAL_BASE_URL``, else ``SERVER_NAME``, else the host of this request
        if ``TRUSTED_HOSTS`` vouches for it (or, while debugging and testing, if it is this
        machine). Flushes, never commits.

        :param user: a user object or a user id.
        :raises ConfigurationError: where none of them is known.
        """
        state = self.state
        links.check_base_url(state)
        own = self.get_or_create_code(user)
        db = state.models.connection(_flushed_session(state))
        return links.share_link(state, codes.shared(db, state.models, own.user_id) or own.code)

    def attribute(self, user: t.Any, code: str | None = None) -> Attribution:
        """Bind the visit that led to a sign-up, or a typed code, to the new user.

        The visit is this request's own, where its query brings a code, else the one in its cookie.
        The cookie stays: a second person may sign up on the same computer, and then gets a click
        of his own. Flushes, never commits.

        :param user: a user object or a user id.
        :param code: what the user typed, which goes before the visit, or what :meth:`carry`
            returned. An empty text is no code; any other that is no code is ``unknown_code``.
        :return: the outcome; see :class:`flask_referral.AttributionReason`. An account, and a
            payment, counts as older than the visit from one minute on, since clocks differ. A
            typed code has no visit: an account may be as old as the window, and no payment of it
            known. A payment is known where a webhook told of it, not where :meth:`convert` was
            called: of a user whom nobody referred that stores nothing.
        :raises UnknownUser: where there is no such user.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        session = _flushed_session(state)
        brought = sign_ups.brought(state, code)
        db = state.models.connection(session)
        outcome = sign_ups.bind(state, db, user_id, brought)
        outbox.announce(db, session, state.models, state.settings, *attribution.told(outcome))
        click = outcome.click and attach(
            session, state.models.ReferralClick, **outcome.click._asdict()
        )
        return Attribution(outcome.reason, click, outcome.referrer_id, outcome.code)

    def carry(self) -> str:
        """Return this request's visit as signed text, for a round trip that drops cookies.

        Put it into OAuth's ``state``, or keep it in the session, and hand it to
        :meth:`attribute` as ``code``. It reads the request.

        :return: about 100 characters that are safe in a URL; empty where there is no visit.
        """
        return sign_ups.carry(self.state)

    def convert(
        self,
        user: t.Any,
        membership_id: str,
        *,
        payment_id: str | None = None,
        provider: str = HOST,
        paid_cents: int | None = None,
        currency: str | None = None,
        bonus_cents: int | None = None,
        metadata: dict[str, t.Any] | None = None,
    ) -> ConversionResult:
        """Turn a payment of a referred user into its rewards and credits, exactly once.

        Flushes, never commits: it joins the transaction of the host's order, and both or
        neither are stored. Call it for each payment, renewals included.

        :param user: who bought; a user object or a user id.
        :param membership_id: the provider's id of what was bought; 1 to 255 printable characters.
        :param payment_id: the provider's id of this payment; default: the membership's. A host
            that receives the provider's webhooks too passes the provider's own id here, or the
            payment is paid for twice.
        :param provider: who named it; a payment is known by its provider and its id.
        :param paid_cents: what was paid, in the minor unit of ``currency`` (ISO 4217).
        :param currency: three letters; default: ``REFERRAL_CURRENCY``.
        :param bonus_cents: the referrer's bonus; default: what the ``reward_policy`` says, or
            ``REFERRAL_BONUS_CENTS``.
        :param metadata: kept with the conversion, as JSON; what databases refuse in texts is
            dropped.
        :raises UnknownUser: where ``user`` cannot be a user's id.
        :raises ReferralError: for a bonus, an amount or an id that cannot be stored; nothing has
            been asked of the database then.
        :raises WalletRefused: where a rule of the wallet's own refuses the credit.
        """
        state = self.state
        payment = checked_payment(
            membership_id=membership_id,
            payment_id=payment_id,
            provider=provider,
            paid_cents=paid_cents,
            currency=currency,
            metadata=metadata,
            wallet_currency=state.settings.currency,
        )
        tx = self._begin(state)
        if provider != HOST:
            payment = dataclasses.replace(payment, id=aliases.find(tx, provider, payment.id))
        outcome = convert(
            tx,
            identity.user_id(state, user),
            payment,
            policy=state.reward_policy,
            bonus_cents=bonus_cents,
            now=clock.now(),
        )
        return entities.conversion_result(tx, outcome)

    def reverse(
        self,
        membership_id: str,
        *,
        reason: str,
        payment_id: str | None = None,
        provider: str = HOST,
        refund_id: str | None = None,
        amount_cents: int | None = None,
    ) -> ReversalResult:
        """Take the bonus of a payment back, in whole or in part, exactly once for each refund.

        Flushes, never commits. A refund of an unknown payment is kept, and applied when the
        payment comes.

        :param membership_id: what :meth:`convert` was given.
        :param reason: why, for the record.
        :param payment_id: what :meth:`convert` was given; default: the payment of this membership
            that qualified.
        :param provider: what :meth:`convert` was given.
        :param refund_id: the provider's id of the refund; default: the payment's id. Needed where
            a payment is refunded in parts.
        :param amount_cents: how much of the referrer's bonus; default: what is left of it.
        :raises ReferralError: for an amount or an id that makes no sense, and for a second amount
            without a ``refund_id``.
        """
        tx = self._begin(self.state)
        if provider != HOST and is_id(payment_id):
            payment_id = aliases.find(tx, provider, payment_id)
        outcome = reversals.refund(
            tx,
            membership_id,
            reason=reason,
            payment_id=payment_id,
            provider=provider,
            refund_id=refund_id,
            amount_cents=amount_cents,
            now=clock.now(),
        )
        return entities.reversal_result(tx, outcome)

    def retry_deliveries(self, user: t.Any) -> dict[str, int]:
        """Handle once more what webhooks told of a user and what paid nothing then.

        Call it after :meth:`attribute`, for people who paid before they signed up: as guests,
        whom the provider's user loader finds now, or after their visit and before it was bound.
        Each payment earns once, whatever else retries it. Flushes, never commits.

        The line is drawn at the window: a payment that was told of more than
        ``REFERRAL_COOKIE_MAX_AGE`` before its buyer was bound to a referrer is an existing
        customer's, and earns nothing (``not_referred``), here and in ``flask referral events
        retry``. Of the purchases without a known buyer the newest 200 of the window are looked
        through, each with a call of the user loader; ``flask referral events retry --all`` from
        cron goes through all.

        :param user: a user object or a user id.
        :return: how many deliveries had which outcome, as ``{"converted": 1}``; ``failed`` are
            those whose error was logged, and which wait on.
        :raises UnknownUser: where ``user`` cannot be a user's id.
        """
        state = self.state
        return retries.of_user(state, identity.user_id(state, user))

    def _begin(self, state: State) -> Transaction:
        return Transaction.begin(
            state.db.session(), state.models, state.settings, state.wallet_table
        )

    def stats(self, user: t.Any, days: int = DEFAULT_DAYS) -> Stats:
        """Return what a user's code has brought: totals, and a series by day (UTC).

        A read: it makes no code, so ``code`` and ``link`` are None until there is one; ``link``
        is None too where the address of links is not known (see :meth:`link_for`). One
        statement, whatever the number of clicks; two where there is no code. What ``db.session``
        has not committed counts, unless ``REFERRAL_READ_BIND`` is set: then the figures are those
        of that database.

        :param user: a user object or a user id.
        :param days: how many days the series has, 1 to 366; today is the last.
        :raises UnknownUser: where there is no such user.
        :raises ReferralError: where ``days`` is out of bounds.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        _flushed_session(state)
        return Stats.of(reports.stats(state, user_id, days))

    def referrals(
        self, user: t.Any, limit: int = referrals.DEFAULT_LIMIT, before: str | None = None
    ) -> list[ReferralEntry]:
        """Return whom a user brought, newest first: when they signed up, and what they earned.

        Who somebody is, is the host's to tell: see :meth:`display_name_loader`. Accounts that are
        gone stay in the list. A read of one statement, whatever the number of referrals and
        payments; one more where there is a loader of names. ``REFERRAL_READ_BIND`` applies.

        :param user: a user object or a user id.
        :param limit: how many, 1 to 100.
        :param before: the ``cursor`` of the last entry that was seen.
        :raises UnknownUser: where there is no such user.
        :raises ReferralError: where ``limit`` or ``before`` is out of bounds.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        _flushed_session(state)
        return reports.referrals(state, user_id, limit, before).entries

    def leaderboard(
        self, days: int | None = None, limit: int = leaderboard.DEFAULT_LIMIT
    ) -> list[LeaderboardEntry]:
        """Return the referrers with the most conversions; of as many, who earned more goes first.

        A read of two statements. ``REFERRAL_READ_BIND`` applies.

        :param days: of how many days (UTC), 1 to 366, today included; None: of all time.
        :param limit: how many, 1 to 100.
        :raises ReferralError: where one of them is out of bounds.
        """
        state = self.state
        _flushed_session(state)
        return reports.leaderboard(state, days, limit)

    def overview(self, days: int = DEFAULT_DAYS) -> Overview:
        """Return what the whole program brought and cost: totals, by day (UTC), by origin.

        A read of three statements, cheap at any number of clicks where ``flask referral rollup``
        runs. ``REFERRAL_READ_BIND`` applies.

        :param days: how many days the series has, 1 to 366; today is the last.
        :raises ReferralError: where ``days`` is out of bounds.
        """
        state = self.state
        _flushed_session(state)
        return reports.overview(state, days)

    def invitation(self) -> Invitation | None:
        """Return who invited this visitor, for landing and sign-up pages, or None.

        It reads the request: the visit that it is, or the one in its cookie while that counts.
        The visitor's own code is no invitation. At most two statements; it stores nothing.
        """
        return sign_ups.invitation(self.state)

    def openapi(self) -> dict[str, t.Any]:
        """Return the OpenAPI 3.1 document of the JSON API, which a host may merge into its own.

        It is what ``GET <REFERRAL_URL_PREFIX>/openapi.json`` answers: the routes as they are
        mounted, the webhooks that are set up, and every error with its ``code``. The paths begin at
        the application; ``servers`` has the path that it is itself mounted below: this request's,
        else ``APPLICATION_ROOT``. How users log in is the host's to say: operations that need it
        name no ``security``, so that the host's own, for the whole document, holds for them; all
        others name theirs, or that they need none.

        :return: a new dict of plain values each time, the caller's own.
        :raises ConfigurationError: where :attr:`blueprint` is not registered.
        """
        name = openapi.name_of(self.blueprint)
        return openapi.document(openapi.mounted(self.state, name, api.ROUTES))

    def acting_as(self, user: t.Any) -> contextlib.AbstractContextManager[None]:
        """Put ``db.session`` under the row level security of one user, for reading.

        Inside the block the session sees that user's rows of the referral tables and nothing
        else, whatever is committed, rolled back or raised in it. Blocks nest. Pending changes
        are flushed on entry, before the security applies. Only this session is bound: not
        connections of your own, nor the one that follows a ``db.session.remove()``.

        :param user: a user object or a user id.
        :raises RowSecurityUnavailable: on SQLite, in AUTOCOMMIT, without ``REFERRAL_RLS_ROLE``,
            where the connection may not take that role, or where no policy binds it.
        """
        state = self.state
        user_id = identity.user_id(state, user)
        return rls.acting_as(state.db.session(), state.models, state.settings, user_id)

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

    def display_name_loader(self, function: DisplayNameLoaderT) -> DisplayNameLoaderT:
        """Name the function that says what others may call a user.

        It takes the user's key and returns a name or None. What it returns is shown to whoever
        referred that user, to visitors who follow the user's link, and in the leaderboard: a first
        name or a nickname. Without it nobody has a name.
        """
        self._loaders.display_name = function
        return function

    def code_checker(self, function: CodeCheckerT) -> CodeCheckerT:
        """Name the function that may refuse a code that a user chooses.

        It takes the code, in capitals, and the user's key. Where it returns anything false the
        code is not allowed.
        """
        self._loaders.code_checker = function
        return function

    def attribution_check(self, function: AttributionCheckT) -> AttributionCheckT:
        """Name the function that may refuse to bind a new user: the same card, the same device.

        It takes the user's key, the referrer's key and the code, and is asked last, in the
        transaction of the sign-up, when nothing else speaks against it. Where it returns anything
        false the answer of :meth:`attribute` is ``refused``; what it raises, that method raises.
        The last refusal of a user is kept in ``referral_events`` (kind ``attribution``).
        """
        self._loaders.attribution_check = function
        return function

    def whop_user_loader(self, function: BuyerLoaderT) -> BuyerLoaderT:
        """Name the function that finds the buyer of a Whop event; see :meth:`user_loader`.

        It takes the event's payload (a dict; numbers with a point are ``Decimal``) and returns a
        user, a user's id, or None. Without it the id is ``user_id`` in the checkout's metadata.
        """
        self._loaders.users["whop"] = awaited(function)
        return function

    def stripe_user_loader(self, function: BuyerLoaderT) -> BuyerLoaderT:
        """Name the function that finds the buyer of a Stripe event; see :meth:`user_loader`.

        It takes the event (a dict) of a checkout or an invoice that was paid, whose object is
        ``payload["data"]["object"]``, and returns a user, a user's id, or None. Without it the id
        is ``user_id`` in the metadata, or the checkout's ``client_reference_id``.
        """
        self._loaders.users["stripe"] = awaited(function)
        return function

    def user_loader(self, provider: str) -> t.Callable[[BuyerLoaderT], BuyerLoaderT]:
        """Name the function that finds the buyer of another provider's purchases.

        It takes the ``payload`` of the event that the function of :meth:`webhook` returned, and
        returns a user, a user's id, or None. It is asked again, as those of the built-in providers
        are, when a delivery is handled once more; then it gets what was kept of the payload, at
        the same places: ids, and metadata without e-mails, names, addresses and cards
        (:mod:`flask_referral.payments.kept`). So find buyers by the provider's id of them or by
        metadata, and read all else with ``.get()``.

        :param provider: what :meth:`webhook` was given.
        :raises ConfigurationError: for a built-in provider, which has a loader of its own.
        """
        if provider in BUILT_IN:
            raise ConfigurationError(
                f"The buyers of {provider!r} are found by the function of "
                f"@referral.{provider}_user_loader; use that."
            )

        def register(function: BuyerLoaderT) -> BuyerLoaderT:
            self._loaders.users[provider] = awaited(function)
            return function

        return register

    def on(self, event: str) -> t.Callable[[HandlerT], HandlerT]:
        """Name a function that ``flask referral deliver`` calls with each event of a name.

        It takes an :class:`flask_referral.OutboxEvent`, runs in an application context of its
        own, with a ``db.session`` that it commits itself, and may be called more than once for
        one event: where it raised something, or where the deliverer died. Needs
        ``REFERRAL_OUTBOX``.

        :param event: a name of :mod:`flask_referral.events`, as ``conversion_credited``.
        :raises ConfigurationError: for another name, one that is not in the outbox, and a function
            whose name another one has.
        """
        known = EVENTS.get(event)
        if known is None or not known.is_kept:
            names = ", ".join(name for name, each in EVENTS.items() if each.is_kept)
            raise ConfigurationError(f"The outbox has no event {event!r}; it has {names}.")

        def register(function: HandlerT) -> HandlerT:
            handlers = self._loaders.handlers.setdefault(event, {})
            name = f"{function.__module__}.{function.__qualname__}"
            if name in handlers:
                raise ConfigurationError(
                    f"{name} is called for {event!r} already, and by its name is known who was "
                    "told; give this function another one."
                )
            handlers[name] = awaited(function)
            return function

        return register

    def webhook(self, provider: str) -> t.Callable[[WebhookReaderT], WebhookReaderT]:
        """Name the function that reads another provider's webhooks.

        Deliveries go to ``POST <REFERRAL_URL_PREFIX>/webhooks/<provider>``. The function takes
        the raw body (at most 256 KiB) and the headers, checks the signature, and returns a
        :class:`flask_referral.WebhookEvent`; it raises
        :class:`flask_referral.InvalidSignature` (answered with 401) or
        :class:`flask_referral.InvalidEvent` (400).

        :param provider: a word of lower-case letters, digits and dashes.
        :raises ConfigurationError: for another word, or one that is taken.
        """
        taken = (HOST, *self._loaders.webhooks)
        if not re.fullmatch("[a-z0-9-]{1,64}", provider) or provider in taken:
            raise ConfigurationError(
                f"{provider!r} cannot be a webhook's provider: choose a word of lower-case "
                "letters, digits and dashes that has no webhook yet."
            )

        def register(function: WebhookReaderT) -> WebhookReaderT:
            self._loaders.webhooks[provider] = awaited(function)
            return function

        return register


def _flushed_session(state: State) -> Session:
    """Return ``db.session``, whose own connection then sees what the host has pending."""
    session: Session = state.db.session()
    session.flush()
    return session


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


def _check_created_column(models: Models, settings: Settings) -> None:
    name, key = settings.user_created_column, models.user_key
    if name is not None and eligibility.created_column(key, name) is None:
        raise ConfigurationError(
            f"REFERRAL_USER_CREATED_COLUMN names {name!r}, and the user table "
            f"{key.table.fullname!r} declares no such column of type DateTime: correct the name, "
            "add the column to the user model, or set None, which lets accounts of any age be "
            "referred."
        )


def _check_schemas(engine: sa.Engine) -> None:
    # The catalogue, the migrations and row level security are asked by name, unmapped.
    if engine.get_execution_options().get("schema_translate_map"):
        raise ConfigurationError(
            "flask-referral cannot follow a schema_translate_map of the engine; name the schema in "
            "the models, as in SQLAlchemy(metadata=MetaData(schema=...)), or in the connection's "
            "search_path."
        )


def _check_read_bind(db: SQLAlchemy, models: Models, read_bind: str) -> None:
    copied, engine = db.engines[models.bind_key], db.engines.get(read_bind)
    if engine is None:
        raise ConfigurationError(
            f"REFERRAL_READ_BIND names the database {read_bind!r}, which SQLALCHEMY_BINDS does not "
            "name; add it there."
        )
    if read_bind == models.bind_key or engine.dialect.name != copied.dialect.name:
        raise ConfigurationError(
            f"REFERRAL_READ_BIND names the database {read_bind!r}, which is no replica of the "
            f"users' database {models.bind_key or 'default'!r}: name another of the same kind "
            f"({copied.dialect.name}), or leave REFERRAL_READ_BIND out."
        )
    _check_schemas(engine)


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
    reference: t.Any = wallet.columns_of(table)["reference_id"].type
    if isinstance(reference, sa.Integer) or (getattr(reference, "length", None) or 36) < 36:
        raise ConfigurationError(
            f"The column reference_id of the wallet table {table.fullname!r} cannot hold the id of "
            "a reward, which is a UUID; make it a UUID, or text of 36 characters or more."
        )
    declare_wallet_index(table)
    return table


def _attribute_of_key(user_model: t.Any, key: sa.Column[t.Any]) -> str:
    if isinstance(user_model, sa.Table):
        return str(key.key)
    return str(sa.inspect(user_model).get_property_by_column(key).key)
