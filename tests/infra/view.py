"""What the Bicep files say, as data, also where no compiler is: pycep reads the syntax.

pycep keeps no difference between the text 'x' and the name x, so a word that is the name of a
variable or a parameter is taken for it. It binds `!`, `<` and `??` looser than `||` and `.`, so the
files have parentheses, or the operand with `!` last, where that would matter.
"""

import base64
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pycep

from tests.helpers import ROOT

INFRA = ROOT / "infra"
FILES = sorted(path for path in INFRA.rglob("*.bicep") if "dynamics" not in path.parts)

UNKNOWN = "unknown until it is deployed"


@dataclass(frozen=True)
class Verified:
    """An Azure Verified Module as it is used."""

    path: str
    version: str
    params: dict[str, Any]


@cache
def parsed(path: Path) -> Any:
    """Return pycep's tree. Raises what the parser raises."""
    return pycep.BicepParser().parse(text=path.read_text(encoding="utf-8"))


def verified(path: Path) -> list[Verified]:
    """Return the verified modules that a file uses."""
    found = []
    for module in parsed(path).get("modules", {}).values():
        if module["type"] == "bicep_registry_alias":
            # A loop and a condition stand around the configuration.
            detail, config = module["detail"], module["config"]
            config = config.get("config", config)
            found.append(Verified(detail["path"], detail["tag"], config.get("params", {})))
    return found


def used(path: Path, module: str, **given: Any) -> dict[str, Any]:
    """Return a verified module's parameters, worked out for these parameters of the file."""
    (found,) = [one for one in verified(path) if one.path == module]
    worked_out = Evaluation(path, given).value(found.params)
    assert isinstance(worked_out, dict)
    return worked_out


def resources(path: Path) -> dict[str, dict[str, Any]]:
    """Return what a file deploys without a module, by its symbol."""
    return dict(parsed(path).get("resources", {}))


class Failed(Exception):
    """A file calls `fail`: Azure refuses the deployment with this message."""


def _fail(sentence: str) -> NoReturn:
    raise Failed(sentence)


def _items(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value[key]} for key in sorted(value)]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "concat": lambda *parts: [item for part in parts if isinstance(part, list) for item in part],
    "contains": lambda container, item: item in container,
    "empty": lambda value: not value,
    "ends_with": lambda text, end: text.endswith(end),
    "fail": _fail,
    "filter": lambda items, keep: [item for item in items if keep(item)],
    "intersection": lambda *parts: [item for item in parts[0] if item in parts[1]],
    "items": _items,
    "join": lambda items, between: between.join(items),
    "length": len,
    "map": lambda items, make: [make(item) for item in items],
    "replace": str.replace,
    "range": lambda start, count: list(range(start, start + count)),
    "starts_with": lambda text, start: text.startswith(start),
    "string": lambda value: value if isinstance(value, str) else json.dumps(value),
    "substring": lambda text, start, length: text[start : start + length],
    "to_lower": str.lower,
    "to_upper": str.upper,
    "toObject": lambda items, key, value: {key(item): value(item) for item in items},
    "union": lambda *parts: {
        key: item for part in parts if isinstance(part, dict) for key, item in part.items()
    },
}
"""Functions of Bicep by pycep's names for them. `union` merges one level only."""

COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "equals": operator.eq,
    "not_equals": operator.ne,
    "less_than": operator.lt,
    "greater_than": operator.gt,
    "index_accessor": operator.getitem,
}
"""Operators of two values."""

EVEN_OF_UNKNOWN = {"concat", "empty", "union"}
"""Functions that say something also when an argument is not known."""


class Evaluation:
    """Works out what a value is for given parameters, as far as that is known before deployment."""

    def __init__(self, path: Path, given: dict[str, Any]) -> None:
        tree = parsed(path)
        self.folder = path.parent
        self.variables = {name: one["value"] for name, one in tree.get("variables", {}).items()}
        self.given = {name: one["default"] for name, one in tree.get("parameters", {}).items()}
        self.given |= given

    def value(self, node: Any) -> Any:
        """Return the value of a node of the tree. Raises `Failed`."""
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if not isinstance(node, dict):
            return self._word(node) if isinstance(node, str) else node
        if set(node) == {"function"}:
            return self._function(node["function"])
        if set(node) == {"operator"}:
            return self._operator(node["operator"])
        if node.get("type") == "lambda_expression":
            return self._lambda(node["detail"])
        return {key.strip("'"): self.value(item) for key, item in node.items()}

    def _word(self, word: str) -> Any:
        if word in self.given:
            return UNKNOWN if self.given[word] is None else self.given[word]
        if word in self.variables:
            return self.value(self.variables[word])
        # pycep keeps escapes.
        text = re.sub(r"\\(.)", lambda escape: {"n": "\n"}.get(escape[1], escape[1]), word)
        text = re.sub(
            r"\$\{loadTextContent\('([^']+)'\)\}",
            lambda file: (self.folder / file[1]).read_text(encoding="utf-8"),
            text,
        )
        return re.sub(r"\$\{(?:(to_?[Uu]pper)\()?(\w+)\)?\}", self._pasted, text)

    def _pasted(self, match: re.Match[str]) -> str:
        function, name = match.groups()
        value = self._word(name) if name in self.given or name in self.variables else UNKNOWN
        if not isinstance(value, str | int) or value == UNKNOWN:
            return match[0]
        return str(value).upper() if function else str(value)

    def _lambda(self, detail: dict[str, Any]) -> Callable[[Any], Any]:
        def called(argument: Any) -> Any:
            before = self.given
            self.given = before | {detail["var_1"]: argument}
            try:
                return self.value(detail["expression"])
            finally:
                self.given = before

        return called

    def _function(self, function: dict[str, Any]) -> Any:
        name = function["type"]
        arguments = list((function.get("parameters") or {}).values())
        if name in ("load_json_content", "load_text_content"):
            text = (self.folder / arguments[0]).read_text(encoding="utf-8")
            return json.loads(text) if name == "load_json_content" else text
        if name not in FUNCTIONS:
            return UNKNOWN
        values = [self.value(argument) for argument in arguments]
        if UNKNOWN in values and name not in EVEN_OF_UNKNOWN:
            return UNKNOWN
        return FUNCTIONS[name](*values)

    def _operator(self, node: dict[str, Any]) -> Any:
        operands, kind = node["operands"], node["type"]
        if kind == "conditional":
            chosen = "true_value" if self.value(operands["condition"]) else "false_value"
            return self.value(operands[chosen])
        if kind == "not":
            return not self.value(operands["bool_value"])
        first, second = operands["operand_1"], operands["operand_2"]
        if kind == "property_accessor":
            return self._property(self.value(first), second)
        if kind in ("and", "or"):
            decided = bool(self.value(first))
            return decided if decided is (kind == "or") else bool(self.value(second))
        values = self.value(first), self.value(second)
        if kind not in COMPARED or (UNKNOWN in values and not kind.endswith("equals")):
            return UNKNOWN
        return COMPARED[kind](*values)

    def _property(self, owner: Any, name: Any) -> Any:
        """Return `owner.name`; pycep reads `a.?b.?c ?? d` as `a.?(b.?(c ?? d))`."""
        if not isinstance(owner, dict):
            return UNKNOWN
        if isinstance(name, str):
            return owner.get(name, UNKNOWN)
        first, second = (name["operator"]["operands"][f"operand_{n}"] for n in (1, 2))
        if name["operator"]["type"] == "coalesce":
            found = owner.get(first)
            return self.value(second) if found is None else found
        if name["operator"]["type"] == "index_accessor":
            return owner[first][self.value(second)]
        return self._property(self._property(owner, first), second)
