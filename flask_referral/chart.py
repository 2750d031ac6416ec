"""A chart of days as plain numbers: bars, an axis with few and round ticks, and its labels.

Nothing here draws; the template puts the numbers into an SVG, and the texts beside it, where they
keep their size on a telephone.
"""

from __future__ import annotations

import datetime as dt
import itertools
import typing as t

if t.TYPE_CHECKING:
    from .results import StatsDay

#: More days than these are summed up by seven days, and by month.
MOST_BARS_OF_A_DAY = 45
MOST_BARS_OF_A_WEEK = 182
_WEEK = 7
_MOST_STEPS = 4
#: The drawing's width and height, in units of its own.
WIDTH, HEIGHT = 1000, 100
#: The share of a bar's place that the bar takes.
_FILLED = 0.72


class Bar(t.NamedTuple):
    """A day, seven days or a month: its figures, and where it stands in the drawing."""

    first: dt.date
    last: dt.date
    clicks: int
    signups: int
    conversions: int
    earned_cents: int
    #: in units of the drawing, whose origin is at the top left
    x: float
    width: float
    clicks_height: float
    signups_height: float
    conversions_height: float


class Chart(t.NamedTuple):
    """What is drawn."""

    bars: tuple[Bar, ...]
    #: from the top of the axis to 0, at equal distances
    ticks: tuple[int, ...]
    #: of the lines at the ticks, from the top
    lines: tuple[float, ...]

    @property
    def is_empty(self) -> bool:
        return not any(bar.clicks or bar.signups or bar.conversions for bar in self.bars)


def draw(days: t.Sequence[StatsDay], *, is_mirrored: bool = False) -> Chart:
    """Return the chart of a series of days.

    :param days: oldest first, without gaps; at least one.
    :param is_mirrored: whether time runs to the left, as in languages that are written so.
    """
    groups = _grouped(days)
    most = max(max(sum(getattr(day, name) for day in group) for name in _SHOWN) for group in groups)
    ticks = _ticks(most)
    place = WIDTH / len(groups)
    width = place * _FILLED

    def height(value: int) -> float:
        return round(HEIGHT * value / ticks[0], 1)

    bars = []
    for index, group in enumerate(groups):
        at = len(groups) - 1 - index if is_mirrored else index
        clicks, signups, conversions, earned_cents = (
            sum(getattr(day, name) for day in group) for name in (*_SHOWN, "earned_cents")
        )
        bars.append(
            Bar(
                group[0].date,
                group[-1].date,
                clicks,
                signups,
                conversions,
                earned_cents,
                x=round(at * place + (place - width) / 2, 1),
                width=round(width, 1),
                clicks_height=height(clicks),
                signups_height=height(signups),
                conversions_height=height(conversions),
            )
        )
    steps = len(ticks) - 1
    lines = tuple(round(HEIGHT * number / steps, 1) for number in range(steps + 1))
    return Chart(tuple(bars), ticks, lines)


_SHOWN = ("clicks", "signups", "conversions")


def _grouped(days: t.Sequence[StatsDay]) -> list[list[StatsDay]]:
    if len(days) <= MOST_BARS_OF_A_DAY:
        return [[day] for day in days]
    if len(days) <= MOST_BARS_OF_A_WEEK:
        # The last seven days are whole; the first ones may be fewer.
        first = len(days) % _WEEK
        starts = [*([0] if first else []), *range(first, len(days), _WEEK)]
        ends = [*starts[1:], len(days)]
        return [list(days[start:end]) for start, end in zip(starts, ends, strict=True)]
    months = itertools.groupby(days, key=lambda day: (day.date.year, day.date.month))
    return [list(group) for _, group in months]


def _ticks(most: int) -> tuple[int, ...]:
    """Return at most five whole numbers at equal distances of 1, 2 or 5 times a power of ten.

    The first is not less than ``most``, and the last is 0.
    """
    step = next(
        factor * 10**power
        for power in itertools.count()
        for factor in (1, 2, 5)
        if factor * 10**power * _MOST_STEPS >= most
    )
    steps = max(1, -(-most // step))
    return tuple(step * number for number in range(steps, -1, -1))
