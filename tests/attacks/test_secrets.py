"""No code, state, secret or token in a log line, page, header or exception, even at DEBUG."""

import base64
import logging
import traceback
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

import httpx
import pytest

from relay import errors
from sandbox import dynamics, entra
from sandbox.world import CLIENT_SECRET, World

CODE = "canary-code/+=" + "q7" * 8
STATE = "canary-state:;" + "z3" * 8
DESCRIPTION = "canary description of the provider"


def spellings(secret: str) -> Iterator[str]:
    """Return every way in which a secret could stand in a text."""
    raw = secret.encode()
    yield secret
    yield quote(secret, safe="")
    yield quote(secret, safe="").lower()
    yield quote_plus(secret)
    yield raw.hex()
    yield raw.hex().upper()
    yield repr(secret)[1:-1]
    for shift in range(3):  # base64 of something that has it at any place
        encoded = base64.b64encode(b"x" * shift + raw)
        whole = encoded[4 if shift else 0 : len(encoded) - 4].decode()
        yield whole
        yield whole.replace("+", "-").replace("/", "_")


def assert_clean(text: str, secrets: Iterable[str]) -> None:
    for secret in secrets:
        for spelling in spellings(secret):
            # Not `assert … not in text`: pytest would print both.
            if spelling in text:
                pytest.fail(f"a secret that begins with {secret[:8]} stands in the text")


def test_the_detector_finds_every_spelling() -> None:
    buried = base64.b64encode(f'{{"x":"{CODE}"}}'.encode()).decode()
    for text in (CODE, quote(CODE, safe=""), CODE.encode().hex(), buried):
        with pytest.raises(pytest.fail.Exception):
            assert_clean(f"… {text} …", [CODE])


@pytest.fixture(autouse=True)
def everything_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> list[BaseException]:
    """Log at DEBUG, and keep every error of the relay's."""
    caplog.set_level(logging.DEBUG)
    raised: list[BaseException] = []
    original = errors.RelayError.__init__

    def remember(self: errors.RelayError, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        raised.append(self)

    monkeypatch.setattr(errors.RelayError, "__init__", remember)
    return raised


def hits(world: World) -> Iterator[tuple[str, httpx.Response]]:
    """Drive every outcome, each with the secrets in it, as a program and as a browser."""
    good = {"code": CODE, "state": STATE}
    error = {"state": STATE, "error": "access_denied", "error_description": DESCRIPTION}

    def hit(
        client: httpx.Client, parameters: dict[str, str], path: str = "", *, post: bool = False
    ) -> httpx.Response:
        url = world.redirect_uri + path
        return client.post(url, data=parameters) if post else client.get(url, params=parameters)

    for accept in ("application/json", "text/html"):
        with world.client(headers={"accept": accept}, follow_redirects=True) as client:
            for fault in dynamics.Fault:
                world.dynamics.faults.append(fault)
                yield fault.name, hit(client, {**good, "state": f"{STATE}{fault.name}{accept}"})
                world.dynamics.faults.clear()
            yield "invalid", hit(client, {"code": CODE})
            yield "invalid", hit(client, {**good, "error": "x"})
            yield "invalid", hit(client, {**good, "access_token": CODE})
            yield "invalid", hit(client, {**good, "code": CODE + "\x00"})
            yield "invalid", hit(client, {**good, "state": STATE + "é"})
            yield "invalid", client.get(f"{world.redirect_uri}?code={quote(CODE)}&code=x&state=y")
            yield "invalid", client.get(f"{world.redirect_uri}?code=%ff{quote(CODE)}&state=y")
            yield "invalid", client.post(world.redirect_uri, json=[CODE, STATE])
            yield "invalid", client.post(world.redirect_uri, content=CODE)
            yield "unknown", hit(client, good, "/canary-connection")
            yield "declined", hit(client, error)
            yield "delivered", hit(client, good, post=True)
            yield "duplicate", hit(client, {**good, "code": CODE + "2"}, post=True)


def test_no_outcome_tells_a_secret(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    everything_is_logged: list[BaseException],
) -> None:
    with World({"DYNAMICS_TIMEOUT": "0.3"}) as world:
        world.dynamics.retry_after = 0
        answers = []
        seen = set()
        for label, answer in hits(world):
            answers.append(f"{answer.request.url.path} {answer.headers} {answer.text}")
            answers += [f"{hop.headers} {hop.text}" for hop in answer.history]
            if answer.headers["content-type"].endswith("json"):
                seen.add(answer.json()["outcome"])
            assert label
        secrets = [CODE, STATE, CLIENT_SECRET, *world.entra.issued]
        errors_told = "".join(
            "".join(traceback.format_exception(error)) + repr(error)
            for error in everything_is_logged
        )

    assert seen == {"delivered", "duplicate", "declined", "invalid", "unknown", "rejected"}
    assert len(world.entra.issued) >= 1
    assert len(everything_is_logged) > 30
    assert "callback delivered" in caplog.text
    for text in (*answers, caplog.text, *capfd.readouterr(), errors_told):
        assert_clean(text, secrets)
    for text in (caplog.text, *capfd.readouterr(), errors_told):
        assert_clean(text, [DESCRIPTION, "canary-connection"])


def test_no_failure_of_entra_tells_a_secret(
    caplog: pytest.LogCaptureFixture, everything_is_logged: list[BaseException]
) -> None:
    for fault in entra.Fault:
        if "HANG" in fault.name:
            continue
        with World() as world, world.client(headers={"accept": "*/*"}) as client:
            world.entra.retry_after = 0
            world.entra.mode = fault
            answer = client.get(world.redirect_uri, params={"code": CODE, "state": STATE})
            assert answer.status_code == 503
            assert_clean(answer.text, [CODE, STATE, CLIENT_SECRET])
    assert "no token from Entra" in caplog.text
    told = "".join("".join(traceback.format_exception(error)) for error in everything_is_logged)
    for text in (caplog.text, told):
        assert_clean(text, [CODE, STATE, CLIENT_SECRET])


def test_a_bug_in_the_relay_tells_no_secret(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from relay.body import Template  # noqa: PLC0415 - the very class that the app will use

    def broken(_self: Template, values: dict[str, str]) -> bytes:
        raise RuntimeError(f"values were {values}")

    with World() as world, world.client(headers={"accept": "*/*"}) as client:
        monkeypatch.setattr(Template, "render", broken)
        answer = client.get(world.redirect_uri, params={"code": CODE, "state": STATE})
    assert answer.status_code == 503
    assert "unforeseen RuntimeError" in caplog.text
    assert_clean(answer.text + caplog.text, [CODE, STATE])
