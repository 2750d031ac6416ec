"""Results in the host's JSON."""

from __future__ import annotations

import typing as t

from flask.json.provider import DefaultJSONProvider
from flask.json.provider import JSONProvider

from ..results import Result


def teach(provider: JSONProvider) -> None:
    """Let ``app.json``, and so ``jsonify``, write our results by their ``to_dict``.

    Only what a provider does not know reaches its ``default``, which Flask lets an application
    replace; Flask's own would take our dataclasses apart and fail at the mapped objects in them.
    A provider of another kind is left alone.
    """
    if not isinstance(provider, DefaultJSONProvider):
        return
    known = provider.default

    def default(value: t.Any) -> t.Any:
        return value.to_dict() if isinstance(value, Result) else known(value)

    provider.default = default
