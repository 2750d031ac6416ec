"""What a sign-up comes with: a typed code, a carried visit, the cookie's, or one of its own."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import has_request_context

from .. import attribution
from .. import clicks
from .. import clock
from .. import codes
from ..clicks import Touch
from ..clicks import Visit
from ..results import AttributionReason
from ..results import Invitation
from . import connections as database
from . import cookies
from . import visits

if t.TYPE_CHECKING:
    from ..host.state import State
#: A typed text that can be nobody's code.
_NO_CODE = ""


class Brought(t.NamedTuple):
    """What is to be bound to a new user."""

    #: The visit that the cookie remembers, or a carried one; however old.
    touch: Touch | None = None
    #: The visit that this very request is; it goes before the cookie's.
    visit: Visit | None = None
    #: What was typed, normalised; it goes before both.
    code: str | None = None


def brought(state: State, code: str | None) -> Brought:
    """Return what a sign-up comes with.

    :param code: what was typed, or what :func:`carry` returned.
    """
    text = (code or "").strip()
    if cookies.is_signed(text):
        carried = cookies.verify(text, cookies.CARRIED)
        return Brought(carried) if carried is not None else Brought(code=_NO_CODE)
    typed = codes.normalized(text, state.settings) if text else None
    if text and typed is None:
        return Brought(code=_NO_CODE)
    if not has_request_context():
        return Brought(code=typed)
    visit = visits.of_this_request(state)
    if typed is not None and visit is not None and visit.code != typed:
        visit = None
    return Brought(cookies.read(state.settings), visit, typed)


def bind(
    state: State,
    db: sa.Connection,
    user_id: t.Any,
    brought: Brought,
    *,
    is_shared: bool = True,
) -> attribution.Outcome:
    """Bind what a sign-up comes with to its user; see :func:`attribution.attribute`.

    A link with an unknown code does not cost the visit that the cookie remembers: that takes two
    statements more.
    """
    touch, visit, code = brought
    if visit is not None:
        of_visit = Brought(visits.touch_of(state, visit), visit, code)
        outcome = _bind(state, db, user_id, of_visit, is_shared)
        is_unknown = outcome.reason is AttributionReason.unknown_code
        if not is_unknown or code is not None or touch is None:
            return outcome
    return _bind(state, db, user_id, Brought(touch, None, code), is_shared)


def _bind(
    state: State, db: sa.Connection, user_id: t.Any, brought: Brought, is_shared: bool
) -> attribution.Outcome:
    touch, visit, code = brought
    return attribution.attribute(
        db,
        state.models,
        state.settings,
        user_id,
        touch=touch,
        visit=visit,
        code=code,
        now=clock.now(),
        is_shared=is_shared,
        check=state.loaders.attribution_check,
    )


def invitation(state: State) -> Invitation | None:
    """Return who invited this visitor: whose code the request, or else the cookie, brings.

    At most one statement, or two where the request's code is nobody's. None where nobody did, where
    the visit is over, and for the visitor's own code.
    """
    if not has_request_context():
        return None
    visit, touch = visits.of_this_request(state), cookies.current_touch(state.settings)
    brought = [each.code for each in (visit, touch) if each is not None]
    if not brought:
        return None
    visitor = visits.visitor_id(state)
    with database.reading(state) as db:
        for code in dict.fromkeys(brought):
            owner = clicks.owner_of(db, state.models, code, visitor)
            if owner is not None:
                break
        else:
            return None
    loader = state.loaders.display_name
    return Invitation(code, None if loader is None else loader(owner))


def carry(state: State) -> str:
    """Return this request's visit, or the cookie's, as text to carry elsewhere, or nothing.

    One statement where the request brings a code of its own, which may be nobody's.
    """
    if not has_request_context():
        return ""
    touch = cookies.current_touch(state.settings)
    if (visit := visits.of_this_request(state)) is not None:
        with database.reading(state) as db:
            if clicks.is_known(db, state.models, visit.code):
                touch = visits.touch_of(state, visit)
    return cookies.sign(touch, cookies.CARRIED) if touch is not None else ""
