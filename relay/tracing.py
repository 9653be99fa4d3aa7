"""Spans for OpenTelemetry where the platform's own switch is on; elsewhere nothing happens.

The worker sets OpenTelemetry up and makes the host's request the parent
(https://learn.microsoft.com/azure/azure-functions/opentelemetry-howto). Attributes are those of the
log line: names, hashes, statuses and fixed words, never a value.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from relay.errors import RelayError

SWITCHES = ("PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY", "PYTHON_ENABLE_OPENTELEMETRY")
"""App settings of the platform, either of which turns OpenTelemetry on in the worker."""

type Tell = Callable[[Mapping[str, object]], None]


def tracer(environ: Mapping[str, str]) -> Any:  # noqa: ANN401 - of a package that need not be there
    """Return a tracer, or `None` where telemetry is off or its packages are not installed."""
    if not any(environ.get(switch, "").strip().lower() in ("true", "1") for switch in SWITCHES):
        return None
    try:
        from opentelemetry import trace  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return None
    return trace.get_tracer("relay")


class Spans:
    """Opens spans, if there is a tracer."""

    def __init__(self, tracer: Any = None) -> None:  # noqa: ANN401 - as above
        self._tracer = tracer

    @contextmanager
    def __call__(self, name: str) -> Iterator[Tell]:
        """Run the block in a span; what it gets takes attributes. An error is told by its kind."""
        if self._tracer is None:
            yield _nobody
            return
        # Neither recorded nor described by OpenTelemetry: that would copy an exception's message.
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as span:

            def tell(values: Mapping[str, object]) -> None:
                span.set_attributes({f"relay.{name}": value for name, value in values.items()})

            try:
                yield tell
            except BaseException as error:
                reason = error.reason if isinstance(error, RelayError) else type(error).__name__
                span.set_attribute("error.type", reason)
                raise


def _nobody(_: Mapping[str, object]) -> None:
    """Take attributes that nobody wants."""
