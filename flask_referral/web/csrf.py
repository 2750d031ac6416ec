"""Flask-WTF's CSRF protection and the webhooks."""

from __future__ import annotations

from flask import Blueprint
from flask import current_app
from flask import request


def exempt_webhooks(blueprint: Blueprint, endpoint: str) -> None:
    """Exempt one view, whichever of the two extensions is set up first.

    A provider has no session and no token; its deliveries are signed. Flask asks for the values
    of a URL before it runs the ``before_request`` function that checks the token.
    """

    def exempt(name: str | None, values: object) -> None:
        protection = current_app.extensions.get("csrf")
        if protection is not None and name == f"{request.blueprint}.{endpoint}":
            protection.exempt(current_app.view_functions[name])

    blueprint.url_value_preprocessor(exempt)
