"""Servers and programs are killed in the middle of sales; nothing is lost and nothing is halved."""

from __future__ import annotations

import collections
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

from ..money import PATIENCE
from ..servers import Server
from .audit import audit
from .writer import BONUS
from .writer import make
from .writer import referrer_name
from .writer import REFERRERS
from .writer import taken_back
from .writer import WRITERS

ROOT = Path(__file__).parents[2]


class Writers:
    """The process of :mod:`tests.proof.writer`, and what it has acknowledged."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *last: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.proof.writer", self.url, str(self.folder), *last],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def acknowledged(self) -> dict[str, set[str]]:
        """Return the memberships of each step."""
        found: dict[str, set[str]] = collections.defaultdict(set)
        for path in self.folder.iterdir():
            for line in path.read_text().split("\n")[:-1]:
                step, _, membership = line.partition(" ")
                found[step].add(membership)
        assert not found["answered"], found["answered"]
        return found

    def wait_for(self, more: int) -> None:
        """Wait until this many further steps are acknowledged."""
        end = monotonic() + PATIENCE
        enough = self._size() + more
        while self._size() < enough:
            assert monotonic() < end, "the writers do not get on"
            assert self.process is not None and self.process.poll() is None
            sleep(0.01)

    def _size(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.folder.iterdir())


@pytest.fixture
def server() -> t.Iterator[Server]:
    with Server.running() as server:
        yield server


@pytest.fixture
def writers(server: Server, tmp_path: Path) -> t.Iterator[Writers]:
    writers = Writers(server.url, tmp_path)
    yield writers
    writers.kill()


@pytest.mark.parametrize("kills", [3, pytest.param(24, marks=pytest.mark.crash)])
def test_nothing_is_lost_or_halved_when_something_is_killed(
    server: Server, writers: Writers, kills: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    host = make(server.url)
    host.create_tables()
    host.cli("db", "upgrade")
    for number in range(REFERRERS):
        user = host.add_user(name=f"referrer {number}")
        with host.app.app_context():
            host.referral.get_or_create_code(user)
            host.db.session.commit()

    def check() -> None:
        acknowledged = writers.acknowledged()
        with (
            host.app.app_context(),
            host.db.engine.connect().execution_options(
                isolation_level="REPEATABLE READ"
            ) as connection,
        ):
            found = audit(connection, host)
            event = host.referral.models.ReferralEvent
            refunded = set(
                connection.scalars(sa.select(event.membership_id).filter_by(kind="refund"))
            )
            orders = set(
                connection.scalars(sa.select(host.User.name).where(host.User.name.like("mem_%")))
            )
        converted = {row.membership_id for row in found.rewards.values() if row.number == 1}
        renewed = {row.membership_id for row in found.rewards.values() if row.number == 2}
        assert acknowledged["buy"] <= converted
        assert acknowledged["renew"] <= renewed <= converted
        wanted = {m for m in acknowledged["take_back"] if taken_back(_sale(m))}
        assert wanted <= refunded
        # The host's order and the conversion are one transaction.
        assert orders == {m for m in converted if _sale(m) % 2 == 0}

    writers.start()
    for number in range(kills):
        writers.wait_for(chance.randrange(20, 120))
        if number % 3 == 2:
            writers.kill()
            check()
            writers.start()
            continue
        if number % 3 == 0:
            server.pg_ctl("-m", "immediate", "stop")
        else:
            os.kill(server.pid, signal.SIGKILL)
        with host.app.app_context():
            host.db.engine.dispose()
        server.start()
        check()
    writers.wait_for(20)
    writers.kill()

    # Everything is delivered again, what was never acknowledged included.
    last = max(_sale(m) for m in writers.acknowledged()["sign_up"]) + 1
    writers.start(str(last))
    assert writers.process is not None and writers.process.wait(PATIENCE * 5) == 0
    check()
    with host.app.app_context():
        found = audit(host.db.session, host)
        rows = host.db.session.execute(sa.select(host.User.name, host.User.id)).all()
        names = dict(t.cast(t.Any, rows))
    balances: dict[t.Any, int] = collections.Counter()
    for writer in range(WRITERS):
        for sale in range(last + 1):
            balances[names[referrer_name(writer, sale)]] += 2 * BONUS - taken_back(sale)
    assert len(found.rewards) == 2 * WRITERS * (last + 1)
    assert found.balances == balances
    host.close()


def _sale(membership: str) -> int:
    return int(membership.rpartition("_")[2])
