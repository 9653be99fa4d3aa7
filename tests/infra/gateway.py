"""A gateway for the tests: it runs API Management policies as they are deployed.

The expressions are compiled with Mono's C# compiler and run in one Mono process (gateway.cs). The
statements are interpreted here, as Microsoft's policy reference describes them. Where it leaves two
readings open, such as what a cache miss does to a variable, a test chooses one:
https://learn.microsoft.com/azure/api-management/api-management-policies
"""

import json
import re
import select
import shutil
import subprocess
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

TOOLS = ("mcs", "mono")
TIMEOUT = 60.0
"""Seconds for one expression."""
NEWTONSOFT = Path("/usr/lib/cli/Newtonsoft.Json-5.0/Newtonsoft.Json.dll")
"""Where Debian and Ubuntu put it (libnewtonsoft-json5.0-cil)."""
NAMESPACES = (
    "System",
    "System.Collections.Generic",
    "System.Linq",
    "System.Text",
    "System.Text.RegularExpressions",
    "Newtonsoft.Json",
    "Newtonsoft.Json.Linq",
)
"""Those that Microsoft's examples of expressions use without naming them."""
VARIABLE_TYPES = {"System.Boolean", "System.Int32", "System.String"}
"""Those of https://learn.microsoft.com/azure/api-management/set-variable-policy that occur here."""


def is_installed() -> bool:
    """Tell whether the compiler, the runtime and the JSON library are there."""
    return all(map(shutil.which, TOOLS)) and NEWTONSOFT.is_file()


class ExpressionError(Exception):
    """An expression raised; the text is the type of the .NET exception."""


@dataclass(frozen=True)
class Sent:
    """A request of the gateway to a backend."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True)
class Answer:
    """A response, of a backend or of the gateway."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None


class Expressions:
    """All expressions of some policies, compiled once and evaluated in one process."""

    def __init__(self, texts: Iterable[str], folder: Path) -> None:
        self._numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        program = folder / "gateway.exe"
        source = folder / "expressions.cs"
        source.write_text(self._source(), encoding="utf-8")
        harness = Path(__file__).with_suffix(".cs")
        compiler = ["mcs", "-langversion:7", "-warnaserror", f"-reference:{NEWTONSOFT}"]
        subprocess.run(
            [*compiler, f"-out:{program}", str(source), str(harness)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        self._process = subprocess.Popen(
            ["mono", str(program)],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"MONO_PATH": str(NEWTONSOFT.parent), "LANG": "C.UTF-8"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The end of its input ends the process.
        self._process.communicate()

    def members(self) -> set[str]:
        """Return the members of .NET that the expressions use, as `Type::Member`, and the types."""
        return set(self._ask({"expression": -1}))

    def evaluate(self, text: str, context: Mapping[str, Any]) -> tuple[str | None, Any]:
        """Return the .NET type and the value of an expression. Raises `ExpressionError`."""
        answer = self._ask({"expression": self._numbers[text], "context": context})
        if "error" in answer:
            raise ExpressionError(answer["error"])
        return answer["type"], answer["value"]

    def _ask(self, question: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], TIMEOUT)[0]:
            self._process.kill()
            raise TimeoutError("an expression does not end")
        return json.loads(self._process.stdout.readline())

    def _source(self) -> str:
        methods, cases = [], []
        for text, number in self._numbers.items():
            body = f"return {text[2:-1]};" if text.startswith("@(") else text[2:-1]
            methods.append(f"    static object E{number}(IContext context)\n    {{ {body} }}")
            cases.append(f"            case {number}: return E{number}(context);")
        imports = "\n".join(f"using {name};" for name in NAMESPACES)
        switch = "\n".join([*cases, "            default: throw new IndexOutOfRangeException();"])
        return (
            f"{imports}\npublic static class Expressions\n{{\n"
            "    public static object Evaluate(int number, IContext context)\n"
            f"    {{\n        switch (number)\n        {{\n{switch}\n        }}\n    }}\n"
            + "\n".join(methods)
            + "\n}\n"
        )


def expressions(policy: ET.Element) -> Iterator[str]:
    """Return the expressions of a policy, in attributes and texts."""
    for element in policy.iter():
        for text in (*element.attrib.values(), (element.text or "").strip()):
            if text.startswith(("@(", "@{")):
                yield text


type Backend = Callable[[Sent], Answer | None]
"""Answers a request of the gateway; `None` is a connection that failed, or a time-out."""


class _Returned(Exception):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class _Failed(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


class Gateway:
    """One API of API Management.

    `operations`: policy documents by method and URL template, such as `("GET", "/done/{outcome}")`.
    `values`: the named values. `identity`: what the managed identity's token is, or `None` where
    there is none to be had. `miss`: whether a cache miss sets the variable to the policy's
    default, to null, or not at all. `calls_left`: of the rate limit; it raises below zero.
    """

    def __init__(
        self,
        compiled: Expressions,
        operations: Mapping[tuple[str, str], ET.Element],
        values: Mapping[str, str],
        backend: Backend,
        *,
        path: str = "",
        identity: str | None = "identity-token",
        miss: str = "default",
        calls_left: int = 1_000,
    ) -> None:
        self.cache: dict[str, tuple[str, int]] = {}
        self.variables: dict[str, Any] = {}
        self._compiled = compiled
        self._operations = operations
        self._values = values
        self._backend = backend
        self._path = path
        self._identity = identity
        self._miss = miss
        self._calls_left = calls_left
        self._context: dict[str, Any] = {}

    def request(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a request for this path and query, below the path of the API."""
        path, _, query = url.partition("?")
        policy, matched = self._operation(method, path)
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
        names = dict.fromkeys(name for name, _ in pairs)
        self.variables = {}
        self._context = {
            "method": method,
            "path": self._path,
            "query_string": f"?{query}" if query else "",
            "query": {name: [value for known, value in pairs if known == name] for name in names},
            "headers": {name: [value] for name, value in (headers or {}).items()},
            "matched": matched,
            "ip": "198.51.100.7",
            "request_id": str(uuid.uuid4()),
            "reason": None,
            "variables": self.variables,
        }
        try:
            self._run(policy.iterfind("inbound/*"))
        except _Returned as returned:
            return returned.answer
        except _Failed as failed:
            self._context["reason"] = failed.reason
            try:
                self._run(policy.iterfind("on-error/*"))
            except _Returned as returned:
                return returned.answer
        raise AssertionError("the policy returned no response")

    def _operation(self, method: str, path: str) -> tuple[ET.Element, dict[str, str]]:
        for (known, template), policy in self._operations.items():
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]*)", re.escape(template))
            match = re.fullmatch(pattern, path)
            if known == method and match is not None:
                return policy, match.groupdict()
        raise LookupError(f"no operation for {method} {path}")

    def _run(self, statements: Iterable[ET.Element]) -> None:
        for statement in statements:
            getattr(self, "_" + statement.tag.replace("-", "_"))(statement)

    def _value(self, text: str, *, kind: str | None = None) -> Any:
        """Evaluate an attribute or a text: its named values, then the expression if it is one."""
        found, value = self._evaluate(text)
        if kind is not None:
            assert found == kind, f"{text} is a {found}"
        return value

    def _evaluate(self, text: str) -> tuple[str | None, Any]:
        text = self._named(text.strip())
        if not text.startswith(("@(", "@{")):
            return "System.String", text
        try:
            return self._compiled.evaluate(text, self._context)
        except ExpressionError:
            raise _Failed("ExpressionValueEvaluationFailure") from None

    def _named(self, text: str) -> str:
        return re.sub(r"\{\{([\w.-]+)\}\}", lambda found: self._values[found[1]], text)

    # -- the statements, by their names ----------------------------------------------------------

    def _base(self, _: ET.Element) -> None:
        pass

    def _set_variable(self, statement: ET.Element) -> None:
        name = statement.attrib["name"]
        kind, self.variables[name] = self._evaluate(statement.attrib["value"])
        assert kind in VARIABLE_TYPES, f"{name} is a {kind}"

    def _choose(self, statement: ET.Element) -> None:
        for branch in statement:
            if branch.tag == "otherwise" or self._value(
                branch.attrib["condition"], kind="System.Boolean"
            ):
                self._run(branch)
                return

    def _retry(self, statement: ET.Element) -> None:
        for _ in range(int(statement.attrib["count"]) + 1):
            self._run(statement)
            if not self._value(statement.attrib["condition"], kind="System.Boolean"):
                return

    def _rate_limit_by_key(self, statement: ET.Element) -> None:
        assert self._value(statement.attrib["counter-key"], kind="System.String")
        self._calls_left -= 1
        if self._calls_left < 0:
            self.variables[statement.attrib["retry-after-variable-name"]] = 17
            raise _Failed("RateLimitExceeded")

    def _cache_lookup_value(self, statement: ET.Element) -> None:
        key, name = self._value(statement.attrib["key"]), statement.attrib["variable-name"]
        if key in self.cache:
            self.variables[name] = self.cache[key][0]
        elif self._miss == "default":
            self.variables[name] = self._value(statement.attrib["default-value"])
        elif self._miss == "null":
            self.variables[name] = None

    def _cache_store_value(self, statement: ET.Element) -> None:
        key = self._value(statement.attrib["key"])
        value = self._value(statement.attrib["value"], kind="System.String")
        seconds = self._value(statement.attrib["duration"], kind="System.Int32")
        self.cache[key] = (value, seconds)

    def _authentication_managed_identity(self, statement: ET.Element) -> None:
        assert self._value(statement.attrib["resource"]).startswith("https://")
        assert statement.attrib["ignore-error"] == "true"
        if self._identity is not None:
            self.variables[statement.attrib["output-token-variable-name"]] = self._identity

    def _send_request(self, statement: ET.Element) -> None:
        headers = self._headers(statement)
        url, method = (
            self._value(statement.findtext(tag, "")) for tag in ("set-url", "set-method")
        )
        body = self._value(statement.findtext("set-body", ""))
        answer = self._backend(Sent(url, method, headers, body))
        name = statement.attrib["response-variable-name"]
        if answer is not None:
            self.variables[name] = {
                "status": answer.status,
                "headers": {name: [value] for name, value in answer.headers.items()},
                "body": answer.body,
            }
        elif self._miss != "unset":
            self.variables[name] = None

    def _return_response(self, statement: ET.Element) -> None:
        status = statement.find("set-status")
        code = "200" if status is None else self._value(status.attrib["code"])
        body = statement.find("set-body")
        text = None if body is None else self._value(body.text or "")
        raise _Returned(Answer(int(code), self._headers(statement), text))

    def _headers(self, statement: ET.Element) -> dict[str, str]:
        headers = {}
        for one in statement.findall("set-header"):
            value = self._value(one.findtext("value", ""))
            assert isinstance(value, str)
            # A gateway that wrote these would let a value add headers of its own.
            if re.search(r"[\r\n\0]", value):
                raise _Failed("ExpressionValueEvaluationFailure")
            headers[one.attrib["name"]] = value
        return headers
