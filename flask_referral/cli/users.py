"""``flask referral stats``, ``export`` and ``erase``: one user."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from .. import clock
from .. import stats as station
from ..errors import ConfigurationError
from ..host.identity import convert_key
from ..results import Stats
from ..sources import CODE
from ..sources import OTHER
from ..upkeep import acts
from ..upkeep import personal
from ..web import reports
from ..web.links import share_link
from . import batches
from .batches import plural
from .group import confirm
from .group import json_option
from .group import operated
from .group import report
from .group import state
from .group import yes_option

_CODES = {
    "removed": "The code is removed",
    "replaced": "The code is replaced by one that nobody has seen, for the conversions that stay",
    "none": "There was no code",
}
#: What no site and no tag is called like.
_SOURCES = {None: "(direct)", CODE: "(a code that was typed)", OTHER: "(all others)"}

days_option = click.option(
    "--days",
    type=click.IntRange(1, station.MOST_DAYS),
    default=station.DEFAULT_DAYS,
    show_default=True,
    help="How many days to list; today is the last.",
)


@click.command()
@click.argument("user")
@days_option
@json_option
@with_appcontext
def stats(user: str, days: int, as_json: bool) -> None:
    """Show what the code of USER (an id) has brought."""
    current = state()
    key = convert_key(current.models.user_key, user)
    no_link: list[str] = []

    def link(code: str) -> str | None:
        try:
            return share_link(current, code)
        except ConfigurationError as error:
            # A request may know what a command does not.
            no_link.append(str(error))
            return None

    found = reports.stats(current, key, days, link)
    report(as_json, found, _table(Stats.of(found), *no_link))


@click.command()
@click.argument("user")
@json_option
@with_appcontext
def export(user: str, as_json: bool) -> None:
    """Print all that is known of USER (an id), always as JSON.

    Of other people it tells nothing personal.
    """
    current = state()
    key = convert_key(current.models.user_key, user)
    with current.engine.connect() as connection:
        data = personal.export(connection, current.models, current.wallet_table, key)
    report(True, data, "")


@click.command()
@click.argument("user")
@operated()
@yes_option
@json_option
@with_appcontext
def erase(user: str, by: acts.Operator, yes: bool, as_json: bool) -> None:
    """Remove the code of USER (an id), its clicks, and personal data of USER's own visits.

    Deliveries of USER's purchases that wait to be handled once more are forgotten.

    The wallet is untouched, and conversions and rewards stay as the record of what was paid until
    the application deletes the user.
    """
    current = state()
    key = convert_key(current.models.user_key, user)
    confirm(f"Erase the code, clicks and visits of user {key}? This cannot be undone.", yes)
    now = clock.now()
    with batches.connection() as connection:
        erased = personal.erase(connection, current.models, key, now)
        acts.record(
            connection,
            current.models,
            by,
            acts.Act.erase,
            now=now,
            user_id=key,
            after=erased._asdict(),
        )
        connection.commit()
    text = (
        f"{_CODES[erased.code]}; {plural(erased.clicks, 'click')} deleted, "
        f"{plural(erased.own_clicks, 'visit')} of the user's own cleared"
    )
    if erased.deliveries:
        text += f", {plural(erased.deliveries, 'delivery', 'deliveries')} forgotten"
    report(as_json, {"user": key, **erased._asdict()}, f"{text}.")


def _table(stats: Stats, no_link: str | None = None) -> str:
    totals = stats.totals
    lines = [
        f"Code         {stats.code or 'none yet'}",
        f"Link         {stats.link or no_link or 'none yet'}",
        f"Clicks       {totals.clicks:,}",
        f"Sign-ups     {totals.signups:,}",
        f"Conversions  {totals.conversions:,}",
        f"Earned       {plural(totals.earned_cents, 'cent')}",
        f"Pending      {plural(totals.pending_cents, 'cent')}",
        f"Reversed     {plural(totals.reversed_cents, 'cent')}",
        "",
        f"{'Day (UTC)':<10}  {'Clicks':>9}  {'Sign-ups':>8}  {'Conversions':>11}  "
        f"{'Earned cents':>12}",
    ]
    lines += [
        f"{day.date}  {day.clicks:>9,}  {day.signups:>8,}  {day.conversions:>11,}  "
        f"{day.earned_cents:>12,}"
        for day in stats.daily
    ]
    if stats.sources:
        lines += [
            "",
            f"{'Clicks':>9}  {'Sign-ups':>8}  {'Conversions':>11}  {'Earned cents':>12}  Source",
        ]
    lines += [
        f"{source.clicks:>9,}  {source.signups:>8,}  {source.conversions:>11,}  "
        f"{source.earned_cents:>12,}  {named_source(source.source)}"
        for source in stats.sources
    ]
    return "\n".join(lines)


def named_source(source: str | None) -> str:
    """Return what operators call a source."""
    return _SOURCES.get(source) or str(source)
