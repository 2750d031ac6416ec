"""What providers deliver, for the proofs; and threads that may not hang."""

from __future__ import annotations

import datetime as dt
import json
import threading
import typing as t
from time import monotonic

from flask_referral.payments.events import Headers
from flask_referral.payments.events import WebhookEvent

from ..hosts import Host
from ..money import PATIENCE

#: Providers without signatures; :func:`listen` registers them.
PROVIDERS = ("json", "shop")


def listen(host: Host) -> Host:
    """Let a host hear of payments from :data:`PROVIDERS`."""
    for provider in PROVIDERS:
        host.referral.webhook(provider)(read)
    return host


def read(body: bytes, headers: Headers) -> WebhookEvent:
    """Read what :func:`post` sends: the fields of an event."""
    fields = json.loads(body)
    if "occurred_at" in fields:
        fields["occurred_at"] = dt.datetime.fromisoformat(fields["occurred_at"])
    return WebhookEvent(**fields)


def post(host: Host, provider: str = "json", **fields: t.Any) -> t.Any:
    """Deliver an event, and return the response."""
    return host.client().post(f"/api/referral/webhooks/{provider}", json=fields)


def deliver(host: Host, provider: str = "json", **fields: t.Any) -> str:
    """Deliver an event until it is accepted, as providers do, and return its outcome."""
    end = monotonic() + PATIENCE
    while (response := post(host, provider, **fields)).status_code == 503:
        assert monotonic() < end
    assert response.status_code == 200, response.get_data(as_text=True)
    outcome: str = response.get_json()["outcome"]
    return outcome


class Job(threading.Thread):
    """A function in a thread of its own; :meth:`finish` raises what it raised."""

    def __init__(self, job: t.Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._job = job
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._job()
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        self.join(PATIENCE)
        assert not self.is_alive(), "it hangs"
        if self._error is not None:
            raise self._error
