"""Print one authorization step by step, from Dynamics' request to the API call (RFC 6749 §4.1).

All servers are real ones on loopback with TLS; an HTTP client takes the person's place.

    python -m sandbox.demo [--package | --environments]
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx

from sandbox.environments import Environments
from sandbox.packages import Deployment, unfit
from sandbox.serving import connect_to_loopback_directly
from sandbox.world import PASSWORD, USER, World


class DemoError(Exception):
    """A step failed; the message says which one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return the exit code."""
    parser = argparse.ArgumentParser(prog="python3 dev.py demo", description=main.__doc__)
    parser.add_argument(
        "--package",
        action="store_true",
        help="build what is deployed, and run it in a worker process of its own",
    )
    parser.add_argument(
        "--environments",
        action="store_true",
        help="two Dynamics behind one redirect URI, and a forged environment",
    )
    options = parser.parse_args(arguments)
    if options.package and (reason := unfit()):
        print(f"--package cannot be run here: {reason}.", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="        %(levelname)s %(message)s")
    logging.getLogger("relay").setLevel(logging.INFO)
    connect_to_loopback_directly()
    try:
        with tempfile.TemporaryDirectory() as folder:
            deployment = None
            if options.package:
                print("Building what is deployed …", flush=True)
                deployment = Deployment.built(Path(folder))
            with World(deployment=deployment) as world:
                (visit if options.environments else walk)(world)
    except Exception as error:  # noqa: BLE001 - whatever it is, the next step is the same
        print(f"\nThe demonstration stopped: {type(error).__name__}: {error}", file=sys.stderr)
        print("Run: python3 dev.py test    Its first failure tells more.", file=sys.stderr)
        return 1
    return 0


def walk(world: World) -> None:
    """Run the six steps of the flow."""
    print("Sandbox")
    say("Entra", world.entra_server.url)
    say("Dynamics", world.dynamics_server.url)
    say("provider", world.provider_server.url)
    say("relay", world.redirect_uri)

    title(1, "Dynamics sends the person to the provider")
    url = world.consumer.start()
    asked = dict(parse_qsl(urlsplit(url).query))
    show_parameters("browser → provider  GET /authorize", asked)

    with world.client() as browser:
        title(2, "The person signs in and consents")
        expect(browser.get(url), 200, "the sign-in page")
        form = {"username": USER, "password": PASSWORD, "decision": "allow"}
        redirect = browser.post(url, data=form)
        callback = expect(redirect, 302, "the redirect to the relay").headers["location"]
        say("browser → provider", f"POST /authorize as {USER}: allow")
        state = asked["state"]

        title(3, "The provider sends the browser to the relay, the relay posts to Dynamics")
        sent = dict(parse_qsl(urlsplit(callback).query))
        show_parameters("browser → relay     GET /callback", sent)
        answer = browser.get(callback, headers={"accept": "text/html"})
        location = expect(answer, 303, "the relay's redirect").headers["location"]
        outcome = location.removeprefix("/done/").partition("?")[0]
        if outcome != "delivered":
            raise DemoError(f"the relay said {outcome}; the line above names the reason.")
        say("relay checked", "method, sizes, encoding, duplicates, state, iss, characters")
        metadata, tokens = world.entra.metadata_requests, world.entra.token_requests
        say("relay → Entra", f"{metadata} metadata, {tokens} token request (client credentials)")
        post = world.dynamics.requests[-1]
        say("relay → Dynamics", f"{post.method} {post.path} → {post.status}")
        row = world.dynamics.rows[state]
        stored = ", ".join(f"{name}={shorten(value)}" for name, value in row.items())
        say("Dynamics stored", f"{{{stored}}}")
        page = expect(browser.get(urljoin(world.relay_server.url, location)), 200, "the page")
        say("browser → relay", f"GET {location} → “{heading(page.text)}”")

        again = browser.get(callback, headers={"accept": "application/json"})
        say("the same again", f"→ {again.json()['outcome']}, {world.dynamics.posts} POST in all")

    title(4, "Dynamics redeems the code at the provider")
    granted = world.consumer.redeem(state)
    say("Dynamics → provider", f"POST /token → access_token={shorten(granted['access_token'])}")
    title(5, "Dynamics refreshes the token")
    renewed = world.consumer.refresh(granted)
    say("Dynamics → provider", f"POST /token → access_token={shorten(renewed['access_token'])}")
    title(6, "Dynamics calls the API")
    person = world.consumer.call(renewed)
    say("Dynamics → provider", f"GET /api/me → {person}")
    print("\nAll six steps worked.")


def visit(world: World) -> None:
    """Show that codes arrive in the environment that asked, and that none can speak for another."""
    both = Environments(world)
    print("Sandbox")
    say("one redirect URI", both.redirect_uri)
    for step, name in enumerate(both.dynamics, 1):
        title(step, f"Dynamics {name} starts a flow")
        token = both.minted(name)
        outcome = both.authorize(name, token)
        arrived = [other for other, each in both.dynamics.items() if token in each.rows]
        say("the relay said", outcome)
        say("the code is in", ", ".join(arrived) or "none")
        if (outcome, arrived) != ("delivered", [name]):
            raise DemoError(f"the code of {name} did not arrive there alone.")
        granted = both.consumers[name].redeem(token)
        say(f"{name} → provider", f"POST /token → access_token={shorten(granted['access_token'])}")
    title(3, "A state that names prod, under the key of dev")
    forged = both.forged("prod", by="dev")
    outcome = both.authorize("dev", forged)
    say("the relay said", outcome)
    if outcome != "invalid" or any(forged in each.rows for each in both.dynamics.values()):
        raise DemoError("a forged environment was believed.")
    print("\nEach code arrived where it was asked for, and the forged one nowhere.")


def title(step: int, text: str) -> None:
    """Print the heading of a step."""
    print(f"\n{step}. {text}")


def say(who: str, what: str) -> None:
    """Print one thing that happened."""
    print(f"     {who:<20} {what}")


def show_parameters(what: str, parameters: dict[str, str]) -> None:
    """Print a request and its parameters, secrets shortened."""
    print(f"     {what}")
    for name, value in parameters.items():
        secret = name in ("code", "state", "code_challenge")
        print(f"         {name} = {shorten(value) if secret else value}")


def shorten(secret: str) -> str:
    """Return the first characters of a secret and its length: recognisable, but not usable."""
    return f"{secret[:4]}…({len(secret)})"


def heading(html: str) -> str:
    """Return a page's heading."""
    return html.partition("<h1>")[2].partition("</h1>")[0]


def expect(answer: httpx.Response, status: int, what: str) -> httpx.Response:
    """Return the answer if it has this status; raise `DemoError` otherwise."""
    if answer.status_code != status:
        raise DemoError(f"expected {what} ({status}), got {answer.status_code}.")
    return answer


if __name__ == "__main__":
    sys.exit(main())
