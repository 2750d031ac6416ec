"""The mapped classes, built once in the metadata of a host's users."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.schema import conv

from ..errors import ConfigurationError
from .models import Mixin
from .models import Models
from .models import ReferralClickMixin
from .models import ReferralCodeMixin
from .models import ReferralConversionMixin
from .models import ReferralDailyMixin
from .models import ReferralDailySourceMixin
from .models import ReferralDisabledMixin
from .models import ReferralEventMixin
from .models import ReferralIssuedCodeMixin
from .models import ReferralOutboxMixin
from .models import ReferralRewardMixin
from .models import user_key
from .models import VERSION_TABLE
from .models import WALLET_INDEX
from .models import where

INFO_KEY = "flask_referral"


def bind_key_of(db: SQLAlchemy, table: sa.Table) -> str | None:
    """Return which of the host's databases a table is in.

    A table in a MetaData of its own (one that migrations must not touch) belongs to the default
    database.
    """
    return next((name for name, md in db.metadatas.items() if md is table.metadata), None)


def build_models(db: SQLAlchemy, user_model: t.Any) -> Models:
    """Build the mapped classes in the metadata of the host's users, or return those built before.

    :param db: the host's database object.
    :param user_model: its user class or table.
    :raises ConfigurationError: where the users cannot be referred to, or where the classes were
        built for another user table.
    """
    key = user_key(user_model)
    bind_key = bind_key_of(db, key.table)
    metadata = db.metadatas[bind_key]
    built: Models | None = metadata.info.get(INFO_KEY)
    if built is not None:
        if built.user_key is not key:
            raise ConfigurationError(
                f"The referral tables refer to {built.user_key}, so user_model cannot be the "
                f"table of {key}; use one user model for each SQLAlchemy() object."
            )
        return built

    def build(name: str, mixin: type[Mixin]) -> t.Any:
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
        ReferralReward=build("ReferralReward", ReferralRewardMixin),
        ReferralEvent=build("ReferralEvent", ReferralEventMixin),
        ReferralDaily=build("ReferralDaily", ReferralDailyMixin),
        ReferralDailySource=build("ReferralDailySource", ReferralDailySourceMixin),
        ReferralIssuedCode=build("ReferralIssuedCode", ReferralIssuedCodeMixin),
        ReferralDisabled=build("ReferralDisabled", ReferralDisabledMixin),
        ReferralOutbox=build("ReferralOutbox", ReferralOutboxMixin),
        user_key=key,
        version_table=_version(metadata),
    )
    metadata.info[INFO_KEY] = models
    return models


def declare_wallet_index(wallet: sa.Table) -> None:
    """Declare our index on the host's wallet table, so that autogenerate does not drop it."""
    columns = {column.name: column for column in wallet.columns}
    if any(index.name == WALLET_INDEX for index in wallet.indexes):
        return
    ours = where("type = 'referral_bonus' AND reference_type = 'referral_conversion'")
    sa.Index(conv(WALLET_INDEX), columns["reference_id"], unique=True, **ours)


def _version(metadata: sa.MetaData) -> sa.Table:
    """Declare Alembic's version table, so that the host's autogenerate does not drop it."""
    return sa.Table(
        VERSION_TABLE,
        metadata,
        sa.Column("version_num", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_num", name=conv(f"{VERSION_TABLE}_pkc")),
    )
