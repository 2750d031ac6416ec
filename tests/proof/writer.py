"""A program that sells to referred users until somebody kills it.

``python -m tests.proof.writer URL FOLDER LAST`` runs :data:`WRITERS` threads. Each goes through a
plan of its own, one sale after the other, tries again whatever fails, and writes a line to its
file in FOLDER when a step is committed. It goes on where the file ends; with LAST it takes every
step again up to that sale, as providers deliver again, and ends.
"""

from __future__ import annotations

import os
import sys
import threading
import typing as t
from pathlib import Path
from time import sleep

import sqlalchemy as sa

from ..hosts import Host
from ..hosts import make_host
from ..visiting import BROWSER
from ..visiting import browser
from ..visiting import COOKIE
from .sales import listen
from .sales import post

WRITERS = 8
REFERRERS = 3
BONUS = 1000


def make(url: str) -> Host:
    """Return the host that writers and the test share."""
    options = {
        "SQLALCHEMY_ENGINE_OPTIONS": {"pool_size": WRITERS, "max_overflow": 0},
        "REFERRAL_RENEWALS": None,
        "REFERRAL_CLICK_DURABILITY": "async",
        # Visitors differ by their agents alone.
        "REFERRAL_CLICKS_PER_ADDRESS": 2**31 - 1,
    }
    return listen(make_host(url, **options))


def referrer_name(writer: int, number: int) -> str:
    """Return whose link the buyer of a sale followed; few, so that their wallets are in demand."""
    return f"referrer {(writer + number) % REFERRERS}"


def taken_back(number: int) -> int:
    """Return how much of a sale's first bonus is taken back in the end, in cents."""
    return {0: BONUS // 2, 1: BONUS, 2: 0, 3: 0}[number % 4]


class _Writer:
    def __init__(self, host: Host, number: int, folder: Path) -> None:
        self.host = host
        self.number = number
        self.path = folder / f"writer_{number}"
        self.done = set(self.path.read_text().split("\n")) if self.path.exists() else set()
        self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def run(self, last: int | None) -> None:
        sale = 0
        while last is None or sale <= last:
            for step in (self.sign_up, self.buy, self.renew, self.take_back):
                line = f"{step.__name__} mem_{self.number}_{sale}"
                if last is not None or line not in self.done:
                    self.insist(step, sale)
                    os.write(self.file, f"{line}\n".encode())
            sale += 1

    def insist(self, step: t.Callable[[int], None], sale: int) -> None:
        while True:
            try:
                return step(sale)
            except (sa.exc.DBAPIError, ConnectionError):
                # The server is away; it comes back.
                sleep(0.02)

    def sign_up(self, sale: int) -> None:
        with self.host.app.app_context():
            session = self.host.db.session
            user = self.user(sale)
            if user is None:
                user = self.host.User(name=f"user_{self.number}_{sale}")
                session.add(user)
                session.commit()
            codes = self.host.referral.models.ReferralCode
            code = sa.select(codes.code).join(self.host.User, self.host.User.id == codes.user_id)
            name = referrer_name(self.number, sale)
            code = session.scalars(code.where(self.host.User.name == name)).one()
            user = user.id
        client = browser(self.host)
        client.get(f"/r/{code}", headers={"User-Agent": f"{BROWSER} {self.number}/{sale}"})
        cookie = client.get_cookie(COOKIE)
        if cookie is None:
            # The page was served, and nothing was recorded.
            raise ConnectionError
        with self.host.app.test_request_context(headers={"Cookie": f"{COOKIE}={cookie.value}"}):
            self.host.referral.attribute(user)
            self.host.db.session.commit()

    def buy(self, sale: int) -> None:
        membership = f"mem_{self.number}_{sale}"
        with self.host.app.app_context():
            user = self.user(sale).id
            if sale % 2 == 0:
                session = self.host.db.session
                # The host's own order, in the same transaction.
                if session.scalar(sa.select(self.host.User.id).filter_by(name=membership)) is None:
                    session.add(self.host.User(name=membership))
                self.host.referral.convert(user, membership, provider="json")
                session.commit()
                return
        self.deliver(kind="purchase", id=membership, membership_id=membership, user=user)

    def renew(self, sale: int) -> None:
        membership, payment = f"mem_{self.number}_{sale}", f"pay_{self.number}_{sale}"
        with self.host.app.app_context():
            user = self.user(sale).id
            if sale % 2:
                self.host.referral.convert(user, membership, payment_id=payment, provider="json")
                self.host.db.session.commit()
                return
        self.deliver(
            kind="purchase",
            id=payment,
            payment_id=payment,
            membership_id=membership,
            user=user,
        )

    def take_back(self, sale: int) -> None:
        membership = f"mem_{self.number}_{sale}"
        cents = taken_back(sale)
        if cents == BONUS:
            with self.host.app.app_context():
                self.host.referral.reverse(membership, reason="refund", provider="json")
                self.host.db.session.commit()
        elif cents:
            self.deliver(
                kind="refund",
                id=f"refund of {membership}",
                membership_id=membership,
                reference=f"refund of {membership}",
                amount_cents=30,
                total_cents=30 * BONUS // cents,
            )

    def user(self, sale: int) -> t.Any:
        query = sa.select(self.host.User).filter_by(name=f"user_{self.number}_{sale}")
        return self.host.db.session.scalars(query).one_or_none()

    def deliver(self, **fields: t.Any) -> None:
        response = post(self.host, **fields)
        if response.status_code == 503:
            raise ConnectionError
        if response.status_code != 200:
            os.write(self.file, f"answered {response.status_code} to {fields}\n".encode())


def main(url: str, folder: str, last: str = "") -> None:
    """Run the writers."""
    host = make(url)
    writers = [_Writer(host, number, Path(folder)) for number in range(WRITERS)]
    threads = [
        threading.Thread(target=writer.run, args=[int(last) if last else None])
        for writer in writers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
