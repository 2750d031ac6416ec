"""The quickstart, copied to a folder of its own as a reader would."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import types
import typing as t
from pathlib import Path

import pytest
from flask import Flask

from flask_referral import normalize_code

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    path = tmp_path / "quickstart.py"
    shutil.copy(ROOT / "examples" / "quickstart.py", path)
    spec = importlib.util.spec_from_file_location("quickstart", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Flask puts the database beside the module, which it looks for here.
    monkeypatch.setitem(sys.modules, "quickstart", module)
    spec.loader.exec_module(module)
    return module


def get_code(app: Flask, user: str) -> tuple[int, t.Any]:
    answer = app.test_client().post("/api/referral/generate", headers={"X-User": user})
    return answer.status_code, answer.get_json()


def test_each_user_gets_one_code(quickstart: types.ModuleType, tmp_path: Path) -> None:
    codes = set()
    for app in (quickstart.create_app(), quickstart.create_app()):
        for user in ("ada", "bob", "ada"):
            status, body = get_code(app, user)
            assert status == 200 and normalize_code(body["code"]) == body["code"]
            codes.add((user, body["code"]))
        status, body = get_code(app, "stranger")
        assert status == 401 and body.keys() == {"error", "code"}
        with app.app_context():
            quickstart.db.engine.dispose()
    assert len(codes) == 2
    assert (tmp_path / "instance" / "quickstart.db").exists()


@pytest.mark.parametrize("command", ["db check", "doctor"])
def test_commands_from_another_folder(
    quickstart: types.ModuleType, tmp_path: Path, command: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    app = [sys.executable, "-m", "flask", "--app", str(quickstart.__file__)]
    result = subprocess.run(
        [*app, "referral", *command.split()],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert not any(elsewhere.iterdir())
