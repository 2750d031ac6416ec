"""The tables, stated once: mixins of mapped classes, built for each database of a host.

Every name is wrapped in :class:`~sqlalchemy.sql.elements.conv`, so that no naming convention of
the host's metadata changes it. The shipped migrations make the same schema.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import sys
import typing as t
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column
from sqlalchemy.orm import MappedColumn
from sqlalchemy.orm import Mapper
from sqlalchemy.orm import Session
from sqlalchemy.schema import conv
from sqlalchemy.sql.functions import FunctionElement

from ..errors import ConfigurationError
from .plain import plain

#: Alembic's record of which of our revisions a database has; apart from the host's own.
VERSION_TABLE = "referral_alembic_version"
#: What keeps a reward from being paid twice; an index on the host's wallet table.
WALLET_INDEX = "idx_wallet_transactions_referral_bonus_unique"
#: What does in SQLite what the foreign keys say, where the host has not switched them on: triggers
#: on the host's user table.
USERS_TRIGGERS = ("referral_users_deleted", "referral_users_deleted_disabled")


class RewardStatus(enum.StrEnum):
    """Where a reward is between the payment that earned it and the wallet."""

    #: Credited when its hold is over.
    pending = enum.auto()
    #: Waits for a reviewer.
    held = enum.auto()
    #: In the wallet (or recorded, where there is none), less what was taken back of it.
    credited = enum.auto()
    #: Taken back whole.
    reversed = enum.auto()
    #: Given up whole before it was credited.
    void = enum.auto()


#: A reward that was paid, be it taken back since.
PAID = (RewardStatus.credited, RewardStatus.reversed)
#: A reward of which nothing is left.
GONE = (RewardStatus.reversed, RewardStatus.void)


class RewardRole(enum.StrEnum):
    """Whose reward it is."""

    referrer = enum.auto()
    #: The welcome bonus of the user who was referred.
    referred = enum.auto()


class new_uuid(FunctionElement[uuid.UUID]):
    """A random UUID that the database makes."""

    name = "gen_random_uuid"
    type = sa.Uuid()
    inherit_cache = True


@compiles(new_uuid)
def _compile_new_uuid(element: new_uuid, compiler: t.Any, **kwargs: t.Any) -> str:
    return "pg_catalog.gen_random_uuid()"


@compiles(new_uuid, "sqlite")
def _compile_new_uuid_sqlite(element: new_uuid, compiler: t.Any, **kwargs: t.Any) -> str:
    # RFC 9562, section 5.4: the version digit is 4, the variant digit one of 8, 9, a, b.
    return (
        "(lower(hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2) || "
        "substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || "
        "hex(randomblob(6))))"
    )


class _UserKey(sa.types.UserDefinedType[t.Any]):
    """Stands for the type of the host's user key until the table is built."""

    def __init__(self, ondelete: str) -> None:
        self.ondelete = ondelete


def _id() -> Mapped[uuid.UUID]:
    return mapped_column(sa.Uuid(), server_default=new_uuid(), nullable=False)


def _user(ondelete: str, *, nullable: bool | None = None) -> t.Any:
    is_nullable = ondelete == "SET NULL" if nullable is None else nullable
    return mapped_column(_UserKey(ondelete), nullable=is_nullable)


def _text(*, nullable: bool = False) -> t.Any:
    return mapped_column(sa.Text(), nullable=nullable)


def _cents(*, default: int | None = None) -> Mapped[int]:
    server_default = None if default is None else str(default)
    return mapped_column(sa.Integer(), server_default=server_default, nullable=False)


def _moment(*, default: bool = False) -> t.Any:
    server_default = sa.func.now() if default else None
    return mapped_column(sa.DateTime(timezone=True), server_default=server_default, nullable=True)


def _json(name: str, *, nullable: bool = True) -> t.Any:
    jsonb = JSONB(none_as_null=True)
    # Else its repr names a Text, which a script that a host generates on SQLite does not import.
    jsonb.astext_type = None  # type: ignore[assignment]
    type_ = sa.JSON(none_as_null=True).with_variant(jsonb, "postgresql")
    # "metadata" is taken on declarative classes.
    key = f"{name}_" if name == "metadata" else name
    return mapped_column(name, type_, key=key, nullable=nullable)


def where(condition: str) -> dict[str, t.Any]:
    text = sa.text(condition)
    return {"postgresql_where": text, "sqlite_where": text}


def _index(name: str, *columns: str, **options: t.Any) -> sa.Index:
    return sa.Index(conv(name), *columns, **options)


class Mixin:
    """What the mixins share: how their tables are built."""

    #: The host's user class or table; ``init_app`` sets it on the classes that it builds.
    __user_model__: t.ClassVar[t.Any]
    __tablename__: t.ClassVar[str]
    #: The columns of the primary key.
    __key__: t.ClassVar[tuple[str, ...]] = ("id",)
    #: What :meth:`to_dict` leaves out: what is personal, or can be large.
    _untold: t.ClassVar[tuple[str, ...]] = ()
    if t.TYPE_CHECKING:
        metadata: t.ClassVar[sa.MetaData]
        __table__: t.ClassVar[sa.Table]

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        """Yield the constraints and indexes, without the primary key and those of user keys."""
        return iter(())

    @classmethod
    def _mixin(cls) -> type[Mixin]:
        """Return the mixin that declares the table's columns."""
        return next(base for base in cls.__mro__ if Mixin in base.__bases__)

    def to_dict(self) -> dict[str, t.Any]:
        """Return the row's columns as plain values, ready for JSON."""
        # In a mixin's own namespace the columns stand in their order.
        names = [name for name in vars(self._mixin()) if name in vars(self)]
        return {
            name.rstrip("_"): plain(getattr(self, name))
            for name in names
            if name not in self._untold
        }

    def kept(self) -> t.Self:
        """Return the loaded columns as an object that needs no session and no mapped class."""
        mixin = self._mixin()
        loaded = {name: value for name, value in vars(self).items() if name in vars(mixin)}
        return t.cast(t.Self, _restore(mixin, loaded))

    def __reduce_ex__(self, protocol: t.SupportsIndex) -> t.Any:
        """Let it be pickled; it comes back as :meth:`kept`, whatever application there is."""
        cls = type(self)
        if getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls:
            # A class of the host's own comes back as itself.
            if "_sa_instance_state" in vars(self):
                return super().__reduce_ex__(protocol)
            return _restore, (cls, vars(self))
        for column in self.__table__.columns:
            # A commit expired it.
            getattr(self, column.key)
        return _restore, (self._mixin(), vars(self.kept()))

    # Declarative asks this for the table.
    @classmethod
    def __table_cls__(
        cls, name: str, metadata: sa.MetaData, *items: t.Any, **options: t.Any
    ) -> sa.Table:
        mixin = cls._mixin()
        declared = {
            value.column.name or attribute
            for attribute, value in vars(mixin).items()
            if isinstance(value, MappedColumn)
        }
        added = [getattr(item, "name", item) for item in items]
        added = [item for item in added if item not in declared] + list(options)
        if added:
            raise ConfigurationError(
                f"{cls.__name__} adds columns or table arguments to {name!r} "
                f"({', '.join(map(str, added))}), which the shipped migrations make; put them in a "
                "table of your own that refers to it."
            )
        key = user_key(cls.__user_model__)
        rules: list[sa.schema.SchemaItem] = [
            sa.PrimaryKeyConstraint(*cls.__key__, name=conv(f"{name}_pkey"))
        ]
        for column in items:
            if isinstance(column.type, _UserKey):
                ondelete = column.type.ondelete
                column.type = key.type
                rules.append(_foreign_key(name, column.name, key, ondelete))
        return sa.Table(name, metadata, *items, *rules, *cls._rules(metadata))


def _restore(cls: type[Mixin], values: dict[str, t.Any]) -> Mixin:
    """Return an object of a mixin with these values; it is not mapped."""
    restored = object.__new__(cls)
    vars(restored).update(values)
    return restored


def _foreign_key(
    table: str, column: str, target: sa.Column[t.Any], ondelete: str
) -> sa.ForeignKeyConstraint:
    # The column itself, not its name: the user table may live in another MetaData.
    return sa.ForeignKeyConstraint(
        [column], [target], name=conv(f"{table}_{column}_fkey"), ondelete=ondelete
    )


class ReferralCodeMixin(Mixin):
    """A user's one code (table ``referral_codes``).

    A host that wants a class of its own subclasses a mixin together with ``db.Model``, sets
    ``__user_model__`` to its user class or table, and does so before ``init_app``. It may add
    methods and relationships, and no columns.
    """

    __tablename__ = "referral_codes"

    id: Mapped[uuid.UUID] = _id()
    user_id: Mapped[t.Any] = _user("CASCADE")
    code: Mapped[str] = _text()
    #: UTC
    created_at: Mapped[dt.datetime] = _moment(default=True)

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        yield _index("idx_referral_codes_user_id", "user_id", unique=True)
        yield _index("idx_referral_codes_code", "code", unique=True)
        yield _index("idx_referral_codes_created_at", "created_at", "id")


class ReferralClickMixin(Mixin):
    """A visit through a code (table ``referral_clicks``), bound once its visitor signs up."""

    __tablename__ = "referral_clicks"
    _untold = ("referrer_url", "user_agent", "ip_hash")

    id: Mapped[uuid.UUID] = _id()
    referral_code: Mapped[str] = _text()
    referrer_user_id: Mapped[t.Any] = _user("CASCADE")
    #: None until the visitor signs up
    referred_user_id: Mapped[t.Any | None] = _user("SET NULL")
    #: UTC
    clicked_at: Mapped[dt.datetime] = _moment(default=True)
    referrer_url: Mapped[str | None] = _text(nullable=True)
    user_agent: Mapped[str | None] = _text(nullable=True)
    ip_hash: Mapped[str | None] = _text(nullable=True)
    #: UTC; when the visitor signed up, also once that account is gone
    bound_at: Mapped[dt.datetime | None] = _moment()
    #: what the link was tagged with, at most 64 characters each
    utm_source: Mapped[str | None] = _text(nullable=True)
    utm_medium: Mapped[str | None] = _text(nullable=True)
    utm_campaign: Mapped[str | None] = _text(nullable=True)
    #: what statistics count it under: ``utm_source``, else the referring site; None: it came
    #: directly, or before this column; ``code``: a code was typed, there was no visit
    source: Mapped[str | None] = _text(nullable=True)

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        code = _column(metadata, ReferralCodeMixin, "code")
        yield _foreign_key(cls.__tablename__, "referral_code", code, "CASCADE")
        yield sa.UniqueConstraint(
            "referred_user_id",
            "referral_code",
            name=conv("referral_clicks_referred_user_id_referral_code_key"),
        )
        yield sa.CheckConstraint(
            "referrer_user_id <> referred_user_id",
            name=conv("referral_clicks_referrer_not_referred_check"),
        )
        yield _index("idx_referral_clicks_referral_code", "referral_code")
        yield _index(
            "idx_referral_clicks_referrer_user_id",
            "referrer_user_id",
            "clicked_at",
            postgresql_include=["referred_user_id"],
        )
        yield _index("idx_referral_clicks_clicked_at", "clicked_at")
        # One referrer for each user. Stops at the bound rows, which are few.
        bound = where("referred_user_id IS NOT NULL")
        yield _index("idx_referral_clicks_bound_unique", "referred_user_id", unique=True, **bound)
        signed_up = where("bound_at IS NOT NULL")
        yield _index("idx_referral_clicks_signups", "referrer_user_id", "clicked_at", **signed_up)
        yield _index(
            "idx_referral_clicks_referrals", "referrer_user_id", "bound_at", "id", **signed_up
        )
        # All that the overview counts of sign-ups.
        yield _index(
            "idx_referral_clicks_bound_at",
            *("bound_at", "id", "source", "utm_campaign"),
            **signed_up,
        )
        # Statistics by source read these alone; what came directly is in neither.
        yield _index(
            "idx_referral_clicks_sources",
            *("referrer_user_id", "clicked_at", "source"),
            **where("source IS NOT NULL"),
        )
        yield _index(
            "idx_referral_clicks_signup_sources",
            *("referrer_user_id", "source"),
            **where("bound_at IS NOT NULL AND source IS NOT NULL"),
        )


class ReferralConversionMixin(Mixin):
    """A referred user who became a paying one (table ``referral_conversions``)."""

    __tablename__ = "referral_conversions"
    _untold = ("metadata_",)

    id: Mapped[uuid.UUID] = _id()
    referrer_user_id: Mapped[t.Any] = _user("CASCADE")
    referred_user_id: Mapped[t.Any] = _user("CASCADE")
    referral_code: Mapped[str] = _text()
    whop_membership_id: Mapped[str] = _text()
    #: what the policy gave the referrer for the payment that qualified
    bonus_cents: Mapped[int] = _cents()
    #: UTC
    converted_at: Mapped[dt.datetime] = _moment(default=True)
    #: the column ``metadata``
    metadata_: Mapped[dict[str, t.Any] | None] = _json("metadata")

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        code = _column(metadata, ReferralCodeMixin, "code")
        yield _foreign_key(cls.__tablename__, "referral_code", code, "CASCADE")
        yield sa.CheckConstraint(
            "referrer_user_id <> referred_user_id",
            name=conv("referral_conversions_referrer_not_referred_check"),
        )
        yield _index(
            "idx_referral_conversions_referrer_user_id", "referrer_user_id", "converted_at"
        )
        yield _index("idx_referral_conversions_referred_user_id", "referred_user_id")
        yield _index(
            "idx_referral_conversions_referred_user_unique", "referred_user_id", unique=True
        )


class ReferralRewardMixin(Mixin):
    """What one payment earned one beneficiary (table ``referral_rewards``)."""

    __tablename__ = "referral_rewards"

    #: the wallet's ``reference_id``; of the referrer's first one the conversion's id
    id: Mapped[uuid.UUID] = _id()
    conversion_id: Mapped[uuid.UUID | None] = mapped_column(sa.Uuid(), nullable=True)
    #: whose wallet
    user_id: Mapped[t.Any] = _user("CASCADE")
    #: who paid; None once that account is gone
    referred_user_id: Mapped[t.Any | None] = _user("SET NULL")
    #: a :class:`RewardRole`
    role: Mapped[str] = _text()
    provider: Mapped[str] = _text()
    payment_id: Mapped[str] = _text()
    membership_id: Mapped[str] = _text()
    #: 1 for the payment that qualified, 2 and more for renewals
    number: Mapped[int] = mapped_column(sa.Integer(), nullable=False)
    cents: Mapped[int] = _cents()
    #: what was taken back of ``cents``
    reversed_cents: Mapped[int] = _cents(default=0)
    #: what should have been taken back and was no longer in the wallet
    shortfall_cents: Mapped[int] = _cents(default=0)
    #: a :class:`RewardStatus`
    status: Mapped[str] = _text()
    #: UTC; when a pending reward is due
    available_at: Mapped[dt.datetime | None] = _moment()
    #: UTC
    credited_at: Mapped[dt.datetime | None] = _moment()
    #: UTC
    created_at: Mapped[dt.datetime] = _moment(default=True)
    #: the policy's own label
    campaign: Mapped[str | None] = _text(nullable=True)
    #: the click that the buyer was bound by; it may be gone
    click_id: Mapped[uuid.UUID | None] = mapped_column(sa.Uuid(), nullable=True)
    #: that of the click
    source: Mapped[str | None] = _text(nullable=True)

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        conversion = _column(metadata, ReferralConversionMixin, "id")
        yield _foreign_key(cls.__tablename__, "conversion_id", conversion, "SET NULL")
        for column, values in (("role", RewardRole), ("status", RewardStatus)):
            listed = ", ".join(f"'{value}'" for value in values)
            yield sa.CheckConstraint(
                f"{column} IN ({listed})", name=conv(f"referral_rewards_{column}_check")
            )
        yield sa.CheckConstraint(
            "reversed_cents >= 0 AND reversed_cents <= cents",
            name=conv("referral_rewards_reversed_cents_check"),
        )
        yield sa.CheckConstraint(
            "shortfall_cents >= 0", name=conv("referral_rewards_shortfall_cents_check")
        )
        # One payment pays a beneficiary once.
        yield _index(
            "idx_referral_rewards_payment_unique", "provider", "payment_id", "role", unique=True
        )
        yield _index("idx_referral_rewards_user_id", "user_id", "created_at")
        yield _index("idx_referral_rewards_referred_user_id", "referred_user_id")
        yield _index("idx_referral_rewards_click_id", "click_id")
        yield _index("idx_referral_rewards_conversion_id", "conversion_id")
        yield _index("idx_referral_rewards_membership_id", "membership_id")
        yield _index("idx_referral_rewards_created_at", "created_at", "id")
        yield _index("idx_referral_rewards_status", "status", "created_at", "id")
        # What "mature" looks for, and what the next credits pay off: few rows each.
        yield _index(
            "idx_referral_rewards_available_at", "available_at", **where("status = 'pending'")
        )
        yield _index("idx_referral_rewards_shortfall", "user_id", **where("shortfall_cents > 0"))


class ReferralEventMixin(Mixin):
    """Something that happened once (table ``referral_events``): a delivery, a payment, a fact."""

    __tablename__ = "referral_events"
    __key__ = ("provider", "kind", "event_id")

    provider: Mapped[str] = _text()
    #: an :class:`~flask_referral.conversions.facts.Kind`, ``delivery``, ``attribution`` (what was
    #: refused) or ``operator`` (an act)
    kind: Mapped[str] = _text()
    #: what tells it apart within its kind
    event_id: Mapped[str] = _text()
    #: of a delivery: what it reported
    type: Mapped[str | None] = _text(nullable=True)
    payment_id: Mapped[str | None] = _text(nullable=True)
    membership_id: Mapped[str | None] = _text(nullable=True)
    #: the id of the refund or the dispute; of a reviewer's decision the reward's
    reference: Mapped[str | None] = _text(nullable=True)
    outcome: Mapped[str] = _text()
    amount_cents: Mapped[int | None] = mapped_column(sa.BigInteger(), nullable=True)
    #: what ``amount_cents`` is a part of; None: of the bonus
    base_cents: Mapped[int | None] = mapped_column(sa.BigInteger(), nullable=True)
    #: UTC; by the provider's clock where it tells, else the arrival
    occurred_at: Mapped[dt.datetime | None] = _moment()
    #: UTC
    received_at: Mapped[dt.datetime] = _moment(default=True)
    #: of a delivery that waits: its buyer, where that is a user; of an act: whom it concerns; the
    #: row goes with the account
    user_id: Mapped[t.Any | None] = _user("CASCADE", nullable=True)
    #: of a delivery that waits: what it takes to handle it once more; None: it waits for nothing;
    #: of an act: who did it, and what was before and after
    details: Mapped[dict[str, t.Any] | None] = _json("details")

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        yield _index("idx_referral_events_payment_id", "payment_id")
        yield _index("idx_referral_events_membership_id", "membership_id")
        # What waits: rows that a delivery which is dealt with does not enter.
        waits = where("details IS NOT NULL")
        yield _index("idx_referral_events_waiting", "received_at", "provider", "event_id", **waits)
        yield _index("idx_referral_events_user_id", "user_id", **where("user_id IS NOT NULL"))
        for name, kind in (("deliveries", "delivery"), ("operators", "operator")):
            columns = ("received_at", "provider", "event_id")
            of_kind = where(f"kind = '{kind}'")
            yield _index(f"idx_referral_events_{name}", *columns, **of_kind)


class ReferralDailyMixin(Mixin):
    """A referrer's clicks on a closed day (table ``referral_daily``), so that totals stay cheap."""

    __tablename__ = "referral_daily"
    __key__ = ("referrer_user_id", "day")

    referrer_user_id: Mapped[t.Any] = _user("CASCADE")
    #: UTC
    day: Mapped[dt.date] = mapped_column(sa.Date(), nullable=False)
    clicks: Mapped[int] = mapped_column(sa.Integer(), nullable=False)

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        yield _index("idx_referral_daily_day", "day")


class ReferralDailySourceMixin(Mixin):
    """Of the clicks in ``referral_daily`` those of a source or a campaign.

    Table ``referral_daily_sources``. What is missing to the day's clicks came directly, and from
    no campaign.
    """

    __tablename__ = "referral_daily_sources"
    __key__ = ("referrer_user_id", "day", "source", "campaign")

    referrer_user_id: Mapped[t.Any] = _user("CASCADE")
    #: UTC
    day: Mapped[dt.date] = mapped_column(sa.Date(), nullable=False)
    #: the clicks'; empty: none
    source: Mapped[str] = _text()
    #: the clicks' ``utm_campaign``; empty: none
    campaign: Mapped[str] = _text()
    clicks: Mapped[int] = mapped_column(sa.Integer(), nullable=False)


class ReferralIssuedCodeMixin(Mixin):
    """A code that was given to somebody, and is never given again (``referral_issued_codes``).

    The database keeps it: what is inserted into ``referral_codes`` is listed by a trigger.
    """

    __tablename__ = "referral_issued_codes"
    __key__ = ("code",)

    code: Mapped[str] = _text()
    #: whom it leads to; None once that user is erased or deleted
    user_id: Mapped[t.Any | None] = _user("SET NULL")
    #: UTC
    issued_at: Mapped[dt.datetime] = _moment(default=True)
    #: whether it is the one that the user shares
    is_current: Mapped[bool] = mapped_column(sa.Boolean(), server_default=sa.true(), nullable=False)

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        yield _index("idx_referral_issued_codes_user_id", "user_id")


class ReferralDisabledMixin(Mixin):
    """A user whose code an operator has switched off (table ``referral_disabled``)."""

    __tablename__ = "referral_disabled"
    __key__ = ("user_id",)

    user_id: Mapped[t.Any] = _user("CASCADE")
    #: why; for operators
    reason: Mapped[str] = _text()
    #: UTC
    since: Mapped[dt.datetime] = _moment(default=True)

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        yield _index("idx_referral_disabled_since", "since", "user_id")


class ReferralOutboxMixin(Mixin):
    """What is to be told of (table ``referral_outbox``); the row goes when that is done.

    By numbers in the order in which it happened. No key of a user's refers to the user's row, so
    that what happened is told of also where the account is gone.
    """

    __tablename__ = "referral_outbox"

    id: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), nullable=False
    )
    #: what receivers know it by, the same at each attempt
    message_id: Mapped[uuid.UUID] = mapped_column(sa.Uuid(), nullable=False)
    #: one of :data:`flask_referral.events.EVENTS`
    event: Mapped[str] = _text()
    #: the user's key whose events are told in order
    subject: Mapped[str] = _text()
    payload: Mapped[dict[str, t.Any]] = _json("payload", nullable=False)
    #: UTC
    created_at: Mapped[dt.datetime] = _moment(default=True)
    attempts: Mapped[int] = mapped_column(sa.Integer(), server_default="0", nullable=False)
    #: UTC; while somebody delivers it, when another one may
    next_attempt_at: Mapped[dt.datetime] = _moment(default=True)
    #: the receivers that have it already
    done: Mapped[list[str] | None] = _json("done")
    #: what went wrong last
    error: Mapped[str | None] = _text(nullable=True)
    #: UTC; when it was given up
    set_aside_at: Mapped[dt.datetime | None] = _moment()

    @classmethod
    def _rules(cls, metadata: sa.MetaData) -> t.Iterator[sa.schema.SchemaItem]:
        waits = where("set_aside_at IS NULL")
        yield _index("idx_referral_outbox_next_attempt_at", "next_attempt_at", "id", **waits)
        yield _index("idx_referral_outbox_subject", "subject", "id", **waits)


@dataclasses.dataclass(frozen=True)
class Models:
    """The mapped classes in one host's metadata."""

    ReferralCode: type[ReferralCodeMixin]
    ReferralClick: type[ReferralClickMixin]
    ReferralConversion: type[ReferralConversionMixin]
    ReferralReward: type[ReferralRewardMixin]
    ReferralEvent: type[ReferralEventMixin]
    ReferralDaily: type[ReferralDailyMixin]
    ReferralDailySource: type[ReferralDailySourceMixin]
    ReferralIssuedCode: type[ReferralIssuedCodeMixin]
    ReferralDisabled: type[ReferralDisabledMixin]
    ReferralOutbox: type[ReferralOutboxMixin]
    #: The key of the host's user table.
    user_key: sa.Column[t.Any]
    version_table: sa.Table
    #: Statements of the hot paths, built on their first use; see :mod:`flask_referral.db.sql`.
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
    def classes(self) -> tuple[type[Mixin], ...]:
        """The mapped classes, those that are referred to first."""
        return (
            self.ReferralCode,
            self.ReferralClick,
            self.ReferralConversion,
            self.ReferralReward,
            self.ReferralEvent,
            self.ReferralDaily,
            self.ReferralDailySource,
            self.ReferralIssuedCode,
            self.ReferralDisabled,
            self.ReferralOutbox,
        )

    def bind(self, session: Session) -> sa.Engine | sa.Connection:
        """Return what a session reaches our tables by; a session may have several databases."""
        return session.get_bind(sa.inspect(self.ReferralCode))

    def connection(self, session: Session) -> sa.Connection:
        """Return the session's own connection to the database of our tables, in its transaction."""
        return session.connection({"mapper": sa.inspect(self.ReferralCode)})


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


def _column(metadata: sa.MetaData, mixin: type[Mixin], column: str) -> sa.Column[t.Any]:
    name = mixin.__tablename__
    qualified = f"{metadata.schema}.{name}" if metadata.schema else name
    if qualified not in metadata.tables:
        raise ConfigurationError(f"Define the class of {name!r} first; this one refers to it.")
    return metadata.tables[qualified].c[column]
