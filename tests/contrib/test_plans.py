"""No page of the desk reads a table from end to end, however the list is searched or filtered."""

from __future__ import annotations

import datetime as dt
import re
import typing as t
import uuid

import pytest
import sqlalchemy as sa

from benchmarks import plans

from ..hosts import Host
from .conftest import MakeDesk

ROWS, REFERRERS, ACTS = 10_000, 1_000, 500
#: Rows that a page's statement may look at in one table: those of the page and what came of each.
MOST = 1_000
#: What may be chosen in each list.
FILTERS = {
    "codes": (),
    "referrals": (),
    "rewards": ("held", "pending", "credited", "reversed", "void"),
    "deliveries": ("waiting",),
    "disabled": (),
    "history": (),
}


def fill(host: Host) -> dict[str, str]:
    """Store a program with a past; return what an operator may search for."""
    models = host.referral.models
    users = sa.inspect(host.User).local_table
    began = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    numbers = range(1, ROWS + 1)

    def at(number: int) -> dt.datetime:
        return began + dt.timedelta(minutes=number)

    clicks = {n: uuid.UUID(int=n) for n in numbers}
    rewards = {n: uuid.UUID(int=ROWS + n) for n in numbers}
    #: What waits is rare, and old.
    status = {n: "held" if n < 4 else "pending" if n < 8 else "credited" for n in numbers}
    rows: dict[sa.Table, list[dict[str, t.Any]]] = {
        users: [{"id": n} for n in numbers],
        models.ReferralCode.__table__: [
            {"id": uuid.UUID(int=n), "user_id": n, "code": f"CODE{n}", "created_at": at(n)}
            for n in numbers
        ],
        models.ReferralIssuedCode.__table__: [
            {"code": f"OTHER{n}", "user_id": n, "issued_at": at(n), "is_current": True}
            for n in numbers
        ],
        models.ReferralClick.__table__: [
            {
                "id": clicks[n],
                "referral_code": f"CODE{n % REFERRERS + 1}",
                "referrer_user_id": n % REFERRERS + 1,
                "referred_user_id": n,
                "clicked_at": at(n),
                "bound_at": at(n),
            }
            for n in numbers
        ],
        models.ReferralReward.__table__: [
            {
                "id": rewards[n],
                "user_id": n % REFERRERS + 1,
                "referred_user_id": n,
                "role": "referrer",
                "provider": "whop" if n % 2 else "stripe",
                "payment_id": f"pay_{n}",
                "membership_id": f"mem_{n}",
                "number": 1,
                "cents": 1000,
                "status": status[n],
                "created_at": at(n),
                "click_id": clicks[n],
            }
            for n in numbers
        ],
        models.ReferralEvent.__table__: [
            {
                "provider": "whop",
                "kind": kind,
                "event_id": f"{kind}_{n}",
                "type": "payment" if kind == "delivery" else "release",
                "payment_id": f"pay_{n}",
                "membership_id": f"mem_{n}",
                "outcome": "known",
                "received_at": at(n),
                "user_id": n,
                "details": {"by": "ada@example.com", "before": {}, "after": {}}
                if kind == "operator" or n < 4
                else sa.null(),
            }
            for kind, most in (("delivery", ROWS), ("operator", ACTS))
            for n in numbers[:most]
        ],
        models.ReferralDisabled.__table__: [
            {"user_id": n, "reason": "known", "since": at(n)} for n in numbers
        ],
    }
    with host.app.app_context(), host.db.engine.begin() as db:
        for table, values in rows.items():
            waiting = [row for row in values if isinstance(row.get("details"), dict)]
            plain = [
                {name: value for name, value in row.items() if name != "details"}
                for row in values
                if row not in waiting
            ]
            for each in filter(None, (plain, waiting)):
                db.execute(sa.insert(table), each)
        db.exec_driver_sql("ANALYZE")
    middle = ROWS // 2
    return {
        "a user": str(middle),
        "a referrer": str(REFERRERS // 2),
        "a code": f"CODE{REFERRERS // 2}",
        "a former or chosen code": f"other{middle}",
        "a payment": f"pay_{middle}",
        "a membership": f"mem_{middle}",
        "a reward": str(rewards[middle]),
        "nothing": "no such thing",
    }


def looked_at(host: Host, sent: list[plans.Sent]) -> dict[str, int]:
    """Return of how many rows of each table a statement looked at the most."""
    found: dict[str, int] = {}
    with host.app.app_context(), host.db.engine.connect() as db:
        # As on a disk without a moving arm: the tables of a test are small enough for a planner
        # that fears the arm to read all of them.
        db.exec_driver_sql("SET LOCAL random_page_cost = 1.1")
        for each in sent:
            nodes = [each.explain(db, "ANALYZE")["Plan"]]
            while nodes:
                node = nodes.pop()
                nodes += node.get("Plans", ())
                removed = sum(value for name, value in node.items() if "Removed by" in name)
                count = int((node["Actual Rows"] + removed) * node["Actual Loops"])
                if "Relation Name" in node:
                    table = node["Relation Name"]
                    found[table] = max(found.get(table, 0), count)
    return found


def whole(host: Host, sent: list[plans.Sent]) -> list[str]:
    """Return what SQLite reads from end to end, and not by the order of an index."""
    found = []
    with host.app.app_context(), host.db.engine.connect() as db:
        for each in sent:
            rows = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {each.text}", each.parameters)
            found += [
                row.detail
                for row in rows
                if re.match(r"SCAN referral_\w+(?! USING)", row.detail)
                and "USING" not in row.detail
            ]
    return found


def visits(meant: dict[str, str]) -> t.Iterator[tuple[str, dict[str, str]]]:
    for view, filters in FILTERS.items():
        yield view, {}
        for name in filters:
            yield view, {"status": name}
        for text in meant.values():
            yield view, {"q": text}
            for name in filters[:1]:
                yield view, {"q": text, "status": name}


def test_no_list_and_no_search_reads_a_whole_table(make_desk: MakeDesk) -> None:
    host = make_desk()
    meant = fill(host)
    client = host.client()
    with host.app.app_context():
        engine = host.db.engine
    is_postgresql = engine.dialect.name == "postgresql"
    bad = {}
    pages = 0
    for view, query in visits(meant):
        address: str | None = f"/admin/referral_{view}/"
        # The second page begins in the index, where the first one ended.
        for _ in range(2):
            with plans.sent(engine) as seen:
                page = client.get(address, query_string=query)
            assert page.status_code == 200 and seen
            pages += 1
            if is_postgresql:
                many = {k: v for k, v in looked_at(host, seen).items() if v > MOST}
            else:
                many = dict.fromkeys(whole(host, seen), 1)
            if many:
                bad[view, *query.items()] = many
            link = re.search(r'rel="next" href="[^"]*before=([\w-]+)"', page.text)
            if link is None:
                break
            query = {**query, "before": link[1]}
    assert bad == {}
    assert pages > len(list(visits(meant)))


@pytest.mark.parametrize("index", ["idx_referral_rewards_membership_id"])
def test_a_missing_index_of_the_lists_would_be_noticed(make_desk: MakeDesk, index: str) -> None:
    host = make_desk()
    meant = fill(host)
    with host.app.app_context(), host.db.engine.begin() as db:
        db.exec_driver_sql(f"DROP INDEX {index}")
    with host.app.app_context():
        engine = host.db.engine
    with plans.sent(engine) as seen:
        host.client().get("/admin/referral_rewards/", query_string={"q": meant["a membership"]})
    if engine.dialect.name == "postgresql":
        assert looked_at(host, seen)["referral_rewards"] > MOST
    else:
        assert whole(host, seen)
