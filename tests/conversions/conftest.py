"""A clock that stands, for the tests of money."""

from __future__ import annotations

import datetime as dt
import typing as t

import pytest

from ..money import MONDAY


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> t.Callable[[dt.datetime], None]:
    """Return a function that sets the clock, which stands at Monday noon."""

    def set_clock(moment: dt.datetime) -> None:
        monkeypatch.setattr("flask_referral.clock.now", lambda: moment)

    set_clock(MONDAY)
    return set_clock
