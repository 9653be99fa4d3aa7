"""The whole sandbox, connected on loopback: Entra, Dynamics, a provider and the relay."""

import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import httpx
from starlette.types import ASGIApp

from sandbox import kestrel
from sandbox.azure_storage import AzureQueues
from sandbox.consumer import Consumer
from sandbox.dynamics import Dynamics
from sandbox.entra import Entra
from sandbox.host import FunctionsHost
from sandbox.packages import ROOT, Deployment
from sandbox.provider import Provider, Registration
from sandbox.queue_listener import LEASE
from sandbox.queues import STORAGE
from sandbox.serving import Server
from sandbox.storage import MemoryQueues
from sandbox.tls import Authority
from sandbox.worker_channel import WorkerProcess

APP = ROOT
CLIENT_ID = "5f1c7c1e-6f0a-4a53-9a41-0c1f6f2f7a10"
CLIENT_SECRET = "sandbox~secret.of.the.relay"
USER, PASSWORD = "ada", "engine"


class World:
    """All servers that a callback needs. A context manager, which stops them at its end.

    `settings` are added to the relay's, or replace them; an empty value removes one. With `browser`
    relay and provider are served by http, because no browser trusts the sandbox's certificate
    authority; Entra and Dynamics keep TLS. `port` is the relay's, 0 for a free one.

    `storage` is the connection string of an Azurite, or empty for queues in memory; all relays
    share them. `lease` is for how many seconds a received message is invisible.
    """

    authority: Authority
    entra: Entra
    dynamics: Dynamics
    provider: Provider
    consumer: Consumer
    entra_server: Server
    dynamics_server: Server
    provider_server: Server
    relay_server: Server
    relay_host: FunctionsHost
    """The host of the relay that was started last."""
    queues: MemoryQueues | AzureQueues
    """The queues of the relays, for assertions. In memory, `failing` makes methods raise."""
    settings: dict[str, str]

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        browser: bool = False,
        port: int = 0,
        storage: str = "",
        lease: int = LEASE,
        deployment: Deployment | None = None,
        **dynamics: Any,  # noqa: ANN401 - handed on to Dynamics
    ) -> None:
        self._further = dict(settings or {})
        self._browser = browser
        self._port = port
        self._storage = storage
        self._lease = lease
        self._deployment = deployment
        self._dynamics = dynamics
        self._stack = ExitStack()
        self._servers: list[Server] = []

    @property
    def redirect_uri(self) -> str:
        """The address that is registered at the provider."""
        return f"{self.relay_server.url}/callback"

    def client(self, **options: Any) -> httpx.Client:  # noqa: ANN401 - httpx's own
        """Return an HTTP client that trusts the sandbox's CA and does not follow redirects."""
        tls = self.authority.client_context()
        return httpx.Client(verify=tls, timeout=30, trust_env=False, **options)

    def serve(self, settings: Mapping[str, str], *, port: int = 0) -> Server:
        """Start a further relay with these settings, and return its server."""
        directory, process = APP, None
        if self._deployment is not None:
            directory = self._deployment.directory
            process = WorkerProcess(self._deployment.worker, self._deployment.packages)
            self._stack.enter_context(process)
        self.relay_host = FunctionsHost(
            directory, settings, queues=self.queues, lease=self._lease, process=process
        )
        return self._start(self.relay_host, self._tls, port, lifespan=True, http=kestrel.Connection)

    def add(self, app: ASGIApp, *, tls: bool = True) -> Server:
        """Serve a further application, and return its server."""
        return self._start(app, self.authority.server_context() if tls else None)

    def _start(
        self,
        app: ASGIApp,
        tls: ssl.SSLContext | None,
        port: int = 0,
        **options: Any,  # noqa: ANN401 - handed on to the server
    ) -> Server:
        server = Server(app, tls=tls, port=port, **options)
        self._servers.append(self._stack.enter_context(server))
        return server

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self.authority = stack.enter_context(Authority())
            tls = self.authority.server_context()
            facing = None if self._browser else tls
            self.queues = AzureQueues(self._storage) if self._storage else MemoryQueues()
            stack.callback(self.queues.close)

            self.entra = Entra(clients={CLIENT_ID: CLIENT_SECRET})
            self.entra_server = self._start(self.entra.app, tls)
            self.entra.url = self.entra_server.url
            self.dynamics = Dynamics(self.entra, **self._dynamics)
            self.dynamics_server = self._start(self.dynamics.app, tls)
            self.entra.resources.add(self.dynamics_server.url)
            self.provider = Provider([], users={USER: PASSWORD})
            self.provider_server = self._start(self.provider.app, facing)

            self.settings = {
                "ENTRA_AUTHORITY": f"{self.entra_server.url}/{self.entra.tenant}",
                "ENTRA_CLIENT_ID": CLIENT_ID,
                "ENTRA_CLIENT_SECRET": CLIENT_SECRET,
                "DYNAMICS_URL": f"{self.dynamics_server.url}/data/OAuthCallbacks",
                "STATE_POLICY": "opaque",
                "PROVIDER_ISSUER": self.provider_server.url,
                "CA_BUNDLE": str(self.authority.bundle),
                "AzureWebJobsDisableHomepage": "true",
                STORAGE: self._storage or "UseDevelopmentStorage=true",
            } | self._further
            self._tls = facing
            self.relay_server = self.serve(self.settings, port=self._port)

            registration = Registration(
                "dynamics-365", "sandbox~secret.of.dynamics", (self.redirect_uri,)
            )
            self.provider.clients[registration.client_id] = registration
            self.consumer = Consumer(
                self.dynamics,
                self.provider_server.url,
                registration,
                self.redirect_uri,
                self.authority.client_context(),
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.begin_to_stop()
        self._stack.close()
