"""A referral program with a past: rows written as they would have been over months."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import typing as t
import uuid

import sqlalchemy as sa

from .hosts import Host
from .visiting import make_code

#: Noon of a day around which histories are made.
NOON = dt.datetime(2026, 3, 15, 12, tzinfo=dt.UTC)
STATUSES = ("pending", "held", "credited", "reversed", "void")
#: Where visitors come from; None: directly.
SOURCES = (None, "newsletter", "blog.example", "x", "code")
PERSONAL = ("referrer_url", "user_agent", "ip_hash")

_payments = itertools.count(1)


class Referrer:
    """A user with a code, whose clicks and conversions are written at any time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.id = host.add_user()
        self.code = make_code(host, self.id)
        #: clicked at, the user who signed up, or None, and the source, or None
        self.clicks: list[tuple[dt.datetime, t.Any, str | None]] = []
        self.rewards: list[dict[str, t.Any]] = []

    def click(self, *moments: dt.datetime, by: t.Any = None, **values: t.Any) -> list[uuid.UUID]:
        """Write clicks; ``by`` is the user who signed up through the (only) one."""
        table = self.host.referral.models.ReferralClick.__table__
        rows = [
            {
                "id": uuid.uuid4(),
                "referral_code": self.code,
                "referrer_user_id": self.id,
                "referred_user_id": by,
                "clicked_at": moment,
                "bound_at": None if by is None else moment,
                "referrer_url": "https://example.org/page",
                "user_agent": "Firefox",
                "ip_hash": "2026-03:00",
            }
            | values
            for moment in moments
        ]
        execute(self.host, sa.insert(table), rows)
        self.clicks += [(moment, by, values.get("source")) for moment in moments]
        return [row["id"] for row in rows]

    def convert(
        self,
        moment: dt.datetime,
        status: str,
        cents: int,
        taken: int = 0,
        source: str | None = None,
    ) -> t.Any:
        """Write a new user's sign-up and purchase; return the user's key."""
        user = self.host.add_user()
        self.click(moment, by=user, source=source)
        id_ = uuid.uuid4()
        row = {
            "id": id_,
            "referrer_user_id": self.id,
            "referred_user_id": user,
            "referral_code": self.code,
            "whop_membership_id": f"mem_{id_}",
            "bonus_cents": cents,
            "converted_at": moment,
        }
        table = self.host.referral.models.ReferralConversion.__table__
        execute(self.host, sa.insert(table), [row])
        keys = {"id": id_, "conversion_id": id_, "referred_user_id": user}
        self.earn(moment, status, cents, taken, source=source, **keys)
        return user

    def earn(
        self, moment: dt.datetime, status: str, cents: int, taken: int = 0, **values: t.Any
    ) -> uuid.UUID:
        """Write what a payment earned the referrer, without a conversion; return its id."""
        row = {
            "id": uuid.uuid4(),
            "user_id": self.id,
            "role": "referrer",
            "provider": "host",
            "payment_id": f"pay_{next(_payments)}",
            "membership_id": "mem",
            "number": 1,
            "cents": cents,
            "reversed_cents": taken,
            "status": status,
            "created_at": moment,
        } | values
        execute(self.host, sa.insert(self.host.referral.models.ReferralReward.__table__), [row])
        self.rewards.append(row)
        id_: uuid.UUID = row["id"]
        return id_

    def lose(self, user: t.Any) -> None:
        """Delete a referred user's account; the sign-up was one all the same."""
        execute(self.host, sa.delete(self.host.User).where(self.host.User.id == user))

    def expected(self, now: dt.datetime, days: int) -> dict[str, t.Any]:
        """Count in plain Python what the statistics should say, without code and link."""

        def figures(
            is_counted: t.Callable[[dt.datetime, str | None], bool] = lambda at, source: True,
        ) -> dict[str, t.Any]:
            clicks = [item for item in self.clicks if is_counted(item[0], item[2])]
            rewards = [
                row for row in self.rewards if is_counted(row["created_at"], row.get("source"))
            ]
            paid = [row for row in rewards if row["status"] in ("credited", "reversed")]
            waiting = [row for row in rewards if row["status"] in ("pending", "held")]
            return {
                "clicks": len(clicks),
                "signups": sum(by is not None for _, by, _ in clicks),
                "conversions": sum(
                    row["number"] == 1 and row["status"] != "void" for row in rewards
                ),
                "earned_cents": sum(row["cents"] for row in paid),
                "pending_cents": sum(row["cents"] - row["reversed_cents"] for row in waiting),
                "reversed_cents": sum(row["reversed_cents"] for row in paid),
            }

        daily = []
        for index in range(days - 1, -1, -1):
            day = now.date() - dt.timedelta(days=index)
            row = figures(lambda at, source, day=day: at.date() == day)
            del row["pending_cents"], row["reversed_cents"]
            daily.append({"date": day.isoformat(), **row})
        sources = []
        for name in {source for _, _, source in self.clicks} | {
            row.get("source") for row in self.rewards
        }:
            row = figures(lambda at, source, name=name: source == name)
            del row["pending_cents"], row["reversed_cents"]
            if any(row.values()):
                sources.append({"source": name, **row})
        sources.sort(key=rank)
        return {"days": days, "totals": figures(), "daily": daily, "sources": sources}

    def stats(self, days: int = 30) -> dict[str, t.Any]:
        """Return what ``referral.stats`` says, without code and link."""
        with self.host.app.test_request_context():
            found = self.host.referral.stats(self.id, days).to_dict()
        assert found.pop("code") == self.code
        assert found.pop("link").endswith(f"/r/{self.code}")
        return found


def rank(row: dict[str, t.Any]) -> t.Any:
    """Return what sources are in the order of: most clicks first, then most of the rest."""
    name = row["source"] or ""
    return [-figure for key, figure in row.items() if key != "source"], name


def execute(host: Host, statement: t.Any, rows: list[dict[str, t.Any]] | None = None) -> None:
    """Run one statement and commit it."""
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(statement, rows)


def fetch(host: Host, table: sa.Table) -> list[t.Any]:
    """Return all rows of a table."""
    with host.app.app_context(), host.db.engine.connect() as connection:
        return list(connection.execute(sa.select(table)))


def add_past(referrer: Referrer, now: dt.datetime, rng: random.Random, days: int) -> None:
    """Write a random past of ``days`` days, with a liking for midnight."""
    odd = (
        dt.timedelta(0),
        dt.timedelta(microseconds=-1),
        dt.timedelta(microseconds=1),
        dt.timedelta(hours=9),
        dt.timedelta(hours=-9),
        dt.timedelta(hours=14, minutes=59, seconds=59),
    )

    def moment() -> dt.datetime:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        day = midnight - dt.timedelta(days=rng.randrange(days))
        found = day + (rng.choice(odd) if rng.random() < 0.5 else rng.random() * dt.timedelta(1))
        return min(found, now)

    for source in rng.sample(SOURCES, rng.randrange(1, len(SOURCES))):
        campaign = rng.choice((None, "summer", "winter"))
        moments = [moment() for _ in range(rng.randrange(1, 15))]
        referrer.click(*moments, source=source, utm_campaign=campaign)
    for _ in range(rng.randrange(3)):
        referrer.click(moment(), by=referrer.host.add_user(), source=rng.choice(SOURCES))
    for _ in range(rng.randrange(1, 7)):
        cents = rng.randrange(1, 2_000)
        status = rng.choice(STATUSES)
        taken = cents if status in ("reversed", "void") else rng.choice((0, rng.randrange(cents)))
        source = rng.choice(SOURCES)
        user = referrer.convert(moment(), status, cents, taken, source)
        if rng.random() < 0.4:
            # Renewals.
            renewal = {"number": 2, "referred_user_id": user, "source": source}
            referrer.earn(moment(), rng.choice(STATUSES[:3]), 7, **renewal)
        if rng.random() < 0.2:
            referrer.lose(user)
