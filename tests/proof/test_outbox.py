"""Who sells, who delivers and the database are killed: nothing is lost, and nothing is made up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import typing as t
from pathlib import Path
from time import monotonic
from time import sleep

import pytest
import sqlalchemy as sa

from ..hosts import Host
from ..money import PATIENCE
from ..servers import Server
from .teller import make
from .teller import REFERRERS

ROOT = Path(__file__).parents[2]


class Program:
    """A process of :mod:`tests.proof.teller`."""

    def __init__(self, what: str, url: str, path: Path) -> None:
        self.command = [sys.executable, "-m", "tests.proof.teller", what, url, str(path)]
        self.path = path
        self.start()

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(self.command, cwd=ROOT, env=environment)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def lines(self) -> list[str]:
        return self.path.read_text().split("\n")[:-1] if self.path.exists() else []

    def wait_for(self, more: int) -> None:
        """Wait until it has written so many further lines."""
        end, enough = monotonic() + PATIENCE, len(self.lines()) + more
        while len(self.lines()) < enough:
            assert monotonic() < end, f"{self.command[3]} does not get on"
            assert self.process.poll() is None
            sleep(0.01)


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.crash)])
def test_whoever_is_killed_each_sale_is_told_and_no_other(kills: int, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with Server.running() as server:
        host = make(server.url)
        host.create_tables()
        host.cli("db", "upgrade")
        for _ in range(REFERRERS):
            user = host.add_user()
            with host.app.app_context():
                host.referral.get_or_create_code(user)
                host.db.session.commit()
        seller = Program("sell", server.url, tmp_path / "sold")
        tellers = [Program("tell", server.url, tmp_path / f"told_{each}") for each in range(2)]
        try:
            for number in range(kills):
                seller.wait_for(chance.randrange(10, 40))
                tellers[0].wait_for(chance.randrange(5, 20))
                if number % 4 == 3:
                    os.kill(server.pid, signal.SIGKILL)
                    with host.app.app_context():
                        host.db.engine.dispose()
                    server.start()
                else:
                    killed = (seller, *tellers)[number % 4]
                    killed.kill()
                    killed.start()
            seller.wait_for(10)
            seller.kill()
            _wait_until_empty(host)
            for teller in tellers:
                # They stop when they are asked to, and have nothing in hand then.
                teller.process.terminate()
                assert teller.process.wait(PATIENCE) == 0
        finally:
            for program in (seller, *tellers):
                program.kill()
        check(host, seller, tellers)
        host.close()


def _wait_until_empty(host: Host) -> None:
    row = host.referral.models.ReferralOutbox
    end = monotonic() + PATIENCE
    while True:
        with host.app.app_context():
            left = host.db.session.scalar(sa.select(sa.func.count(row.id)))
        if not left:
            return
        assert monotonic() < end, f"{left} events wait"
        sleep(0.05)


def check(host: Host, seller: Program, tellers: list[Program]) -> None:
    told: dict[str, list[tuple[str, str]]] = {}
    for line in (line for teller in tellers for line in teller.lines()):
        event, subject, message = line.split()
        told.setdefault(event, []).append((subject, message))
    reward, click = host.referral.models.ReferralReward, host.referral.models.ReferralClick
    with host.app.app_context():
        found = host.db.session.execute(
            sa.select(reward.id, reward.membership_id, reward.user_id)
        ).all()
        bound = host.db.session.scalars(
            sa.select(click.referred_user_id).where(click.referred_user_id.is_not(None))
        ).all()
        order = host.db.session.execute(
            sa.select(host.Wallet.user_id, host.Wallet.reference_id).order_by(host.Wallet.id)
        ).all()
    assert set(seller.lines()) <= {row.membership_id for row in found}
    assert {subject for subject, _ in told["conversion_created"]} == {
        row.membership_id for row in found
    }
    assert {subject for subject, _ in told["conversion_credited"]} == {str(row.id) for row in found}
    assert {subject for subject, _ in told["user_attributed"]} == set(map(str, bound))
    # An event is told again under the same id only.
    for each in told.values():
        assert len({subject for subject, _ in each}) == len(set(each))
    assert_order(order, tellers)


def assert_order(order: t.Sequence[t.Any], tellers: list[Program]) -> None:
    """What one teller was told first of a referrer's was earned first."""
    place = {str(reference): number for number, (_, reference) in enumerate(order)}
    owner = {str(reference): user for user, reference in order}
    for teller in tellers:
        last: dict[t.Any, int] = {}
        for line in teller.lines():
            event, subject, _ = line.split()
            if event == "conversion_credited":
                assert place[subject] >= last.get(owner[subject], -1)
                last[owner[subject]] = place[subject]
