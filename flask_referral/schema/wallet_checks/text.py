"""Names and values as SQL."""

from __future__ import annotations


def quote(name: str) -> str:
    """Return an identifier in double quotes, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | None) -> str:
    """Return a string literal (NULL for None) that holds under any standard_conforming_strings."""
    if value is None:
        return "NULL"
    text = value.replace("'", "''")
    return "E'" + text.replace("\\", "\\\\") + "'" if "\\" in text else f"'{text}'"
