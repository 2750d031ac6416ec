"""The chart: bars that add up, and an axis that can be read."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest

from flask_referral import chart
from flask_referral.results import StatsDay

TODAY = dt.date(2026, 3, 31)


def series(*clicks: int) -> list[StatsDay]:
    """Return days with these clicks, the last of them today."""
    first = TODAY - dt.timedelta(days=len(clicks) - 1)
    return [
        StatsDay(first + dt.timedelta(days=number), count, count // 2, count // 3, count * 10)
        for number, count in enumerate(clicks)
    ]


@pytest.mark.parametrize(("days", "bars"), [(1, 1), (30, 30), (90, 13), (365, 12), (366, 13)])
def test_a_long_period_is_summed_up_and_nothing_is_lost(days: int, bars: int) -> None:
    given = series(*range(1, days + 1))
    drawn = chart.draw(given)
    assert len(drawn.bars) == bars
    for name in ("clicks", "signups", "conversions", "earned_cents"):
        assert sum(getattr(bar, name) for bar in drawn.bars) == sum(
            getattr(day, name) for day in given
        )
    assert drawn.bars[0].first == given[0].date and drawn.bars[-1].last == TODAY
    for one, next_one in itertools.pairwise(drawn.bars):
        assert next_one.first - one.last == dt.timedelta(days=1)


@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 41, 99, 101, 12_345, 10**9])
def test_the_axis_has_few_round_ticks_at_equal_distances(most: int) -> None:
    ticks = chart.draw(series(0, most)).ticks
    assert ticks[-1] == 0 and ticks[0] >= most and 2 <= len(ticks) <= 5
    (step,) = {one - next_one for one, next_one in itertools.pairwise(ticks)}
    assert str(step).rstrip("0") in ("1", "2", "5")
    # No taller than it has to be.
    assert ticks[0] - most < step or most == 0


def test_bars_are_as_high_as_their_figures_and_stay_in_the_drawing() -> None:
    drawn = chart.draw(series(40, 0, 10))
    assert [bar.clicks_height for bar in drawn.bars] == [100, 0, 25]
    assert [bar.signups_height for bar in drawn.bars] == [50, 0, 12.5]
    assert all(bar.x >= 0 and bar.x + bar.width <= chart.WIDTH for bar in drawn.bars)


def test_time_runs_to_the_left_where_lines_do() -> None:
    left_to_right = chart.draw(series(1, 2, 3))
    mirrored = chart.draw(series(1, 2, 3), is_mirrored=True)
    assert [bar.x for bar in mirrored.bars] == [bar.x for bar in reversed(left_to_right.bars)]
    assert [bar.clicks for bar in mirrored.bars] == [1, 2, 3]


def test_days_without_anything_are_an_empty_chart() -> None:
    assert chart.draw(series(0, 0)).is_empty
    assert not chart.draw(series(0, 1)).is_empty
