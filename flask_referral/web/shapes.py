"""JSON Schema of our answers, made of their types and docstrings.

The dialect is that of OpenAPI 3.1, https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import inspect
import re
import types
import typing as t

#: A JSON Schema.
Schema = dict[str, t.Any]

_SIMPLE: dict[t.Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    dt.date: {"type": "string", "format": "date"},
    dt.datetime: {"type": "string", "format": "date-time"},
}
_FIELD = re.compile(r"^:param (\w+): (.*?)(?=^:|\Z)", re.MULTILINE | re.DOTALL)
#: What reStructuredText refers to by a role; ``~`` shows the last name alone.
_ROLE = re.compile(r":[a-z]+:`(?:~[^`]*\.)?([^`]+)`")
#: Names of a host's and of another one's components stay apart in one document.
_PREFIX = "Referral"


def schema_of(type_: t.Any, components: dict[str, Schema]) -> Schema:
    """Return the schema of a type's JSON.

    :param type_: a type of :data:`_SIMPLE`, an enumeration of texts, a dataclass, a ``TypedDict``,
        or a list, tuple or union of such.
    :param components: gets the schemas of classes, by their names in the document.
    :raises TypeError: for any other type.
    """
    if type_ in _SIMPLE:
        return dict(_SIMPLE[type_])
    origin, arguments = t.get_origin(type_), t.get_args(type_)
    if origin in (t.Union, types.UnionType):
        return _nullable(arguments, components)
    if origin is list or (origin is tuple and arguments[1:] == (...,)):
        return {"type": "array", "items": schema_of(arguments[0], components)}
    if not isinstance(type_, type):
        raise TypeError(f"{type_!r} has no JSON Schema here.")
    name = type_.__name__
    name = name if name.startswith(_PREFIX) else f"{_PREFIX}{name}"
    if name not in components:
        # Before it is whole: a class may refer to itself.
        components[name] = {}
        components[name] = _class(type_, components)
    return {"$ref": f"#/components/schemas/{name}"}


def described(documented: t.Any) -> tuple[str, dict[str, str]]:
    """Return a docstring's text and those of its fields, as Markdown."""
    # Without docstrings (python -OO) nothing is said.
    doc = inspect.cleandoc(documented.__doc__ or "")
    text = re.split(r"^:", doc, maxsplit=1, flags=re.MULTILINE)[0]
    return _markdown(text), {name: _markdown(told) for name, told in _FIELD.findall(doc)}


def _markdown(text: str) -> str:
    text = _ROLE.sub(r"`\1`", text).replace("``", "`").strip()
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _nullable(arguments: tuple[t.Any, ...], components: dict[str, Schema]) -> Schema:
    (type_,) = (each for each in arguments if each is not types.NoneType)
    schema = schema_of(type_, components)
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def _class(class_: type, components: dict[str, Schema]) -> Schema:
    text, fields = described(class_)
    if issubclass(class_, enum.StrEnum):
        return {"type": "string", "description": text, "enum": [each.value for each in class_]}
    if not (dataclasses.is_dataclass(class_) or t.is_typeddict(class_)):
        raise TypeError(f"{class_.__name__} has no JSON Schema here.")
    properties = {}
    for name, type_ in t.get_type_hints(class_).items():
        properties[name] = schema_of(type_, components)
        if name in fields:
            properties[name]["description"] = fields[name]
    return {
        "type": "object",
        "description": text,
        "properties": properties,
        "required": [*properties],
    }
