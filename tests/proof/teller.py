"""Programs with an outbox, until somebody kills them.

``python -m tests.proof.teller sell URL FILE`` sells to new referred users, and rolls every third
sale back; a line of FILE is a sale that was committed. ``… tell URL FILE`` delivers, and writes
down what it is told: the event, the reward's or conversion's id, and the message's.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import typing as t
from time import sleep

import sqlalchemy as sa

from flask_referral import OutboxEvent
from flask_referral.upkeep import deliverer

from ..hosts import Host
from ..hosts import make_host

REFERRERS = 3
#: The events that are delivered, and what each is known by.
TOLD = {
    "user_attributed": "user_id",
    "conversion_created": "membership_id",
    "conversion_credited": "reward_id",
}


def make(url: str) -> Host:
    """Return the host that the programs and the test share."""
    return make_host(url, REFERRAL_OUTBOX=True)


def main(what: str, url: str, path: str) -> None:
    """Sell or tell."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(*words: t.Any) -> None:
        os.write(file, f"{' '.join(map(str, words))}\n".encode())

    host = make(url)
    if what == "sell":
        _sell(host, write)
    else:
        _tell(host, write)


def _sell(host: Host, write: t.Callable[..., None]) -> None:
    number = 0
    while True:
        number += 1
        name = f"{os.getpid()}_{number}"
        try:
            with host.app.app_context():
                session, codes = host.db.session, host.referral.models.ReferralCode
                query = sa.select(codes.code).order_by(codes.created_at)
                found = session.scalars(query).all()
                user = host.User(name=name)
                session.add(user)
                session.flush()
                host.referral.attribute(user, code=found[number % REFERRERS])
                host.referral.convert(user, name)
                if number % 3 == 0:
                    session.rollback()
                    continue
                session.commit()
            write(name)
        except sa.exc.DBAPIError:
            # The server is away; it comes back.
            sleep(0.02)


def _tell(host: Host, write: t.Callable[..., None]) -> None:
    # What a deliverer that was killed had in hand is taken soon.
    deliverer.LEASE = dt.timedelta(seconds=1)

    for name, subject in TOLD.items():

        def tell(event: OutboxEvent, subject: str = subject) -> None:
            write(event.type, getattr(event.data, subject), event.id)

        host.referral.on(name)(tell)
    host.cli("deliver", "--watch")


if __name__ == "__main__":
    main(*sys.argv[1:])
