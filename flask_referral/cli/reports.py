"""``flask referral overview`` and ``leaderboard``: the whole program."""

from __future__ import annotations

import typing as t

import click
from flask.cli import with_appcontext

from .. import leaderboard as ranking
from .. import stats as station
from .. import words
from ..referrals import MOST
from ..results import LeaderboardEntry
from ..results import Overview
from ..results import OverviewTotals
from ..web import reports
from .group import json_option
from .group import report
from .group import state
from .terminal import value
from .terminal import width
from .users import days_option
from .users import named_source

Cell = str | int


@click.command()
@days_option
@json_option
@with_appcontext
def overview(days: int, as_json: bool) -> None:
    """Show what the whole program brought and cost."""
    found = reports.overview(state(), days)
    report(as_json, found.to_dict(), _overview(found))


@click.command()
@click.option(
    "--days",
    type=click.IntRange(1, station.MOST_DAYS),
    help="Of how many days, today included.  [default: of all time]",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    default=ranking.DEFAULT_LIMIT,
    show_default=True,
    help="How many referrers.",
)
@json_option
@with_appcontext
def leaderboard(days: int | None, limit: int, as_json: bool) -> None:
    """List the referrers with the most customers."""
    found = reports.leaderboard(state(), days, limit)
    data = [{"user": entry.user_id, **entry.to_dict()} for entry in found]
    report(as_json, data, _board(found) if found else "Nobody has brought a customer yet.")


def _overview(found: Overview) -> str:
    waits = found.waiting
    parts = [
        _table(
            ("", f"{found.days} days", "All time"),
            [(name, show(found.period), show(found.totals)) for name, show in _TOTALS],
        ),
        f"Waiting: {waits.held:,} held for a review, {waits.due:,} due for flask referral mature, "
        f"{waits.deliveries:,} deliveries for flask referral events list.",
        _table(
            ("Day (UTC)", "Clicks", "Sign-ups", "Conversions", "Earned"),
            [
                (str(day.date), day.clicks, day.signups, day.conversions, _money(day.earned_cents))
                for day in found.daily
            ],
        ),
    ]
    named: list[tuple[tuple[str, ...], list[tuple[Cell, ...]]]] = [
        (
            ("Source", "Clicks", "Sign-ups", "Conversions", "Earned"),
            [
                (
                    named_source(each.source),
                    each.clicks,
                    each.signups,
                    each.conversions,
                    _money(each.earned_cents),
                )
                for each in found.sources
            ],
        ),
        (
            ("Campaign of links", "Clicks", "Sign-ups"),
            [(each.utm_campaign, each.clicks, each.signups) for each in found.utm_campaigns],
        ),
        (
            ("Campaign of rewards", "Conversions", "Payments", "Earned", "Owed", "Taken back"),
            [
                (
                    each.campaign,
                    each.conversions,
                    each.payments,
                    _money(each.earned_cents),
                    _money(each.pending_cents),
                    _money(each.reversed_cents),
                )
                for each in found.campaigns
            ],
        ),
    ]
    parts += [_table(titles, rows) for titles, rows in named if rows]
    return "\n\n".join(parts)


def _board(found: list[LeaderboardEntry]) -> str:
    rows = [
        (
            f"{entry.rank:>3}  {entry.user_id}" + (f"  {entry.name}" if entry.name else ""),
            entry.signups,
            entry.conversions,
            _money(entry.earned_cents),
        )
        for entry in found
    ]
    return _table(("     User", "Sign-ups", "Conversions", "Earned"), rows)


def _money(cents: int) -> str:
    return words.money(cents, state().settings.currency)


def _rate(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


_TOTALS: tuple[tuple[str, t.Callable[[OverviewTotals], Cell]], ...] = (
    ("Clicks", lambda totals: totals.clicks),
    ("Sign-ups", lambda totals: totals.signups),
    ("Conversions", lambda totals: totals.conversions),
    ("Sign-ups of clicks", lambda totals: _rate(totals.signup_rate)),
    ("Customers of sign-ups", lambda totals: _rate(totals.conversion_rate)),
    ("Paid", lambda totals: _money(totals.paid_cents)),
    ("Owed", lambda totals: _money(totals.pending_cents)),
    ("Taken back", lambda totals: _money(totals.reversed_cents)),
    ("Missing in wallets", lambda totals: _money(totals.shortfall_cents)),
)


def _table(titles: t.Sequence[str], rows: t.Sequence[t.Sequence[Cell]]) -> str:
    """Return a table whose first column is of texts and whose others are of figures."""
    lines = [titles]
    lines += [
        [f"{cell:,}" if isinstance(cell, int) else value(cell) for cell in row] for row in rows
    ]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            _padded(cell, most, is_figure=bool(place))
            for place, (cell, most) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _padded(cell: str, most: int, *, is_figure: bool) -> str:
    spaces = " " * (most - width(cell))
    return spaces + cell if is_figure else cell + spaces
