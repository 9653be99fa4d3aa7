"""Microsoft's worker code (azure-functions-runtime) in this process, without gRPC.

It imports and indexes `function_app.py`, binds parameters and runs functions exactly as in
Azure. It supports one app per process; this module makes several possible.
"""

import importlib
import json
import os
import re
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from azure.functions.meta import Datum
from azure_functions_runtime import native_invocation
from azure_functions_runtime.bindings.meta import load_binding_registry
from azure_functions_runtime.functions import Registry
from azure_functions_runtime.loader import index_function_app, process_indexed_function
from azure_functions_runtime.utils import threadpool
from azure_functions_runtime.version import VERSION

EXPECTED_VERSION = "1.3.0"
if VERSION != EXPECTED_VERSION:
    raise ImportError(
        f"The sandbox uses internals of azure-functions-runtime {EXPECTED_VERSION} and found "
        f"{VERSION}. Compare the two releases, then change the pin and sandbox/worker.py together."
    )

_indexing = threading.Lock()


class _BindingInfo(SimpleNamespace):
    """Replaces a protobuf message and its Direction enum."""

    undefined, out, inout = 0, 1, 2


# The protobuf messages that indexing needs: plain attributes are enough.
_protos = SimpleNamespace(
    BindingInfo=_BindingInfo,
    RpcFunctionMetadata=SimpleNamespace,
    RpcRetryOptions=SimpleNamespace,
)


class Indexed(NamedTuple):
    """A function as the worker reports it: its raw bindings are those of a function.json."""

    name: str
    function_id: str
    bindings: tuple[Mapping[str, Any], ...]


class Result(NamedTuple):
    """The result of one invocation; `error` is the name of the exception if it raised."""

    returned: Datum | None
    outputs: list[tuple[str, Datum]]
    error: str | None


def index(directory: Path, settings: Mapping[str, str]) -> list[Indexed]:
    """Import the folder's `function_app.py` again and index it.

    `settings` are in the environment meanwhile; afterwards environment, `sys.path` and
    `sys.modules` are restored. Raises what the import raises, and the worker's own errors.
    """
    script = directory / "function_app.py"
    if not script.is_file():
        raise FileNotFoundError(f"There is no function_app.py in {directory}.")
    registry = Registry()
    with _indexing, _import_state(directory, settings):
        load_binding_registry()
        if threadpool.get_threadpool_executor() is None:
            threadpool.start_threadpool_executor()
        functions = index_function_app(str(script))
        reported, _ = process_indexed_function(_protos, registry, functions, str(directory))
        return [_register(registry, metadata) for metadata in reported]


async def run(
    function_id: str, inputs: list[tuple[str, Datum]], metadata: Mapping[str, Datum]
) -> Result:
    """Run a function with these values for its parameters, under a new invocation id."""
    ok, returned, outputs, error, _ = await native_invocation.invocation_request_native(
        str(uuid.uuid4()), function_id, inputs, dict(metadata)
    )
    return Result(returned, outputs, None if ok else exception_name(error))


def _register(registry: Any, metadata: Any) -> Indexed:  # noqa: ANN401 - the runtime has no types
    # The worker derives a function's id from its name and looks it up in one registry for the
    # process. A new id keeps it from replacing a function of the same name in another app.
    function_id = str(uuid.uuid4())
    function = registry.get_function(metadata.function_id)
    shared = native_invocation._functions._functions  # noqa: SLF001 - there is no public access
    shared[function_id] = function._replace(function_id=function_id)
    bindings = tuple(json.loads(raw) for raw in metadata.raw_bindings)
    return Indexed(metadata.name, function_id, bindings)


@contextmanager
def _import_state(directory: Path, settings: Mapping[str, str]) -> Iterator[None]:
    environment, path = dict(os.environ), list(sys.path)
    module = sys.modules.pop("function_app", None)
    os.environ.update(settings)
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        sys.path[:] = path
        sys.modules.pop("function_app", None)
        if module is not None:
            sys.modules["function_app"] = module


def exception_name(error: str) -> str:
    """Return the name of an exception from its repr; the rest may contain secrets."""
    name = re.match(r"[A-Za-z_]\w*(?=\()", error)
    return name[0] if name else "an exception"
