"""With the platform's switch on a callback can be followed in OpenTelemetry, without its values."""

import json
import logging
from collections.abc import Iterator, Mapping

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from relay.errors import Rejected
from relay.tracing import SWITCHES, Spans, tracer
from sandbox import dynamics, entra
from sandbox.environments import QUEUE, Environments
from sandbox.world import CLIENT_SECRET, World
from tests.outbox import QUICK, VISIBILITY_TIMEOUT, eventually, everything

JSON = {"Accept": "application/json"}
CODE, STATE = "canary-code", "canary-state"
OUTBOX_KEY = "A" * 43 + "="


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    """Return what has been exported by this process, whose provider can be set only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture(scope="module")
def world(spans: InMemorySpanExporter) -> Iterator[World]:
    with World({SWITCHES[1]: "true", "OUTBOX_KEYS": OUTBOX_KEY}) as world:
        yield world


def callback(world: World, spans: InMemorySpanExporter, state: str = STATE) -> list[ReadableSpan]:
    """Send one callback, and return its spans in the order in which they began."""
    spans.clear()
    with world.client(headers=JSON) as program:
        program.get(
            f"{world.redirect_uri}?code={CODE}&state={state}&iss={world.settings['PROVIDER_ISSUER']}"
        )
    found = sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0)
    return [span for span in found if span.name != "redelivery"]


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    return dict(span.attributes or {})


def test_a_callback_is_a_span_with_one_for_the_token_and_one_for_the_delivery(
    world: World, spans: InMemorySpanExporter
) -> None:
    whole, token, delivery = callback(world, spans)
    assert [whole.name, token.name, delivery.name] == ["callback", "token", "delivery"]
    assert whole.context is not None
    for part in (token, delivery):
        assert part.parent is not None
        assert part.parent.span_id == whole.context.span_id
    told = attributes(whole)
    assert told["relay.outcome"] == "delivered"
    assert told["relay.connection"] == "default"
    assert told["relay.dynamics_status"] == 204
    assert len(str(told["relay.reference"])) == 16


def test_an_outage_is_told_by_its_reason(world: World, spans: InMemorySpanExporter) -> None:
    world.dynamics.faults.append(dynamics.Fault.UNAVAILABLE)
    world.dynamics.retry_after = 300
    whole, _, delivery = callback(world, spans, "another-state")
    assert attributes(delivery)["error.type"] == "dynamics_503"
    assert attributes(whole)["relay.outcome"] == "held"
    assert attributes(whole)["relay.reason"] == "dynamics_503"


def test_a_refusal_of_entra_is_told_by_its_reason(spans: InMemorySpanExporter) -> None:
    with World({SWITCHES[0]: "TRUE"}) as world:
        world.entra.mode = entra.Fault.NOT_JSON_ERROR
        whole, token = callback(world, spans)
    assert "error.type" in attributes(token)
    assert attributes(whole)["relay.outcome"] == "rejected"


def test_no_span_holds_a_value(world: World, spans: InMemorySpanExporter) -> None:
    callback(world, spans)
    told = "".join(span.to_json() for span in spans.get_finished_spans())
    for secret in (CODE, STATE, CLIENT_SECRET, world.entra.issued[0], "http"):
        assert secret not in told
    assert json.loads(spans.get_finished_spans()[0].to_json())["events"] == []


def test_what_was_held_has_a_span_of_its_own_for_each_attempt(
    world: World, spans: InMemorySpanExporter
) -> None:
    tell = Spans(trace.get_tracer("test"))
    spans.clear()
    with pytest.raises(Rejected), tell("redelivery"):
        raise Rejected("fixed_word", "canary")
    [span] = spans.get_finished_spans()
    assert attributes(span) == {"error.type": "fixed_word"}
    assert not span.events


def test_spans_log_and_dead_letter_name_the_environment(
    spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay")
    with World({**QUICK, VISIBILITY_TIMEOUT: "00:00:00", SWITCHES[1]: "true"}) as world:
        both = Environments(world)
        dev = both.dynamics["dev"]
        dev.retry_after = 0
        dev.faults.extend([dynamics.Fault.UNAVAILABLE, *[dynamics.Fault.FORBIDDEN] * 3])
        spans.clear()
        caplog.clear()
        assert both.authorize("dev", both.minted("dev")) == "held"
        eventually(lambda: everything(world, f"{QUEUE}-dead"))
        [letter] = everything(world, f"{QUEUE}-dead")
    assert json.loads(letter)["environment"] == "dev"
    found = [span for span in spans.get_finished_spans() if span.name in ("callback", "redelivery")]
    assert [attributes(span).get("relay.environment") for span in found] == ["dev"] * 4
    lines = [each for each in caplog.messages if each.startswith("callback ")]
    assert [" environment=dev" in line for line in lines] == [True] * 4


def test_an_unforeseen_error_is_told_by_its_kind_alone(spans: InMemorySpanExporter) -> None:
    spans.clear()
    with pytest.raises(ZeroDivisionError), Spans(trace.get_tracer("test"))("callback"):
        raise ZeroDivisionError("canary")
    [span] = spans.get_finished_spans()
    assert attributes(span) == {"error.type": "ZeroDivisionError"}
    assert "canary" not in span.to_json()


@pytest.mark.parametrize("value", ["", "false", "0", "no"])
def test_without_the_switch_nothing_is_traced(value: str) -> None:
    assert tracer({}) is None
    assert tracer(dict.fromkeys(SWITCHES, value)) is None


def test_without_opentelemetry_the_switch_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    assert tracer(dict.fromkeys(SWITCHES, "true")) is None
    with Spans(None)("callback") as tell:
        tell({"outcome": "delivered"})
