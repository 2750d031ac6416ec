"""``REFERRAL_AUTO_ATTRIBUTE``: a user row that is inserted in a request with a visit is bound.

A visitor's own sign-up, that is: whoever is logged in makes accounts for others, and a visit is
one person's. Nobody looks at what is bound by itself, so it is bound once only.
"""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import current_app
from flask import has_request_context
from flask.globals import app_ctx
from sqlalchemy import event
from sqlalchemy.orm import Mapper
from sqlalchemy.orm import object_session

from .. import attribution
from .. import outbox
from ..errors import ConfigurationError
from ..host import identity
from ..host.state import current_state
from ..host.state import EXTENSION_KEY
from . import sign_ups
from .errors import is_the_hosts

if t.TYPE_CHECKING:
    from ..host.state import State


def listen(user_model: t.Any) -> None:
    """Watch a user class for new rows; inserts that go past the ORM are not seen.

    :raises ConfigurationError: for a :class:`sqlalchemy.Table`, whose rows nobody can watch.
    """
    if isinstance(user_model, sa.Table):
        raise ConfigurationError(
            "REFERRAL_AUTO_ATTRIBUTE watches a mapped user class, and user_model is a Table; turn "
            "it off and call referral.attribute(user) in the sign-up view."
        )
    if not event.contains(user_model, "after_insert", _bind_visit):
        event.listen(user_model, "after_insert", _bind_visit, propagate=True)


def _bind_visit(mapper: Mapper[t.Any], connection: sa.Connection, user: t.Any) -> None:
    if not has_request_context() or EXTENSION_KEY not in current_app.extensions:
        return
    try:
        state = current_state()
        # Another application of this process may share the class.
        if not state.settings.auto_attribute or state.models.user_key.table not in mapper.tables:
            return
        brought = sign_ups.brought(state, None)
        if brought.touch is None and brought.visit is None:
            return
        # A failure here must not fail the host's flush.
        user_id = getattr(user, state.user_attribute)
        with connection.begin_nested():
            if _is_made_by_somebody(state, user, user_id):
                return
            outcome = sign_ups.bind(state, connection, user_id, brought, is_shared=False)
            if (session := object_session(user)) is not None:
                told = attribution.told(outcome)
                outbox.announce(connection, session, state.models, state.settings, *told)
    except Exception:
        current_app.logger.exception("The new user was not bound to the visit of this request.")


def _is_made_by_somebody(state: State, user: t.Any, user_id: t.Any) -> bool:
    """Whether another user than the new one is logged in; the new one may be already."""
    if not identity.is_set_up(state, app_ctx.app):
        return False
    try:
        current = identity.current_user(state)
        # The key of an object that is being flushed cannot be asked for.
        return current is not user and identity.key_of(state, current) not in (None, user_id)
    except Exception as error:
        # The host's way to say that nobody is.
        if is_the_hosts(error):
            return False
        raise
