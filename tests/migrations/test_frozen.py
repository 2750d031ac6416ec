"""A released revision does for ever what it did on its day."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import types
import typing as t

import pytest

import flask_referral
from flask_referral import schema
from tests.hosts import Host

from .conftest import Dump

#: What revisions may import, with what that is made of. It promises never to change.
FROZEN = ("flask_referral.schema.frozen", "flask_referral.schema.wallet_checks")
#: Where databases have the record of what ran; env.py reads it.
RECORD = ("flask_referral.db.models", "VERSION_TABLE")
NOWHERE = "postgresql+psycopg2://nobody@127.0.0.1:1/nowhere"


def test_revisions_import_what_is_frozen_and_nothing_else_of_ours() -> None:
    scripts = sorted((schema.migrations_path() / "versions").glob("[0-9]*.py"))
    assert len(scripts) == len(schema.history())
    for script in scripts:
        imported = set()
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        ours = {name for name in imported if name.startswith("flask_referral")}
        assert all(name.startswith(FROZEN[0]) for name in ours), (script.name, ours)
        # Nor by another way.
        assert "current_app" not in script.read_text()


def live_modules() -> t.Iterator[types.ModuleType]:
    """Import all of the package but what is frozen."""
    for found in pkgutil.walk_packages(flask_referral.__path__, "flask_referral."):
        if not found.name.startswith((*FROZEN, "flask_referral.migrations")):
            yield importlib.import_module(found.name)


def another(value: t.Any) -> t.Any:
    """Return something else of the same kind, or the thing itself where there is no saying."""
    if isinstance(value, str):
        return f"{value}_2"
    if isinstance(value, bool | int | float):
        return value + 1
    if isinstance(value, tuple | list | set | frozenset):
        changed = [another(each) for each in value]
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
    if type(value) is dict:
        return {key: another(each) for key, each in value.items()}
    return value


def change_all_constants(monkeypatch: pytest.MonkeyPatch) -> int:
    changed = 0
    for module in list(live_modules()):
        for name, value in list(vars(module).items()):
            if name.isupper() and (module.__name__, name) != RECORD and another(value) != value:
                monkeypatch.setattr(module, name, another(value))
                changed += 1
    return changed


def test_no_constant_of_the_package_changes_a_script(
    host_on: t.Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = host_on(NOWHERE, migrate=False)

    def scripts() -> list[str]:
        with host.app.app_context():
            return [schema.upgrade_sql(), schema.downgrade_sql("base")]

    before = scripts()
    assert change_all_constants(monkeypatch) > 50
    assert scripts() == before


def test_no_constant_of_the_package_changes_an_upgrade(
    new_database_url: t.Callable[[], str],
    host_on: t.Callable[..., Host],
    dump: Dump,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls = new_database_url(), new_database_url()
    hosts = [host_on(url, migrate=False) for url in urls]
    for host in hosts:
        host.create_tables()
    before = dump(urls[1])
    steps: list[t.Callable[[], None]] = [schema.upgrade, lambda: schema.downgrade("base")]
    results = []
    with hosts[0].app.app_context():
        for step in steps:
            step()
            results.append(dump(urls[0]))
    assert before == results[-1] != results[0]

    change_all_constants(monkeypatch)
    with hosts[1].app.app_context():
        for step, result in zip(steps, results, strict=True):
            step()
            assert dump(urls[1]) == result
