"""Under gevent with psycogreen, as README's "Beside other extensions" says."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import sqlalchemy as sa

from ..hosts import Host
from ..money import amounts
from ..visiting import add_referrer
from ..visiting import clicks

pytestmark = pytest.mark.neighbours

ROOT = Path(__file__).resolve().parent.parent.parent
PEOPLE = 40
#: Seconds; only a hung process takes so long.
PATIENCE = 120


def test_visits_and_sales_of_one_referrer_in_greenlets(
    postgresql_url: str, host_on: t.Callable[..., Host]
) -> None:
    host = host_on(postgresql_url)
    referrer, code = add_referrer(host)
    done = subprocess.run(
        [sys.executable, "-m", "tests.neighbours.gevent_sales", postgresql_url, code, str(PEOPLE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["answers"] == [{"bound": "attributed", "sold": "converted"}] * PEOPLE
    # Others went on while one waited for the database.
    assert told["at_once"] > 1
    assert len(clicks(host)) == PEOPLE
    assert amounts(host, referrer) == [1000] * PEOPLE
    with host.app.app_context():
        last = host.db.session.scalar(sa.select(sa.func.max(host.Wallet.balance_after_cents)))
        assert last == 1000 * PEOPLE
