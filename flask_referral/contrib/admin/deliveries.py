"""Deliveries of payment providers: how they ended, and once more."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa
from flask import abort
from flask import current_app
from flask import redirect
from flask import request
from flask import url_for
from flask.typing import ResponseReturnValue

from ... import clock
from ...clock import as_utc
from ...db import failures
from ...db import qualified
from ...errors import ReferralError
from ...payments import retries
from ...payments.known import DELIVERY
from ...upkeep import review
from . import lists
from .desk import route
from .tables import Table


class Deliveries(Table):
    """What payment providers reported."""

    make = staticmethod(lists.deliveries)
    about = "What payment providers reported. One that waits may be handled once more."

    @route("/<provider>/<path:event_id>", "GET", "POST")
    def detail(self, provider: str, event_id: str) -> ResponseReturnValue:
        """Show a delivery; handle it once more."""
        row = self._delivery(provider, event_id)
        if request.method == "GET":
            return self._show(row)
        self.refuse_other_sites()
        try:
            by = self.operator()
            if row.details is None:
                raise ReferralError(f"It ended in {row.outcome} and does not wait any more.")
            outcome = self.act(lambda: review.retry(self.state, by, row, clock.now()))
        except Exception as error:
            if isinstance(error, sa.exc.SQLAlchemyError) and not failures.is_contended(error):
                raise
            # Of a loader, a policy or a wallet. Whoever mends it looks into the log.
            if not isinstance(error, ReferralError):
                current_app.logger.exception(
                    "Delivery %s of %s could not be handled once more", event_id, provider
                )
            return self._show(row, retries.failure(self.state, error))
        address = url_for(".detail", provider=provider, event_id=event_id, done=outcome)
        return redirect(address, 303)

    def _show(self, row: t.Any, error: str | None = None) -> ResponseReturnValue:
        return self.show(
            "delivery.html",
            422 if error else 200,
            title="Delivery",
            row=row,
            received_at=as_utc(row.received_at),
            waits=row.details is not None,
            why=retries.WHY.get(row.outcome),
            error=error,
            reason=request.form.get("reason", ""),
            done=request.args.get("done"),
        )

    def _delivery(self, provider: str, event_id: str) -> t.Any:
        event = self.state.models.ReferralEvent.__table__
        query = sa.select(event).where(
            event.c.provider == provider,
            event.c.kind == DELIVERY,
            event.c.event_id == event_id,
        )
        row = self.read(lambda db: qualified.execute(db, query, {}).first())
        if row is None:
            abort(404)
        return row
