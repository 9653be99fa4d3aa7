"""The JSON body for Dynamics: a template that is parsed once and filled as data, never as text.

`{"code": "{code}", "nested": {"State": "{state}"}, "dataAreaId": "usmf"}` is read as JSON first,
and placeholders are then replaced inside its strings. A value can therefore not become a member,
whatever it contains: injection is not filtered, it has no place to happen.
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
    "delivery_id",
    "state_hash",
    "reference",
    "received_at",
    "expires_at",
)
"""What may stand between braces; further parameters of a provider as `{param:NAME}`."""

PARAM = "param:"
MAX_DEPTH = 32
"""Objects within objects; what is deeper could end the stack while a callback waits."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

type _Node = _Text | int | float | list[_Node] | dict[str, _Node] | None


class TemplateError(ValueError):
    """The template is wrong. The message says what is expected and holds no secret."""


class Member(NamedTuple):
    """One value of a template, for who compares it with what Dynamics has.

    `path`: the names of the members that lead to it, from the outside in. `names`: the placeholders
    in it. `constant`: what stands there besides; of a string what is between the placeholders.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    constant: str | int | float | None


class _Text:
    """A string of a template: literals and placeholders in turn."""

    __slots__ = ("names", "parts")

    def __init__(self, source: str) -> None:
        # Literals stand at even places, names of placeholders at odd ones.
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
        """Put the values in. `None`: the string is exactly one placeholder without a value."""
        if len(self.names) == 1 and not any(self.parts):
            return values.get(self.names[0])
        filled = self.parts[0]
        for name, literal in zip(self.names, self.parts[1:], strict=True):
            filled += (values.get(name) or "") + literal
        return filled


class Template:
    """A body template, checked.

    `source`: JSON text of one object. `names` are the placeholders it uses, `params` the names of
    the provider's further parameters among them. Raises `TemplateError`.
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
        except (ValueError, RecursionError):  # ValueError: no JSON, or thousands of digits
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
        """Return the body as JSON in ASCII. `values` maps names of placeholders to values."""
        return json.dumps(_render(self._root, values), separators=(",", ":")).encode("ascii")

    def members(self) -> Iterator[Member]:
        """Return the values and where they stand, in order. Items of a list stand where it does."""
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
    raise TypeError(type(node).__name__)


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
    """A string that is one placeholder without a value: its member is left out."""


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
