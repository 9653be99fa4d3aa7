"""Nothing of a request, of an answer or of an exception's message is written to the log.

The sources are read as a tree: every argument of every logging call has to lead back, through the
assignments of its function, to a text that stands there or to one of the fixed fields below. What
the lines then look like at run time is checked in test_attacks.py and test_secrets.py.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

SOURCES = [
    ROOT / "function_app.py",
    *sorted(each for each in (ROOT / "relay").rglob("*.py") if each.parent.name != "doctor"),
]

AT_A_TERMINAL = ("commands.py", "terminal.py")
"""Commands that answer the person who typed them. They may print; in the host they never run."""

FIXED = {
    # Names of settings and what is expected; test_settings_reader.py holds them free of values.
    "bootstrap.py": {"connections.problems", "read.warnings", "each.name"},
    # The fields of a line, each of them filled in by `flow` alone, with what it is allowed below.
    "log.py": {
        "LEVEL.get(outcome, logging.INFO)",
        "logging.DEBUG if line.reason == 'bare' else LEVEL.get(outcome, logging.INFO)",
        "max(level, logging.WARNING)",
        "line.known()",
        "outcome",
        "reference",
        # Of `at_once`, whose callers are looked at themselves.
        "level",
        "text",
        "*values",
        "line.values()",
        "line.connection",
        "line.reference",
        "line.environment",
        "type(error).__name__",
        # Files, lines and the source's own text; never a value.
        "traceback.format_tb(error.__traceback__)",
    },
    # Findings of the doctor: fixed texts, settings' names, words of a fixed form.
    "examination.py": {"each.verdict", "each.check", "each.connection or '-'", "each.message"},
    # Names of queues and numbers; the error's word is of a fixed form.
    "gauge.py": {
        "type(error).__name__",
        "getattr(error, 'reason', None) or getattr(error, 'code', None) or '-'",
        "queue",
        "kind",
        "count",
        "max(0, oldest)",
    },
    # The reason is one word (`_reasons`), the status a number.
    "client.py": {"reasons[0]", "status"},
}

FIELDS = {
    "configured",
    "connection.name",
    "connection.environment",
    "sealed.connection",
    "sealed.environment",
    "sealed.reference",
    "sealed.delivery_id",
    "started.environment",
    "callback.delivery_id",
    "delivery_id(connection.name, response)",
    "delivery",
    "receipt.status",
    "error.dynamics_status",
    "error.reason",
    "error.authenticated",
    "reason",
    "error_codes.known(error_code)",
    "attempt",
    "secrets.token_hex(8)",
    "connection.signed",
    "not connection.signed",
}
"""What `flow` may put into a field of `log.Line`: configured names, hashes, statuses, words."""
COUNTED = {"times"}
"""What the log itself puts into one: how many refusals it counts."""
IN_A_LINE = re.compile(r"(?:\w+\.)*line\.\w+")
"""A field of a line, wherever the line is."""

METHODS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log"}
LEVELS = {"INFO", "WARNING", "ERROR"}
SAY = {"at_once", "later", "_say"}
"""The relay's own ways to write a line, with a level, a text and its values as for `Logger.log`."""
WRITERS = {"print", "pprint", "sys.stdout.write", "sys.stderr.write", "sys.__stderr__.write"}
WRITERS |= {"warnings.warn", "os.write", "traceback.print_exc", "traceback.print_exception"}

type Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Module


def faults(source: str, name: str) -> list[str]:
    """Return every place of a module that could log what it must not."""
    tree = ast.parse(source)
    found = []
    for function in _functions(tree):
        check = _Check(function, FIXED.get(name, set()))
        for node in _own(function):
            if isinstance(node, ast.Call) and (_is_logging(node.func) or _writes(node.func)):
                if _writes(node.func) and name in AT_A_TERMINAL:
                    continue
                if isinstance(node.func, ast.Attribute) and node.func.attr == "exception":
                    if not node.args:  # a task's own exception, not a line of the log
                        continue
                    found.append(f"{name}:{node.lineno} logs an exception's message")
                arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
                found += [
                    f"{name}:{argument.lineno} logs {ast.unparse(argument)}"
                    for argument in arguments
                    if not check.is_fixed(argument)
                ]
                found += [
                    f"{name}:{node.lineno} logs an exception's message"
                    for keyword in node.keywords
                    if keyword.arg == "exc_info"
                ]
            found += _line_faults(node, name)
        found += _aliases(function, name)
    return found


def _functions(tree: ast.Module) -> Iterator[Function]:
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _own(function: Function) -> Iterator[ast.AST]:
    """Walk a function without those that are defined in it."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)


def _is_logging(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "say"
    return isinstance(function, ast.Attribute) and function.attr in METHODS | SAY


def _writes(function: ast.expr) -> bool:
    return ast.unparse(function) in WRITERS


def _aliases(function: Function, name: str) -> list[str]:
    """Find a logger's method that is taken without being called at once: `tell = logger.info`."""
    nodes = list(_own(function))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return [
        f"{name}:{node.lineno} hands on {ast.unparse(node)}"
        for node in nodes
        if isinstance(node, ast.Attribute)
        and node.attr in METHODS
        and id(node) not in called
        and ("logg" in ast.unparse(node.value) or ast.unparse(node.value) == "log")
    ]


def _line_faults(node: ast.AST, name: str) -> list[str]:
    """Hold what is put into a `log.Line` against its allow-list."""
    given: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            else:
                pairs = [(target, node.value)]
            given += [value for target, value in pairs if IN_A_LINE.fullmatch(ast.unparse(target))]
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        if IN_A_LINE.fullmatch(ast.unparse(node.target)) and node.value is not None:
            given.append(node.value)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("log.Line", "Line"):
        given += [*node.args, *(keyword.value for keyword in node.keywords)]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
        given.append(node)
    return [
        f"{name}:{value.lineno} puts {ast.unparse(value)} into a line"
        for value in given
        if not isinstance(value, ast.Constant)
        and ast.unparse(value) not in (FIELDS | COUNTED if name == "log.py" else FIELDS)
    ]


class _Check:
    """Follows an argument back to where it comes from, within one function."""

    def __init__(self, function: Function, fixed: set[str]) -> None:
        self._fixed = fixed
        self._sources: dict[str, list[ast.expr]] = {}
        for node in _own(function):
            match node:
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._note(target, value)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self._note(target, value)
                case ast.AugAssign(target=target, value=value):
                    self._note(target, value)
                case ast.NamedExpr(target=target, value=value):
                    self._note(target, value)
                case (
                    ast.For(target=target, iter=value)
                    | ast.comprehension(target=target, iter=value)
                ):
                    self._note(target, value)
                case _:
                    pass

    def _note(self, target: ast.expr, value: ast.expr) -> None:
        # `values["reason"] = …` fills `values`; `a, b = …` fills both with all of it.
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                self._sources.setdefault(node.id, []).append(value)

    def is_fixed(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> bool:
        """Tell whether nothing but fixed fields and literal texts can be in it."""
        if isinstance(node, ast.Constant) or ast.unparse(node) in self._fixed | LEVELS:
            return True
        if isinstance(node, ast.Name):
            sources = self._sources.get(node.id, [])
            if node.id in seen:
                return True  # a loop: its other sources decide
            return bool(sources) and all(self.is_fixed(one, seen | {node.id}) for one in sources)
        if isinstance(node, ast.Call):
            if not (isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "items")):
                return False
            parts = [node.func.value, *node.args]
        elif isinstance(
            node,
            ast.JoinedStr
            | ast.FormattedValue
            | ast.Dict
            | ast.Tuple
            | ast.List
            | ast.IfExp
            | ast.Compare
            | ast.BinOp
            | ast.GeneratorExp
            | ast.ListComp,
        ):
            # The iterables of a comprehension are the sources of its names.
            parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        else:
            return False
        return all(self.is_fixed(part, seen) for part in parts)


@pytest.mark.parametrize("source", SOURCES, ids=[source.name for source in SOURCES])
def test_a_module_logs_fixed_fields_only(source: Path) -> None:
    assert faults(source.read_text("utf-8"), source.name) == []


def test_lines_are_written_by_the_log_alone() -> None:
    """Who has a logger of his own could write in a thread, and the host would not take it."""
    having = [each.name for each in SOURCES if "getLogger" in each.read_text("utf-8")]
    assert having == ["log.py", "commands.py"]  # the commands silence it


def test_every_allowed_field_is_in_use() -> None:
    for name, fields in FIXED.items():
        [path] = [each for each in SOURCES if each.name == name]
        text = ast.unparse(ast.parse(path.read_text("utf-8")))
        assert [one for one in fields if one not in text] == []
    flow = ast.unparse(ast.parse((ROOT / "relay" / "flow.py").read_text("utf-8")))
    assert [one for one in FIELDS if one not in flow] == []


@pytest.mark.parametrize(
    "statement",
    [
        'logger.info("callback", request.query)',
        'logger.info("callback %s", req.url)',
        'logger.info(f"callback {req.url}")',
        'logger.info("callback " + req.url)',
        'logger.info("callback %s" % req.url)',
        'logger.info("callback {}".format(req.url))',
        "logger.info(req)",
        'logger.debug("%s", str(error))',
        'logger.exception("it failed")',
        'logger.error("it failed", exc_info=True)',
        'logger.warning("x", extra={"code": response.code})',
        'logger.log(10, "%s", response)',
        'logging.getLogger("relay").info("%s", body)',
        'logging.info("%s", body)',
        'log.logger.info("%s", body)',
        'self._logger.info("%s", body)',
        'self._say(10, "%s", body)',
        'say(10, "%s", body)',
        'writer.later(10, f"{body}")',
        'log.at_once(10, "%s", body)',
        "print(req.url)",
        "sys.stderr.write(req.url)",
        "warnings.warn(req.url)",
        "traceback.print_exc()\n    print(traceback.format_exc())",
        "tell = logger.info\n    tell(req.url)",
        'shown = req.url\n    logger.info("%s", shown)',
        'shown = "x"\n    shown = req.url\n    logger.info("%s", shown)',
        'shown = {}\n    shown["x"] = req.url\n    logger.info("%s", shown)',
        'shown = "x"\n    shown += req.url\n    logger.info("%s", shown)',
        'logger.info("%s", shown := req.url)',
        'for shown in req.headers:\n        logger.info("%s", shown)',
        'logger.info("%s", " ".join(name for name in req.headers))',
        "line.reason = response.state",
        "line.connection, line.reason = connection.name, response.code",
        "self.line.reason = response.state",
        "reception.line.connection, x = request.query, 1",
        "line = log.Line(reference=request.query)",
        'setattr(line, "reason", request.query)',
    ],
)
def test_what_would_log_a_request_is_found(statement: str) -> None:
    source = f"def function(request, req, response, body, line, error):\n    {statement}\n"
    assert faults(source, "flow.py")


@pytest.mark.parametrize(
    "statement",
    [
        'logger.info("callback")',
        'logger.info("callback %s", 5)',
        'word = "held" if late else "delivered"\n    logger.info("callback %s", "x")',
        "line.reason = error.reason",
        'line.reason = "unforeseen"',
        "problem.errors()",
    ],
)
def test_what_logs_fixed_words_is_let_through(statement: str) -> None:
    assert not faults(f"def function(late, line, error):\n    {statement}\n", "flow.py")


def test_a_command_may_print_to_the_person_who_typed_it_and_not_log() -> None:
    assert not faults("def main(answer):\n    print(answer)\n", "commands.py")
    assert faults("def main(answer):\n    logger.info(answer)\n", "commands.py")
