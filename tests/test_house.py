"""The rooms of the package: who may import whom, annotations included."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import typing as t
from pathlib import Path

import flask_referral

PACKAGE = Path(flask_referral.__file__).parent
#: From the roof to the ground: a module imports what is below it, or beside it in its own floor.
FLOORS = (
    ("contrib",),
    ("extension", "__init__", "testing"),
    ("cli",),
    ("web", "doctor"),
    ("payments", "rls", "upkeep"),
    (
        *("codes", "clicks", "attribution", "eligibility", "conversions", "wallet"),
        *("stats", "referrals", "leaderboard", "overview", "vanity", "disabled", "outbox"),
        *("host", "schema"),
    ),
    (
        *("settings", "errors", "results", "signals", "clock", "currency", "spelling", "sources"),
        *("chart", "texts", "events"),
        *("reserved", "words", "db"),
    ),
)
STATIONS = {
    *("codes", "clicks", "attribution", "eligibility", "conversions", "wallet"),
    *("stats", "referrals", "leaderboard", "overview", "vanity", "disabled", "outbox"),
}
#: Rooms that import less than their floor would let them.
NARROW: dict[str, set[str]] = {
    **{station: {*STATIONS, *FLOORS[-1]} for station in STATIONS},
    "errors": set(),
    "clock": set(),
    "chart": {"results"},
    "currency": {"errors"},
    "spelling": set(),
    "reserved": set(),
    "sources": {"spelling"},
    "texts": {"errors"},
    "events": {"signals", "db"},
    "signals": set(),
    "settings": {"errors", "spelling"},
    "results": {"errors", "db"},
    "words": {"errors", "clock", "currency"},
    "db": {"errors", "clock"},
}


def modules() -> dict[str, Path]:
    """Return the modules by their names without the package's; ``__init__`` is the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: t.Container[str]) -> set[str]:
    """Return the modules of ours that a module imports, anywhere in it."""
    is_package = path.name == "__init__.py"
    inside = [] if name == "__init__" else name.split(".")
    package = ".".join(["flask_referral", *(inside if is_package else inside[:-1])])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
            # "from .x import y": y is a module of x, or a name in it.
            names = [each if relative(each) in known else base for each in names]
        else:
            continue
        found |= {relative(each) for each in names if relative(each) in known}
    return found - {name}


def relative(name: str) -> str:
    """Return a module's name without the package's."""
    if name == "flask_referral":
        return "__init__"
    return name.removeprefix("flask_referral.")


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, known) for name, path in known.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def floor(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_module_has_a_floor() -> None:
    found = modules()
    assert len(found) > 60
    assert {room(name) for name in found} == {name for rooms in FLOORS for name in rooms}


def test_no_module_imports_from_a_floor_above() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if floor(other) < floor(name)
    ]
    assert sorted(upward) == []


def test_no_room_imports_more_than_it_may() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if room(name) in NARROW and room(other) not in {room(name), *NARROW[room(name)]}
    ]
    assert sorted(wrong) == []


def test_no_two_rooms_import_each_other() -> None:
    rooms: dict[str, set[str]] = {}
    for name, others in graph().items():
        rooms.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    for circle in (graph(), rooms):
        # Raises where there is a circle, and names it.
        list(graphlib.TopologicalSorter(circle).static_order())
