"""Native enums in the wallet table: which of our values they lack, and adding those."""

from __future__ import annotations

import dataclasses
import functools
import typing as t

import sqlalchemy as sa

from ...errors import MigrationRefused
from ..ddl_locks import patiently
from ..ddl_locks import raw
from .pg_inspect import our_columns
from .pg_inspect import run_as
from .pg_inspect import Wallet
from .text import literal


@dataclasses.dataclass(frozen=True)
class Label:
    """A value of ours that a native enum lacks."""

    enum: str
    label: str
    owner: str
    owned: bool

    @property
    def add(self) -> str:
        """The statement that adds it."""
        return f"ALTER TYPE {self.enum} ADD VALUE IF NOT EXISTS {literal(self.label)}"


def missing_labels(connection: sa.Connection, wallet: Wallet) -> list[Label]:
    """Return our values that enums of the two columns lack. Call it inside ``scratch``."""
    missing: dict[Label, None] = {}
    for column in our_columns(wallet):
        if column.kind != "e":
            continue
        enum = raw(
            connection,
            "SELECT pg_catalog.pg_get_userbyid(typowner) AS owner,"
            " pg_catalog.pg_has_role(typowner, 'USAGE') AS owned,"
            " ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = pg_type.oid) AS labels"
            f" FROM pg_type WHERE oid = '{column.type_oid}'",
        ).one()
        for value in wallet.rows.values[column.name]:
            if value not in enum.labels:
                missing[Label(column.type, value, enum.owner, enum.owned)] = None
    return list(missing)


def refuse_strangers(labels: t.Iterable[Label]) -> None:
    """Refuse when an enum belongs to another role.

    :raises MigrationRefused: naming the owner.
    """
    for label in labels:
        if not label.owned:
            raise MigrationRefused(run_as(f"the type {label.enum}", label.owner))


def add_labels(connection: sa.Connection, labels: t.Iterable[Label]) -> None:
    """Add labels to native enums. They stay for good: PostgreSQL cannot drop a label.

    :param connection: in AUTOCOMMIT.
    :param labels: from ``missing_labels``.
    """
    for label in labels:
        add = functools.partial(raw, connection, label.add)
        patiently(connection, add, what=f"the type {label.enum}")
