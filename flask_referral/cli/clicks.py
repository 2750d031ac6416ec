"""``flask referral rollup`` and ``purge``: what keeps the clicks small."""

from __future__ import annotations

import datetime as dt
import typing as t

import click
import sqlalchemy as sa
from flask.cli import with_appcontext

from .. import clicks
from .. import clock
from ..db.models import Models
from ..upkeep import deliverer
from ..upkeep import deliveries
from ..upkeep import purge as purging
from ..upkeep import rollup as summing
from . import batches
from .batches import plural
from .group import confirm
from .group import json_option
from .group import report
from .group import state
from .group import yes_option


@click.command()
@json_option
@with_appcontext
def rollup(as_json: bool) -> None:
    """Sum up the clicks of days that have ended.

    Statistics are the same with and without it; with it they stay fast for referrers with very
    many clicks. Run it once a day. It can be interrupted, repeated and run twice at once.
    """
    with batches.connection() as connection:
        closed = _roll_up(connection, state().models, clock.now())
    data = {
        "days": len(closed),
        "sums": sum(day.referrers for day in closed),
        "last_day": closed[-1].day.isoformat() if closed else None,
    }
    text = "All days that have ended are summed up already."
    if closed:
        text = f"Summed up {plural(len(closed), 'day')}, the last is {closed[-1].day}."
    report(as_json, data, text)


@click.command()
@click.option(
    "--clicks-older-than",
    "days",
    type=click.IntRange(0, 36_500),
    metavar="DAYS",
    required=True,
    help="The age from which clicks are purged.",
)
@click.option(
    "--delete",
    is_flag=True,
    help="Remove clicks that led to no sign-up; statistics stay the same.",
)
@yes_option
@json_option
@with_appcontext
def purge(days: int, delete: bool, yes: bool, as_json: bool) -> None:
    """Clear the personal data of old clicks: hashed address, user agent, referring page.

    Ids that were derived from an address are replaced once no cookie needs them any more. Who
    referred whom stays. Deliveries that wait to be handled once more lose what was kept of them
    after 180 days; where nobody referred the buyer, when the window (REFERRAL_COOKIE_MAX_AGE) is
    over. It can be interrupted, repeated and run twice at once.
    """
    question = f"Clear the personal data of all clicks older than {plural(days, 'day')}"
    if delete:
        question += ", and delete those that led to no sign-up"
    confirm(f"{question}? This cannot be undone.", yes)
    models, now = state().models, clock.now()
    before = now - dt.timedelta(days=days)
    forgotten = clicks.forgotten_since(state().settings, now)
    with batches.connection() as connection:
        if delete:
            # A click may go once a sum holds it.
            _roll_up(connection, models, now)
        purged = batches.run(
            connection,
            purging.batches(connection, models, before, forgotten=forgotten, delete=delete),
            label="Purging clicks",
            length=purging.count(connection, models, before, forgotten=forgotten, delete=delete),
            size=sum,
            summary=_summary,
        )
        window = dt.timedelta(seconds=state().settings.cookie_max_age)
        forgotten_deliveries = sum(
            batches.run(
                connection,
                deliveries.forget_old(connection, models, now, window),
                label="Forgetting deliveries",
                length=deliveries.count_old(connection, models, now, window),
                size=int,
                summary=lambda done: f"forgot {plural(sum(done), 'delivery', 'deliveries')}",
            )
        )
        deliverer.forget_old(connection, models, now)
        connection.commit()
    cleared, deleted = _totals(purged)
    data = {"cleared": cleared, "deleted": deleted, "deliveries": forgotten_deliveries}
    text = _summary(purged).capitalize()
    if forgotten_deliveries:
        text += f", forgot {plural(forgotten_deliveries, 'delivery', 'deliveries')}"
    report(as_json, data, f"{text}.")


def _roll_up(connection: sa.Connection, models: Models, now: dt.datetime) -> list[summing.Closed]:
    first, last = summing.first_open(connection, models), summing.last_closable(now)
    days_before: list[dt.date] = [] if first is None else [first - dt.timedelta(days=1)]

    def passed(closed: summing.Closed) -> int:
        # Days without clicks are passed over.
        days_before.append(closed.day)
        return (closed.day - days_before[-2]).days

    return batches.run(
        connection,
        summing.close(connection, models, now),
        label="Summing up days",
        length=0 if first is None else max(0, (last - first).days + 1),
        size=passed,
        summary=lambda closed: f"summed up {plural(len(closed), 'day')}",
    )


def _totals(purged: t.Iterable[purging.Purged]) -> tuple[int, int]:
    cleared = deleted = 0
    for batch in purged:
        cleared += batch.cleared
        deleted += batch.deleted
    return cleared, deleted


def _summary(purged: t.Iterable[purging.Purged]) -> str:
    cleared, deleted = _totals(purged)
    text = f"cleared {plural(cleared, 'click')}"
    return f"{text}, deleted {deleted:,}" if deleted else text
