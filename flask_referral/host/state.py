"""What one application gave to ``init_app``."""

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

import sqlalchemy as sa
from flask import current_app
from flask_sqlalchemy import SQLAlchemy

from ..attribution import AttributionCheck
from ..db import sql
from ..db.models import Models
from ..errors import ConfigurationError
from ..results import RewardPolicy
from ..settings import Settings
from ..vanity import CodeChecker
from .awaiting import awaited

EXTENSION_KEY = "referral"

IdentityLoader = t.Callable[[], t.Any]
ConsentLoader = t.Callable[[], bool]
BotDetector = t.Callable[[str], bool]
#: Takes a user's key.
DisplayNameLoader = t.Callable[[t.Any], "str | None"]
#: Takes the raw body and the headers; see :meth:`flask_referral.Referral.webhook`.
WebhookReader = t.Callable[[bytes, t.Any], t.Any]
#: Takes the payload of an event that tells of a purchase.
BuyerLoader = t.Callable[[dict[str, t.Any]], t.Any]


@dataclasses.dataclass
class Loaders:
    """The functions that a host names with the decorators of :class:`Referral`.

    Each is kept so that it may be an ``async def``; see :func:`~.awaiting.awaited`.
    """

    identity: IdentityLoader | None = None
    consent: ConsentLoader | None = None
    bot_detector: BotDetector | None = None
    attribution_check: AttributionCheck | None = None
    display_name: DisplayNameLoader | None = None
    code_checker: CodeChecker | None = None
    #: by provider; finds who paid
    users: dict[str, BuyerLoader] = dataclasses.field(default_factory=dict)
    #: by event and the function's name; takes what the outbox tells
    handlers: dict[str, dict[str, t.Callable[..., t.Any]]] = dataclasses.field(default_factory=dict)
    #: by provider; a :data:`~flask_referral.payments.events.WebhookReader` each
    webhooks: dict[str, t.Callable[..., t.Any]] = dataclasses.field(default_factory=dict)

    def __setattr__(self, name: str, value: t.Any) -> None:
        super().__setattr__(name, awaited(value) if callable(value) else value)


@dataclasses.dataclass(frozen=True)
class State:
    """What one application gave to ``init_app``."""

    settings: Settings
    db: SQLAlchemy
    models: Models
    #: The host's user class, or None where it gave a table.
    user_class: type | None
    #: The attribute of a user object that holds its key.
    user_attribute: str
    #: The host's ``wallet_transactions``, or None.
    wallet_table: sa.Table | None
    loaders: Loaders
    #: Decides what a conversion is worth; None: ``REFERRAL_BONUS_CENTS``.
    reward_policy: RewardPolicy | None

    @property
    def engine(self) -> sa.Engine:
        """The engine of the database that holds our tables; needs an application context."""
        return self.db.engines[self.models.bind_key]

    @property
    def read_engine(self) -> sa.Engine | None:
        """The engine of ``REFERRAL_READ_BIND``, or None; needs an application context."""
        bind = self.settings.read_bind
        return None if bind is None else self.db.engines[bind]

    def autocommit(
        self, engine: sa.Engine | None = None
    ) -> contextlib.AbstractContextManager[sql.Connection]:
        """Lend a connection on which each statement is a transaction of its own.

        :param engine: default: :attr:`engine`.
        """
        return sql.lend(engine or self.engine)

    @property
    def uses_row_security(self) -> bool:
        """Whether our own user-scoped reads are under row level security."""
        return self.settings.rls_role is not None and self.engine.dialect.name == "postgresql"


def current_state() -> State:
    """Return the current application's state.

    :raises ConfigurationError: where a blueprint of ours was registered and nothing else.
    """
    referral = current_app.extensions.get(EXTENSION_KEY)
    if referral is None:
        raise ConfigurationError(
            "A referral blueprint is registered on an application that is not set up; call "
            "referral.init_app(app, db, user_model=User) too."
        )
    state: State = referral.state
    return state
