"""Rows that were read as rows, as the host's mapped objects."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from sqlalchemy.orm import configure_mappers
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from .models import Mixin

M = t.TypeVar("M", bound=Mixin)


def attach(session: Session, model: type[M], **values: t.Any) -> M:
    """Return the entity of a row that was just read or written, without asking the database.

    :param values: the row's, with its primary key.
    """
    mapper = sa.inspect(model)
    key = tuple(values[name] for name in model.__key__)
    known: M | None = session.identity_map.get(mapper.identity_key_from_primary_key(key))
    if known is not None:
        for name, value in values.items():
            set_committed_value(known, name, value)
        return known
    # As loading does it: no constructor of the host's, no event for each attribute.
    if not mapper.configured:
        configure_mappers()
    entity: M = mapper.class_manager.new_instance()
    vars(entity).update(values)
    make_transient_to_detached(entity)
    session.add(entity)
    return entity


def expire(session: Session, model: type[Mixin], key: t.Any) -> None:
    """Let the session's entity of a row, if it has one, be read again when it is next used."""
    identity = sa.inspect(model).identity_key_from_primary_key((key,))
    entity = session.identity_map.get(identity)
    if entity is not None:
        session.expire(entity)
