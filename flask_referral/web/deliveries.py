"""``POST …/webhooks/<provider>``: verified, once, in one transaction."""

from __future__ import annotations

import sqlalchemy as sa
from flask import current_app
from flask import jsonify
from flask import request
from flask.typing import ResponseReturnValue

from ..db import failures
from ..errors import InvalidEvent
from ..errors import InvalidSignature
from ..errors import UnknownProvider
from ..host.state import current_state
from ..host.state import State
from ..payments import handling
from ..payments import providers
from ..payments.events import Outcome
from ..payments.events import WebhookEvent
from . import bodies
from . import connections as database
from .errors import error_response
from .errors import ErrorCode

#: The largest body that is read, in bytes.
LARGEST_BODY = 256 * 1024
#: Seconds after which a provider may try again when the database is away or busy.
_RETRY_AFTER = 60
#: A delivery waits so many times as long as a visit for somebody's lock.
_PATIENCE = 10


def receive(provider: str) -> ResponseReturnValue:
    """Take a delivery: 200 when it is dealt with, whatever came of it.

    401 for a signature that is not right, 400 for a body that is not the provider's, 413 for
    one over 256 KiB, 404 for a provider that is not set up, 503 when the database is away or busy,
    so that the provider tries again.
    """
    state = current_state()
    try:
        event = providers.read(
            state, provider, bodies.read(LARGEST_BODY, "A delivery"), request.headers
        )
        outcome = _handle(state, provider, event)
    except UnknownProvider as error:
        return error_response(str(error), 404, ErrorCode.unknown_provider)
    except InvalidSignature:
        # What exactly was wrong helps nobody but a forger.
        message = "The signature of this delivery is not valid."
        return error_response(message, 401, ErrorCode.invalid_signature)
    except InvalidEvent as error:
        return error_response(str(error), 400, ErrorCode.invalid_event)
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        if not (failures.is_away(error) or failures.is_contended(error)):
            raise
        current_app.logger.error("A webhook of %s has to wait", provider, exc_info=error)
        what = "away" if failures.is_away(error) else "busy"
        response = error_response(f"The database is {what}; send this delivery again later.", 503)
        response.headers["Retry-After"] = str(_RETRY_AFTER)
        return response
    if outcome == Outcome.unknown_user:
        payment = event.payment_id or event.membership_id
        current_app.logger.warning(
            "The buyer of payment %s is not known (event %s of %s), so nobody is credited; "
            "flask referral convert USER %s --payment-id %s --provider %s makes good. Once the "
            "buyer can be found, flask referral events retry does.",
            payment,
            event.id,
            provider,
            event.membership_id or payment,
            payment,
            provider,
        )
    return jsonify(outcome=outcome)


def _handle(state: State, provider: str, event: WebhookEvent) -> str:
    session = state.db.session()
    try:
        milliseconds = _PATIENCE * state.settings.lock_timeout_ms
        connection = state.models.connection(session)
        is_last = not database.is_joined(state, session)
        with database.waiting_at_most(connection, milliseconds, is_last=is_last):
            outcome = handling.handle(state, provider, event)
            session.commit()
    except BaseException:
        session.rollback()
        raise
    return outcome
