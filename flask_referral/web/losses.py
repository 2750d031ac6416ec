"""Visits that were lost to somebody's lock are told of once a minute, not one by one."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import typing as t

import sqlalchemy as sa

from ..db import failures

#: Seconds
_MINUTE = 60.0


@dataclasses.dataclass
class Losses:
    """What one process has lost, and when it said so.

    :param seconds: a clock that never goes back.
    """

    seconds: t.Callable[[], float] = time.monotonic
    _number: int = 0
    _told_at: float | None = None
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def add(self) -> int:
        """Count a loss; return how many are to be told of now, 0 within a minute of the last."""
        with self._lock:
            self._number += 1
            now = self.seconds()
            if self._told_at is not None and now - self._told_at < _MINUTE:
                return 0
            number, self._number, self._told_at = self._number, 0, now
            return number


_losses = Losses()


def takes(error: Exception, logger: logging.Logger) -> bool:
    """Whether a visit was lost to somebody's lock; it is counted, and told of once a minute."""
    if not isinstance(error, sa.exc.DBAPIError) or not failures.is_contended(error):
        return False
    if number := _losses.add():
        logger.error(
            "%d visits through referral links were not recorded, because others held what they "
            "needed for longer than REFERRAL_LOCK_TIMEOUT_MS; the pages were served. The last "
            "one: %s",
            number,
            str(error.orig).strip(),
        )
    return True
