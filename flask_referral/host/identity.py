"""Who is asking, and which key of the user table somebody means."""

from __future__ import annotations

import re
import reprlib
import typing as t
import uuid

import sqlalchemy as sa
from flask import Flask
from flask.globals import app_ctx
from sqlalchemy.orm import InstanceState

from ..db import sql
from ..errors import ConfigurationError
from ..errors import is_whole_number
from ..errors import UnknownUser

if t.TYPE_CHECKING:
    from .state import State
_INTEGER = re.compile(r"-?[0-9]{1,19}")


def is_set_up(state: State, app: Flask) -> bool:
    """Whether a loader, or Flask-Login, says who makes a request."""
    return state.loaders.identity is not None or hasattr(app, "login_manager")


def current_user_id(state: State) -> t.Any:
    """Return the key of the user who makes this request, or None.

    :raises ConfigurationError: where neither a loader nor Flask-Login says who that is, or what
        it says can be no user's key.
    """
    return key_of(state, current_user(state))


def current_user(state: State) -> t.Any:
    """Return what says who makes this request, a user object or a key; None for nobody.

    :raises ConfigurationError: where neither a loader nor Flask-Login says who that is.
    """
    if state.loaders.identity is not None:
        user = state.loaders.identity()
    elif is_set_up(state, app_ctx.app):
        from flask_login import current_user as flask_logins

        user = flask_logins
    else:
        raise ConfigurationError(
            "flask-referral does not know who is logged in: set up Flask-Login, or name a "
            "function that returns the current user or None with @referral.identity_loader."
        )
    user = unwrap(user)
    return None if getattr(user, "is_authenticated", True) is False else user


def key_of(state: State, user: t.Any) -> t.Any:
    """Return the key of what :func:`current_user` returned.

    :raises ConfigurationError: where it can be no user's key.
    """
    if user is None:
        return None
    try:
        return user_id(state, user)
    except UnknownUser as error:
        raise ConfigurationError(
            f"What says who is logged in gave no user of this application: {error}"
        ) from error


def unwrap(user: t.Any) -> t.Any:
    """Return what a :class:`werkzeug.local.LocalProxy` stands for; anything else as it is."""
    get_current_object = getattr(user, "_get_current_object", None)
    return get_current_object() if callable(get_current_object) else user


def user_id(state: State, user: t.Any) -> t.Any:
    """Return the key of a user object, a row of the user table, or an id.

    A user object that was added to its session but not flushed is flushed first.

    :raises UnknownUser: where this is no id that the user table can hold.
    """
    user = unwrap(user)
    mapped = sa.inspect(user, raiseerr=False)
    if isinstance(mapped, InstanceState):
        user = _mapped_key(state, user, mapped)
    elif not isinstance(user, int | str | uuid.UUID):
        user = getattr(user, state.user_attribute, user)
    return convert_key(state.models.user_key, user)


def _mapped_key(state: State, user: t.Any, mapped: InstanceState[t.Any]) -> t.Any:
    columns = mapped.mapper.primary_key
    is_user = len(columns) == 1 and columns[0] is state.models.user_key
    if not is_user and state.user_class is not None:
        # An order has an id too, and with it somebody else's code and money would be meant.
        raise UnknownUser(
            f"This is a {type(user).__name__}, not a {state.user_class.__name__}; pass the user "
            "object or its id."
        )
    if mapped.pending and mapped.session is not None:
        mapped.session.flush()
    if is_user and mapped.identity is not None:
        # Known without loading, also where the object is expired or detached.
        return mapped.identity[0]
    value = getattr(user, state.user_attribute, None)
    if value is None:
        raise UnknownUser(
            "This user is not stored yet: add it to the session and flush before the call."
        )
    return value


def convert_key(key: sa.Column[t.Any], value: t.Any) -> t.Any:
    """Convert an id from outside to the type of the user table's key.

    :raises UnknownUser: where it cannot be one.
    """
    try:
        return _convert(key.type, value)
    except ValueError as error:
        # The value may be anything, and this message may be sent to a browser.
        known = isinstance(value, bool | int | str | float | uuid.UUID)
        given = reprlib.repr(value) if known else f"A {type(value).__name__}"
        raise UnknownUser(f"{given} cannot be a user's id: {error}.") from None


def _convert(type_: sa.types.TypeEngine[t.Any], value: t.Any) -> t.Any:
    if isinstance(type_, sa.TypeDecorator):
        # A type of the host's own converts in its own way; only its plain forms are known here.
        return _convert_python(type_.impl_instance, sql.python_type(type_), value)
    return _convert_python(type_, sql.python_type(type_), value)


def _convert_python(
    type_: sa.types.TypeEngine[t.Any], python_type: type | None, value: t.Any
) -> t.Any:
    if python_type is int:
        return _convert_integer(type_, value)
    if python_type is uuid.UUID:
        return _convert_uuid(value)
    if python_type is str and isinstance(type_, sa.Uuid):
        return str(_convert_uuid(value))
    if python_type is str:
        return _convert_string(type_, value)
    if python_type is None or isinstance(value, python_type):
        return value
    raise ValueError(f"this table's ids are of type {python_type.__name__}")


def _convert_integer(type_: sa.types.TypeEngine[t.Any], value: t.Any) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    bits = 15 if isinstance(type_, sa.SmallInteger) else 31
    if isinstance(type_, sa.BigInteger):
        bits = 63
    if not is_whole_number(value, -(2**bits), 2**bits - 1):
        raise ValueError(f"this table's ids are whole numbers from {-(2**bits)} to {2**bits - 1}")
    return int(value)


def _convert_uuid(value: t.Any) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    if not isinstance(value, str):
        raise ValueError("this table's ids are UUIDs")
    try:
        return uuid.UUID(value)
    except ValueError:
        raise ValueError("this table's ids are UUIDs") from None


def _convert_string(type_: sa.types.TypeEngine[t.Any], value: t.Any) -> str:
    if isinstance(value, uuid.UUID):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise ValueError("this table's ids are strings")
    length = getattr(type_, "length", None)
    if length is not None and len(value) > length:
        raise ValueError(f"ids have at most {length} characters")
    if "\0" in value:
        raise ValueError("it holds a NUL character")
    try:
        # A plain string also of a subclass, which a driver may not know.
        return value.encode().decode()
    except UnicodeEncodeError:
        raise ValueError("it holds a lone surrogate") from None
