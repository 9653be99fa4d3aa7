"""Two Dynamics behind one redirect URI: each code arrives where it was asked for."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from relay import settings_reader
from relay.connections import Connection
from relay.oauth import state
from sandbox.consumer import Consumer
from sandbox.dynamics import Dynamics
from sandbox.provider import Registration
from sandbox.world import PASSWORD, USER, World

LIFETIME = timedelta(minutes=10)
NAMES = ("dev", "prod")
QUEUE = "environments-outbox"
"""Not the one of the world's own relay, which has no environments and could open no message."""


class Environments:
    """Dynamics `dev` and `prod` in a world, and a relay whose one redirect URI serves both.

    `resource` is the application id URI for which both accept tokens, as Business Central has one
    for all its environments; `None`: each accepts its own address.
    """

    def __init__(self, world: World, resource: str | None = None) -> None:
        self.world = world
        self.dynamics = {name: Dynamics(world.entra, resource=resource) for name in NAMES}
        settings = {
            name: value for name, value in world.settings.items() if name != "DYNAMICS_URL"
        } | {"STATE_POLICY": "signed", "OUTBOX_QUEUE": QUEUE}
        for name, dynamics in self.dynamics.items():
            url = world.add(dynamics.app).url
            world.entra.resources.add(resource or url)
            prefix = f"ENVIRONMENTS__{name.upper()}__"
            settings[f"{prefix}DYNAMICS_URL"] = f"{url}/data/OAuthCallbacks"
            settings[f"{prefix}STATE_KEYS"] = f"{name}:{secrets.token_urlsafe(32)}"
            if resource is not None:
                settings[f"{prefix}DYNAMICS_SCOPE"] = f"{resource}/.default"
        self.settings = settings
        self.relay = world.serve(settings)
        self.redirect_uri = f"{self.relay.url}/callback"
        self.connection = settings_reader.read(settings).connections.get("default")
        registration = Registration(
            "dynamics-365", "sandbox~secret.of.dynamics", (self.redirect_uri,)
        )
        world.provider.clients[registration.client_id] = registration
        self.consumers = {
            name: Consumer(
                dynamics,
                world.provider_server.url,
                registration,
                self.redirect_uri,
                world.authority.client_context(),
            )
            for name, dynamics in self.dynamics.items()
        }

    def minted(self, name: str) -> str:
        """Return a state as the Dynamics of this environment mints it."""
        return self._mint(self.connection.at(name))

    def forged(self, name: str, by: str) -> str:
        """Return a state that names one environment, under the key of another."""
        view = self.connection.at(name)
        return self._mint(replace(view, state_keys=self.connection.at(by).state_keys))

    def _mint(self, connection: Connection) -> str:
        return state.mint(connection, secrets.token_urlsafe(16), datetime.now(UTC), LIFETIME)

    def authorize(self, name: str, token: str) -> str:
        """Let a person consent to a flow that an environment started; return the outcome."""
        url = self.consumers[name].start(state=token)
        form = {"username": USER, "password": PASSWORD, "decision": "allow"}
        with self.world.client() as browser:
            callback = browser.post(url, data=form).headers["location"]
            answer = browser.get(callback, headers={"accept": "application/json"})
        return str(answer.json()["outcome"])
