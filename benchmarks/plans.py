"""The plans that the statements of the hot paths get."""

from __future__ import annotations

import contextlib
import datetime as dt
import typing as t

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from flask_referral import Referral
from flask_referral.host.state import State

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
#: A page of referrals that begins in the middle of a year of them.
_MIDDLE = int((dt.datetime.now(dt.UTC) - dt.timedelta(days=180)).timestamp() * 1_000_000)
_OLDER = f"?before={_MIDDLE}-{'f' * 32}"
_PLANNED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


class Scan(t.NamedTuple):
    """How a statement reads a table."""

    node: str
    table: str
    #: None where none is used
    index: str | None
    #: Whether all of the table, or of the index, is read.
    is_whole: bool

    def __str__(self) -> str:
        return f"{self.node} {self.index or self.table}"


class Sent(t.NamedTuple):
    """A statement as it went to the driver."""

    text: str
    parameters: t.Any

    def explain(self, connection: sa.Connection, *options: str) -> dict[str, t.Any]:
        """Return the plan, as PostgreSQL's JSON says it."""
        prefix = f"EXPLAIN ({', '.join((*options, 'FORMAT JSON'))}) "
        # Of what is executed for many rows, the first.
        first = self.parameters[0] if isinstance(self.parameters, list) else self.parameters
        found = connection.exec_driver_sql(prefix + self.text, first).scalar_one()
        plan: dict[str, t.Any] = found[0]
        return plan


@contextlib.contextmanager
def sent(engine: sa.Engine) -> t.Iterator[list[Sent]]:
    """Collect what is sent over an engine and has a plan."""
    seen: list[Sent] = []

    def collect(
        connection: t.Any, cursor: t.Any, statement: str, parameters: t.Any, *rest: t.Any
    ) -> None:
        if statement.lstrip().startswith(_PLANNED):
            seen.append(Sent(statement, parameters))

    event.listen(engine, "before_cursor_execute", collect)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", collect)


def hot_paths(app: Flask, referrer: t.Any, code: str) -> dict[str, list[Scan]]:
    """Do each hot piece of work once, and return how its statements read their tables.

    The work is done by the routes and the public methods. ``X-User`` has to name the user who is
    logged in, and ``REFERRAL_RENEWALS`` has to be 1.

    :param referrer: a user with very many clicks, through ``code``.
    """
    referral: Referral = app.extensions["referral"]
    with app.app_context():
        state = referral.state
        engine = state.engine
        new, visitor, typing = (_add_user(state) for _ in range(3))
    found: dict[str, list[Scan]] = {}
    for name, do in _work(app, referral, referrer, code, new, visitor, typing):
        with sent(engine) as seen:
            do()
        with engine.connect() as connection:
            plans = [each.explain(connection)["Plan"] for each in seen]
        found[name] = [scan for plan in plans for scan in scans(plan)]
    return found


def scans(plan: dict[str, t.Any]) -> t.Iterator[Scan]:
    """Yield how a plan reads its tables."""
    node = plan["Node Type"]
    if "Scan" in node and "Relation Name" in plan:
        used = list(_indexes(plan))
        names = " and ".join(each["Index Name"] for each in used)
        # Without a condition all of it is read, or all that a partial one has.
        is_whole = not any("Index Cond" in each for each in used)
        yield Scan(node, plan["Relation Name"], names or None, is_whole)
    for below in plan.get("Plans", ()):
        yield from scans(below)


def _indexes(plan: dict[str, t.Any]) -> t.Iterator[dict[str, t.Any]]:
    if "Index Name" in plan:
        yield plan
    elif plan["Node Type"].startswith("Bitmap"):
        # The indexes of a bitmap are in nodes of their own below it.
        for below in plan["Plans"]:
            yield from _indexes(below)


def _work(
    app: Flask,
    referral: Referral,
    referrer: t.Any,
    code: str,
    new: t.Any,
    visitor: t.Any,
    typing: t.Any,
) -> t.Iterator[tuple[str, t.Callable[[], object]]]:
    client = app.test_client(use_cookies=False)
    agent = {"User-Agent": BROWSER}
    cookies: list[str] = []

    def visit() -> None:
        response = client.get(f"/r/{code}", headers=agent)
        cookies.append(response.headers["Set-Cookie"].partition(";")[0])

    def method(call: t.Callable[[], t.Any], reason: str) -> None:
        with app.test_request_context(headers={**agent, "Cookie": cookies[0]}):
            result = call()
            assert result.reason == reason, result
            referral.state.db.session.commit()

    yield "generate, code exists", lambda: _post(client, referrer)
    yield "generate, new code", lambda: _post(client, new)
    yield "click", visit
    yield "repeated click without its cookie", visit
    yield (
        "attribution of a visit",
        lambda: method(lambda: referral.attribute(visitor), "attributed"),
    )
    yield (
        "attribution of a typed code",
        lambda: method(lambda: referral.attribute(typing, code), "attributed"),
    )
    yield (
        "conversion",
        lambda: method(lambda: referral.convert(visitor, "plan_1"), "converted"),
    )
    yield (
        "renewal",
        lambda: method(lambda: referral.convert(visitor, "plan_1", payment_id="plan_2"), "renewed"),
    )
    yield (
        "reversal",
        lambda: method(lambda: referral.reverse("plan_1", reason="refund"), "reversed"),
    )
    yield (
        "statistics",
        lambda: _ok(client.get("/api/referral/stats", headers={"X-User": str(referrer)})),
    )
    for name, query in (("newest", ""), ("older", _OLDER)):
        yield f"{name} referrals", lambda query=query: _referrals(client, referrer, query)


def _post(client: FlaskClient, user: t.Any) -> None:
    _ok(client.post("/api/referral/generate", headers={"X-User": str(user)}))


def _referrals(client: FlaskClient, user: t.Any, query: str) -> None:
    _ok(client.get(f"/api/referral/referrals{query}", headers={"X-User": str(user)}))


def _ok(response: t.Any) -> None:
    assert response.status_code == 200, response.text


def _add_user(state: State) -> t.Any:
    table = state.models.user_key.table
    key = sa.select(sa.func.max(state.models.user_key) + 1).scalar_subquery()
    insert = sa.insert(table).values(id=key, created_at=dt.datetime.now(dt.UTC))
    with state.engine.begin() as connection:
        return connection.execute(insert.returning(state.models.user_key)).scalar_one()
