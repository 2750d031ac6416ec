"""The demo with its past, served for a browser."""

from __future__ import annotations

import contextlib
import os
import typing as t
from pathlib import Path
from unittest import mock

import sqlalchemy as sa

from examples.demo import create_app
from examples.demo import deploy
from examples.demo import past
from examples.demo.models import db

from .surfing import serving


@contextlib.contextmanager
def serving_demo(url: sa.URL, instance: Path) -> t.Iterator[str]:
    """Seed the demo on an empty database, serve it, and yield its address.

    :param instance: the folder of its secrets.
    """
    with mock.patch.dict(os.environ, DEMO_INSTANCE=str(instance)):
        app = create_app(
            SQLALCHEMY_DATABASE_URI=url,
            TESTING=True,
            # It is built before its port is known, and this machine is its own witness.
            REFERRAL_BASE_URL=None,
        )
    with app.app_context():
        deploy.upgrade()
        past.live()
        deploy.chores()
    with serving(app) as address:
        yield address
    with app.app_context():
        db.engine.dispose()
