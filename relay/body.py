"""The JSON body template for Dynamics.

`{"code": "{code}", "nested": {"State": "{state}"}, "dataAreaId": "usmf"}` is parsed as JSON once,
and placeholders are replaced inside its parsed strings. A value therefore cannot add a member,
whatever it contains: no JSON text is ever concatenated.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, NoReturn

PLACEHOLDERS = (
    "code",
    "state",
    "error",
    "error_description",
    "error_uri",
    "iss",
    "session_state",
    "code_verifier",
    "redirect_uri",
    "connection",
    "environment",
    "delivery_id",
    "state_hash",
    "state_jti",
    "reference",
    "received_at",
    "expires_at",
    "params",
)
"""Known placeholders. `params` is the JSON text of all parameters of the response. Other parameters
of the provider are `{param:NAME}`."""

PARAM = "param:"
MAX_DEPTH = 32
"""Levels of nesting. A deeper template could raise RecursionError while it is rendered."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

type _Node = _Text | int | float | list[_Node] | dict[str, _Node] | None


class TemplateError(ValueError):
    """The template is invalid. The message says what is expected, without values."""


class Member(NamedTuple):
    """One value of a template, for comparing it with the metadata of Dynamics.

    `path`: member names from the root. `names`: its placeholders. `constant`: the value, or the
    text of a string without its placeholders.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    constant: str | int | float | None


class _Text:
    """A string of a template: literals and placeholders, alternating."""

    __slots__ = ("names", "parts")

    def __init__(self, source: str) -> None:
        # `parts` has one literal more than `names` has placeholders.
        self.parts = [""]
        self.names: list[str] = []
        end = 0
        for match in _TOKEN.finditer(source):
            self.parts[-1] += source[end : match.start()]
            end = match.end()
            if match[0] in ("{{", "}}"):
                self.parts[-1] += match[0][0]
            else:
                self.names.append(_known(match[1]))
                self.parts.append("")
        self.parts[-1] += source[end:]

    def fill(self, values: Mapping[str, str | None]) -> str | None:
        """Return the filled string, or `None` if it is exactly one placeholder without a value."""
        if len(self.names) == 1 and not any(self.parts):
            return values.get(self.names[0])
        filled = self.parts[0]
        for name, literal in zip(self.names, self.parts[1:], strict=True):
            filled += (values.get(name) or "") + literal
        return filled


class Template:
    """A valid body template.

    `source`: JSON text of one object. `names`: its placeholders. `params`: the NAMEs of its
    `{param:NAME}` placeholders. Raises `TemplateError`.
    """

    __slots__ = ("_root", "names", "params")

    def __init__(self, source: str) -> None:
        names: set[str] = set()
        try:
            root = json.loads(
                source, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
            )
            self._root = _compile(root, names)
        except TemplateError:
            raise
        except (ValueError, RecursionError):  # ValueError: no JSON, or too many digits
            raise TemplateError("expected one JSON object") from None
        if not isinstance(root, dict):
            raise TemplateError("expected one JSON object")
        self.names = frozenset(names)
        self.params = frozenset(
            name.removeprefix(PARAM) for name in names if name.startswith(PARAM)
        )
        if "code" not in names:
            raise TemplateError("expected {code} somewhere, or Dynamics never gets one")

    def render(self, values: Mapping[str, str | None]) -> bytes:
        """Return the body as ASCII JSON. `values`: placeholder names to values."""
        return json.dumps(_render(self._root, values), separators=(",", ":")).encode("ascii")

    def members(self) -> Iterator[Member]:
        """Return all values in order. Items of a list have the path of the list."""
        return _members(self._root, ())


def _known(name: str | None) -> str:
    if name is None:
        raise TemplateError("a single brace: write {{ or }} for a literal one")
    if name in PLACEHOLDERS or name.removeprefix(PARAM) not in ("", name):
        return name
    raise TemplateError(
        "unknown placeholder; known are "
        + " ".join(f"{{{known}}}" for known in PLACEHOLDERS)
        + " {param:NAME}"
    )


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise TemplateError("a member stands twice in one object")
    return members


def _constant(_name: str) -> NoReturn:
    raise TemplateError("NaN and Infinity are not JSON")


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _constant(text)


def _compile(node: object, names: set[str], depth: int = 0) -> _Node:
    if depth > MAX_DEPTH:
        raise TemplateError("objects in objects, too many")
    match node:
        case str():
            text = _Text(node)
            names.update(text.names)
            return text
        case dict():
            return {key: _compile(value, names, depth + 1) for key, value in node.items()}
        case list():
            return [_compile(item, names, depth + 1) for item in node]
        case int() | float() | None:
            return node
    raise TypeError  # JSON has no other values


def _members(node: _Node, path: tuple[str, ...]) -> Iterator[Member]:
    match node:
        case _Text():
            yield Member(path, tuple(node.names), "".join(node.parts))
        case dict():
            for key, value in node.items():
                yield from _members(value, (*path, key))
        case list():
            for item in node:
                yield from _members(item, path)
        case _:
            yield Member(path, (), node)


class _Absent:
    """Stands for a placeholder without a value, whose member or item is left out."""


_ABSENT = _Absent()


def _render(node: _Node, values: Mapping[str, str | None]) -> object:
    match node:
        case _Text():
            filled = node.fill(values)
            return _ABSENT if filled is None else filled
        case dict():
            members = {key: _render(value, values) for key, value in node.items()}
            return {key: value for key, value in members.items() if value is not _ABSENT}
        case list():
            items = [_render(item, values) for item in node]
            return [item for item in items if item is not _ABSENT]
        case _:
            return node
