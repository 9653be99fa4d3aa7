"""OpenTelemetry spans, if the platform's setting for OpenTelemetry is on.

The worker configures OpenTelemetry and makes the host's request the parent
(https://learn.microsoft.com/azure/azure-functions/opentelemetry-howto). Attributes are the fields
of the log line: names, hashes, status codes and fixed words.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from relay.errors import RelayError

SWITCHES = ("PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY", "PYTHON_ENABLE_OPENTELEMETRY")
"""App settings of the platform; either turns OpenTelemetry on in the worker."""

type SetAttributes = Callable[[Mapping[str, object]], None]


def tracer(environ: Mapping[str, str]) -> Any:  # noqa: ANN401 - from an optional package
    """Return a tracer, or `None` if telemetry is off or OpenTelemetry is not installed."""
    if not any(environ.get(switch, "").strip().lower() in ("true", "1") for switch in SWITCHES):
        return None
    try:
        from opentelemetry import trace  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return None
    return trace.get_tracer("relay")


class Spans:
    """Opens spans, or does nothing without a tracer."""

    def __init__(self, tracer: Any = None) -> None:  # noqa: ANN401 - as above
        self._tracer = tracer

    @contextmanager
    def __call__(self, name: str) -> Iterator[SetAttributes]:
        """Run the block in a span. Yields a function that sets attributes; records `error.type`."""
        if self._tracer is None:
            yield _ignore
            return
        # OpenTelemetry would copy an exception's message into the span.
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as span:

            def set_attributes(values: Mapping[str, object]) -> None:
                span.set_attributes({f"relay.{name}": value for name, value in values.items()})

            try:
                yield set_attributes
            except BaseException as error:
                reason = error.reason if isinstance(error, RelayError) else type(error).__name__
                span.set_attribute("error.type", reason)
                raise


def _ignore(_: Mapping[str, object]) -> None:
    """Ignore attributes: there is no span."""
