"""Plain values, which JSON and every queue can carry."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import typing as t

from .. import clock


def plain(value: t.Any) -> t.Any:
    """Return a value as None, bool, int, float, str, list or dict.

    Times are ISO 8601 texts in UTC; ids and decimal numbers are texts.
    """
    if value is None or type(value) in (str, int, bool, float):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dt.datetime):
        return clock.as_utc(value).isoformat()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, t.Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return str(value)
