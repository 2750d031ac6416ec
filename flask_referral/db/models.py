"""The mapped classes, built once for each database object of the host."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Mapper

from ..errors import ConfigurationError
from . import tables

_INFO_KEY = "flask_referral"


class _Mixin:
    #: The host's user class or table; ``init_app`` sets it on the classes that it builds.
    __user_model__: t.ClassVar[t.Any]
    __tablename__: t.ClassVar[str]
    if t.TYPE_CHECKING:
        metadata: t.ClassVar[sa.MetaData]
        __table__: t.ClassVar[sa.Table]

        @classmethod
        def _build_table(cls, metadata: sa.MetaData, key: sa.Column[t.Any]) -> sa.Table:
            """Build the table of this mixin."""

    # Declarative asks this for the table. A declared attr ``__table__`` would be shorter, but
    # only late releases of SQLAlchemy 2.0 know it.
    @classmethod
    def __table_cls__(
        cls, name: str, metadata: sa.MetaData, *columns: t.Any, **options: t.Any
    ) -> sa.Table:
        if columns or options:
            raise ConfigurationError(
                f"{cls.__name__} adds columns or table arguments to {name!r}, which the shipped "
                "migrations make; put them in a table of your own that refers to it."
            )
        return cls._build_table(metadata, user_key(cls.__user_model__))


class ReferralCodeMixin(_Mixin):
    """A user's one code (table ``referral_codes``).

    A host that wants a class of its own subclasses a mixin together with ``db.Model``, sets
    ``__user_model__`` to its user class or table, and does so before ``init_app``.
    """

    __tablename__ = tables.CODES

    if t.TYPE_CHECKING:
        id: Mapped[uuid.UUID]
        user_id: Mapped[t.Any]
        code: Mapped[str]
        #: UTC
        created_at: Mapped[dt.datetime]

    @classmethod
    def _build_table(cls, metadata: sa.MetaData, key: sa.Column[t.Any]) -> sa.Table:
        return tables.codes(metadata, key)


class ReferralClickMixin(_Mixin):
    """A visit through a code (table ``referral_clicks``), bound once its visitor signs up."""

    __tablename__ = tables.CLICKS

    if t.TYPE_CHECKING:
        id: Mapped[uuid.UUID]
        referral_code: Mapped[str]
        referrer_user_id: Mapped[t.Any]
        #: None until the visitor signs up
        referred_user_id: Mapped[t.Any | None]
        #: UTC
        clicked_at: Mapped[dt.datetime]
        referrer_url: Mapped[str | None]
        user_agent: Mapped[str | None]
        ip_hash: Mapped[str | None]
        #: UTC; when the visitor signed up
        bound_at: Mapped[dt.datetime | None]

    @classmethod
    def _build_table(cls, metadata: sa.MetaData, key: sa.Column[t.Any]) -> sa.Table:
        return tables.clicks(metadata, key, _table(metadata, tables.CODES))


class ReferralConversionMixin(_Mixin):
    """A referred user's purchase (table ``referral_conversions``); one for each such user."""

    __tablename__ = tables.CONVERSIONS

    if t.TYPE_CHECKING:
        id: Mapped[uuid.UUID]
        referrer_user_id: Mapped[t.Any]
        referred_user_id: Mapped[t.Any]
        referral_code: Mapped[str]
        whop_membership_id: Mapped[str]
        bonus_cents: Mapped[int]
        #: UTC
        converted_at: Mapped[dt.datetime]
        #: the column ``metadata``
        metadata_: Mapped[dict[str, t.Any] | None]
        #: pending, held, credited, reversed or void
        status: Mapped[str]
        #: UTC; when a pending bonus is due
        available_at: Mapped[dt.datetime | None]
        #: UTC
        credited_at: Mapped[dt.datetime | None]
        #: what was taken back of ``bonus_cents``
        reversed_cents: Mapped[int]
        #: what should have been taken back and was no longer in a wallet
        shortfall_cents: Mapped[int]
        #: the referred user's own bonus, in a two-sided program
        referred_bonus_cents: Mapped[int]
        referred_reversed_cents: Mapped[int]

    @classmethod
    def _build_table(cls, metadata: sa.MetaData, key: sa.Column[t.Any]) -> sa.Table:
        return tables.conversions(metadata, key, _table(metadata, tables.CODES))


class ReferralEventMixin(_Mixin):
    """Something that happened once (table ``referral_events``): a delivery, a refund, a credit."""

    __tablename__ = tables.EVENTS

    if t.TYPE_CHECKING:
        provider: Mapped[str]
        event_id: Mapped[str]
        kind: Mapped[str]
        membership_id: Mapped[str | None]
        outcome: Mapped[str]
        amount_cents: Mapped[int | None]
        #: what ``amount_cents`` is a part of; None: of the bonus
        base_cents: Mapped[int | None]
        #: UTC
        received_at: Mapped[dt.datetime]

    @classmethod
    def _build_table(cls, metadata: sa.MetaData, key: sa.Column[t.Any]) -> sa.Table:
        return tables.events(metadata)


class ReferralDailyMixin(_Mixin):
    """A referrer's clicks on a closed day (table ``referral_daily``)."""

    __tablename__ = tables.DAILY

    if t.TYPE_CHECKING:
        referrer_user_id: Mapped[t.Any]
        #: UTC
        day: Mapped[dt.date]
        clicks: Mapped[int]

    @classmethod
    def _build_table(cls, metadata: sa.MetaData, key: sa.Column[t.Any]) -> sa.Table:
        return tables.daily(metadata, key)


@dataclasses.dataclass(frozen=True)
class Models:
    """The mapped classes in one host's metadata."""

    ReferralCode: type[ReferralCodeMixin]
    ReferralClick: type[ReferralClickMixin]
    ReferralConversion: type[ReferralConversionMixin]
    ReferralEvent: type[ReferralEventMixin]
    ReferralDaily: type[ReferralDailyMixin]
    #: The key of the host's user table.
    user_key: sa.Column[t.Any]
    version_table: sa.Table
    #: Statements of the hot paths, built on their first use.
    statements: dict[t.Any, t.Any] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def metadata(self) -> sa.MetaData:
        """The host's metadata, which holds the tables."""
        return self.version_table.metadata

    @property
    def bind_key(self) -> str | None:
        """Which of the host's databases holds the tables."""
        key: str | None = self.metadata.info.get("bind_key")
        return key

    @property
    def table_names(self) -> frozenset[str]:
        """The unqualified names of the tables, without the version table's."""
        return frozenset(model.__table__.name for model in self.classes)

    @property
    def classes(self) -> tuple[type[_Mixin], ...]:
        """The mapped classes, those that are referred to first."""
        return (
            self.ReferralCode,
            self.ReferralClick,
            self.ReferralConversion,
            self.ReferralEvent,
            self.ReferralDaily,
        )


def table_of(model: t.Any, argument: str) -> sa.Table:
    """Return the table behind a mapped class or a :class:`sqlalchemy.Table`.

    :param argument: the name of the argument that ``model`` was given as, for the message.
    :raises ConfigurationError: where it is neither.
    """
    if isinstance(model, sa.Table):
        return model
    mapper = sa.inspect(model, raiseerr=False)
    if isinstance(mapper, Mapper) and isinstance(mapper.local_table, sa.Table):
        return mapper.local_table
    raise ConfigurationError(
        f"{argument} is {model!r}, which is neither a mapped class nor a Table; "
        f"pass the model class, as in Referral(app, db, {argument}=...)."
    )


def user_key(user_model: t.Any) -> sa.Column[t.Any]:
    """Return the single primary key column of the host's users.

    :raises ConfigurationError: where the model is not mapped or its key is not one column.
    """
    table = table_of(user_model, "user_model")
    columns: t.Sequence[t.Any]
    if isinstance(user_model, sa.Table):
        columns = tuple(table.primary_key.columns)
    else:
        columns = sa.inspect(user_model).primary_key
    if len(columns) != 1:
        names = ", ".join(column.name for column in columns) or "no column"
        raise ConfigurationError(
            f"The primary key of user table {table.fullname!r} is ({names}); flask-referral needs "
            "a key of exactly one column: give the table one, or pass a Table that declares it."
        )
    key: sa.Column[t.Any] = columns[0]
    return key


def build_models(db: SQLAlchemy, user_model: t.Any) -> Models:
    """Build the mapped classes in the metadata of the host's users, or return those built before.

    :param db: the host's database object.
    :param user_model: its user class or table.
    :raises ConfigurationError: where the users cannot be referred to, or where the classes were
        built for another user table.
    """
    key = user_key(user_model)
    # A user table in a MetaData of its own (one that migrations must not touch) belongs to the
    # default database.
    bind_key = next((name for name, md in db.metadatas.items() if md is key.table.metadata), None)
    metadata = db.metadatas[bind_key]
    built: Models | None = metadata.info.get(_INFO_KEY)
    if built is not None:
        if built.user_key is not key:
            raise ConfigurationError(
                f"The referral tables refer to {built.user_key}, so user_model cannot be the "
                f"table of {key}; use one user model for each SQLAlchemy() object."
            )
        return built

    def build(name: str, mixin: type[_Mixin]) -> t.Any:
        for mapper in t.cast(t.Any, db.Model).registry.mappers:
            if issubclass(mapper.class_, mixin) and mapper.class_.metadata is metadata:
                return mapper.class_
        attributes = {
            "__user_model__": user_model,
            "__module__": __name__,
            "__doc__": mixin.__doc__,
        }
        if bind_key is not None:
            attributes["__bind_key__"] = bind_key
        return type(name, (mixin, db.Model), attributes)

    models = Models(
        ReferralCode=build("ReferralCode", ReferralCodeMixin),
        ReferralClick=build("ReferralClick", ReferralClickMixin),
        ReferralConversion=build("ReferralConversion", ReferralConversionMixin),
        ReferralEvent=build("ReferralEvent", ReferralEventMixin),
        ReferralDaily=build("ReferralDaily", ReferralDailyMixin),
        user_key=key,
        version_table=tables.version(metadata),
    )
    metadata.info[_INFO_KEY] = models
    return models


def _table(metadata: sa.MetaData, name: str) -> sa.Table:
    qualified = f"{metadata.schema}.{name}" if metadata.schema else name
    if qualified not in metadata.tables:
        raise ConfigurationError(f"Define the class of {name!r} first; this one refers to it.")
    return metadata.tables[qualified]
