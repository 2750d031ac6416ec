"""Sales for the proofs: referred users, what providers deliver, what wallets hold."""

from __future__ import annotations

import functools
import json
import threading
import typing as t
from time import monotonic

import sqlalchemy as sa

from flask_referral.conversions.transaction import Transaction
from flask_referral.payments.handling import Headers
from flask_referral.payments.handling import Kind
from flask_referral.payments.handling import WebhookEvent

from ..hosts import Host
from ..visiting import make_code

#: Providers without signatures; :func:`listen` registers them.
PROVIDERS = ("json", "shop")
#: Seconds after which something that should have happened will not.
PATIENCE = 120


def listen(host: Host) -> Host:
    """Let a host hear of payments from :data:`PROVIDERS`."""
    for provider in PROVIDERS:
        host.referral.webhook(provider)(read)
    return host


def read(body: bytes, headers: Headers) -> WebhookEvent:
    """Read what :func:`post` sends: the fields of an event."""
    fields = json.loads(body)
    return WebhookEvent(**(fields | {"kind": Kind(fields["kind"])}))


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


def begin(host: Host) -> Transaction:
    """Return the transaction of ``db.session``, in which money moves."""
    state = host.referral.state
    return Transaction.begin(state.db.session(), state.models, state.settings, state.wallet_table)


def refer(host: Host, referrer: t.Any) -> t.Any:
    """Store a user whom ``referrer`` referred, and return the key."""
    user, code = host.add_user(), make_code(host, referrer)
    with host.app.test_request_context():
        assert host.referral.attribute(user, code=code).reason == "attributed"
        host.db.session.commit()
    return user


def wallet_rows(host: Host, user: t.Any) -> list[tuple[str, int, int]]:
    """Return (type, amount, balance after) of a user's wallet, oldest first."""
    wallet = host.Wallet
    with host.app.app_context():
        query = sa.select(wallet.type, wallet.amount_cents, wallet.balance_after_cents)
        found = host.db.session.execute(query.filter_by(user_id=user).order_by(wallet.id)).all()
        return [(row[0], row[1], row[2]) for row in found]


def balance(host: Host, user: t.Any) -> int:
    """Return a wallet's balance, which has to be the sum of its rows."""
    found = wallet_rows(host, user)
    last = found[-1][2] if found else 0
    assert sum(amount for _, amount, _ in found) == last
    return last


def pool(size: int) -> dict[str, t.Any]:
    """Return the setting that gives every thread a connection."""
    return {
        "SQLALCHEMY_ENGINE_OPTIONS": {
            "pool_size": size,
            "max_overflow": 0,
            "pool_timeout": PATIENCE,
        }
    }


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


def at_once(jobs: t.Sequence[t.Callable[[], None]]) -> None:
    """Run jobs in threads that start together, and raise what one of them raised."""
    barrier = threading.Barrier(len(jobs))

    def run(job: t.Callable[[], None]) -> None:
        barrier.wait(PATIENCE)
        job()

    threads = [Job(functools.partial(run, job)) for job in jobs]
    for thread in threads:
        thread.finish()
