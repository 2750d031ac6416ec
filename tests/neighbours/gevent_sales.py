"""Visits, sign-ups and sales of one referrer at once, in greenlets; prints what it saw.

Run by :mod:`.test_gevent` as a program of its own, because gevent changes the whole process::

    python -m tests.neighbours.gevent_sales postgresql+psycopg2://... CODE PEOPLE
"""

from __future__ import annotations

# First of all: what is imported later finds the patched modules.
import gevent.monkey

gevent.monkey.patch_all()

from psycogreen.gevent import patch_psycopg  # noqa: E402

patch_psycopg()

import json  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
import sqlalchemy as sa  # noqa: E402
from flask import request  # noqa: E402

from ..hosts import Host  # noqa: E402
from ..hosts import make_host  # noqa: E402
from ..visiting import browser  # noqa: E402

#: Seconds that the host's own network call takes, in the middle of its transaction.
CALL = 0.02


def main(url: str, code: str, people: int) -> None:
    """Let everybody follow the link, sign up and buy, all at once."""
    options = {"pool_size": 5, "max_overflow": 5, "connect_args": {"application_name": "greenlets"}}
    host = make_host(
        url, SQLALCHEMY_ENGINE_OPTIONS=options, REFERRAL_COOKIE_SECURE=False, TESTING=False
    )
    held = {"now": 0, "most": 0}

    @host.app.post("/sign-up-and-buy")
    def sign_up_and_buy() -> dict[str, str]:
        user = host.User(name=request.args["name"])
        host.db.session.add(user)
        bound = host.referral.attribute(user)
        host.db.session.commit()
        held["now"] += 1
        held["most"] = max(held["most"], held["now"])
        host.db.session.execute(sa.text("SELECT pg_sleep(0.01)"))
        sold = host.referral.convert(user.id, f"mem_{user.id}")
        gevent.sleep(CALL)
        host.db.session.commit()
        held["now"] -= 1
        return {"bound": bound.reason, "sold": sold.reason}

    greenlets = [gevent.spawn(live, host, code, number) for number in range(people)]
    gevent.joinall(greenlets, timeout=90, raise_error=True)
    answers = [greenlet.value for greenlet in greenlets]
    print(json.dumps({"answers": answers, "at_once": held["most"]}))


def live(host: Host, code: str, number: int) -> dict[str, str]:
    """Be one visitor, from the link to the purchase."""
    client = browser(host)
    client.environ_base["REMOTE_ADDR"] = f"10.0.{number // 250}.{number % 250}"
    client.get(f"/r/{code}")
    answer = client.post(f"/sign-up-and-buy?name=n{number}")
    assert answer.status_code == 200, answer.text
    told: dict[str, str] = answer.get_json()
    return told


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
