"""What the Bicep files say, as data. No compiler can be had offline; pycep reads the syntax.

pycep keeps no difference between the text 'x' and the name x, so a word that is the name of a
variable or a parameter is taken for it.
"""

import base64
import json
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pycep

from tests.helpers import ROOT

INFRA = ROOT / "infra"
FILES = sorted(path for path in INFRA.rglob("*.bicep") if "dynamics" not in path.parts)

UNKNOWN = "unknown until it is deployed"


class Failed(Exception):
    """A file calls `fail`: Azure refuses the deployment with this message."""


TEXT_FUNCTIONS = {
    *(
        "base64",
        "contains",
        "fail",
        "filter",
        "load_text_content",
        "replace",
        "starts_with",
        "string",
    )
}
"""By the names that pycep gives them."""


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


class Evaluation:
    """Works out what a value is for given parameters, as far as that is known before deployment."""

    def __init__(self, path: Path, given: dict[str, Any]) -> None:
        tree = parsed(path)
        self.folder = path.parent
        self.variables = {name: one["value"] for name, one in tree.get("variables", {}).items()}
        self.given = {name: one["default"] for name, one in tree.get("parameters", {}).items()}
        self.given |= given

    def value(self, node: Any) -> Any:
        """Return the value of a node of the tree."""
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if isinstance(node, str):
            return self._word(node)
        if not isinstance(node, dict):
            return node
        if set(node) == {"function"}:
            return self._function(node["function"])
        if set(node) == {"operator"}:
            return self._operator(node["operator"])
        return {key.strip("'"): self.value(item) for key, item in node.items()}

    def _word(self, word: str) -> Any:
        if word in self.variables:
            return self.value(self.variables[word])
        if word in self.given:
            return UNKNOWN if self.given[word] is None else self.given[word]
        return word.replace("\\\\", "\\")  # pycep keeps escapes

    def _function(self, function: dict[str, Any]) -> Any:
        arguments = function["parameters"] or {}
        if function["type"] == "empty":
            return not self.value(arguments["item_to_test"])
        if function["type"] in TEXT_FUNCTIONS:
            return self._text_function(function["type"], *arguments.values())
        if function["type"] == "union":
            parts = [self.value(part) for part in arguments.values()]
            known = [part for part in parts if isinstance(part, dict)]
            return {key: item for part in known for key, item in part.items()}
        if function["type"] == "concat":
            parts = [self.value(part) for part in arguments.values()]
            return [item for part in parts if isinstance(part, list) for item in part]
        return UNKNOWN

    def _text_function(self, name: str, *arguments: Any) -> Any:
        if name == "filter":
            (each, condition) = arguments[1]["detail"].values()
            return [
                one for one in self.value(arguments[0]) if self._with(each, one).value(condition)
            ]
        first, *others = (self.value(one) for one in arguments)
        result: Any = first if isinstance(first, str) else json.dumps(first)  # string()
        match name:
            case "base64":
                result = base64.b64encode(first.encode()).decode()
            case "contains":
                result = others[0] in first
            case "fail":
                raise Failed(first)
            case "load_text_content":
                result = (self.folder / first).read_text(encoding="utf-8")
            case "replace":
                result = first.replace(*others)
            case "starts_with":
                result = first.startswith(others[0])
        return result

    def _with(self, name: str, value: Any) -> "Evaluation":
        inner = copy(self)
        inner.given = self.given | {name: value}
        return inner

    def _operator(self, operator: dict[str, Any]) -> Any:
        operands = operator["operands"]
        if operator["type"] in ("index_accessor", "property_accessor"):
            whole, name = self.value(operands["operand_1"]), operands["operand_2"]
            name = self.value(name) if operator["type"] == "index_accessor" else name
            known = isinstance(whole, dict) and isinstance(name, str)
            return whole.get(name, UNKNOWN) if known else UNKNOWN
        if operator["type"] == "conditional":
            chosen = "true_value" if self.value(operands["condition"]) else "false_value"
            return self.value(operands[chosen])
        if operator["type"] == "or":
            return any(self.value(operand) for operand in operands.values())
        if operator["type"] == "not":
            return not self.value(operands["bool_value"])
        if operator["type"] in ("equals", "not_equals"):
            same = self.value(operands["operand_1"]) == self.value(operands["operand_2"])
            return same is (operator["type"] == "equals")
        return UNKNOWN
