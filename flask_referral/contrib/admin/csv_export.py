"""A list as a file of comma-separated values (RFC 4180) that spreadsheets may open."""

from __future__ import annotations

import csv
import datetime as dt
import io
import typing as t

#: What spreadsheets take for the beginning of a formula, or drop before one.
#: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def lines(titles: t.Sequence[str], rows: t.Iterable[t.Sequence[t.Any]]) -> t.Iterator[str]:
    """Yield the lines of a file, one for each row; nothing is gathered.

    :param rows: values; numbers stay numbers, moments are ISO 8601.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(titles)
    yield buffer.getvalue()
    for row in rows:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow([cell(value) for value in row])
        yield buffer.getvalue()


def cell(value: t.Any) -> str | int:
    """Return a value as a cell; a text that looks like a formula begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return value
    text = value.isoformat() if isinstance(value, dt.datetime) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
