"""One application with the extensions that hosts use, on both databases."""

from __future__ import annotations

import importlib.util
import typing as t

import pytest

from ..hosts import Host

if importlib.util.find_spec("flask_limiter") is None:
    # Not the environment of "make test-neighbours".
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def host(database_url: str) -> t.Iterator[Host]:
    """Build the application of :mod:`.application`, with its tables."""
    from .application import make_neighbourhood

    host = make_neighbourhood(database_url)
    yield host
    host.close()
