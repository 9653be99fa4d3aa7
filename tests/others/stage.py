"""What the browser's tests share: a world with providers, a client and storage of others.

The relay is https://localhost:PORT and the providers are https://127.0.0.1:PORT, which to a browser
are different sites: SameSite and Referer are what they are on the internet.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from playwright.sync_api import Browser, BrowserContext, Page, Request

from relay import settings_reader
from relay.oauth import state
from sandbox.serving import Server
from sandbox.tls import Authority
from sandbox.world import World
from tests.others.software import Program
from tests.outbox import QUICK

CLIENT_ID = "dynamics-365"
BODY = (
    '{"code": "{code}", "state": "{state_hash}", "sent_state": "{state}", "iss": "{iss}",'
    ' "code_verifier": "{code_verifier}", "redirect_uri": "{redirect_uri}",'
    ' "connection": "{connection}"}'
)
FURTHER = ("sent_state", "iss", "code_verifier", "redirect_uri", "connection")
FROM_DYNAMICS = ("bank", "insurer")
"""Connections whose flows Dynamics starts itself, each at a provider of its own."""
FROM_RELAY = {"bound": "query", "posted": "form_post", "secured": "query.jwt"}
"""Connections whose flows start at `/authorize`, all at the bank, with their response mode."""


class Stage:
    """The relay with `FROM_DYNAMICS` and `FROM_RELAY`, and everybody around it."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world = world
        self._stack = stack
        trust = world.authority.bundle
        certificate, key = world.authority.server_files()
        registrations: dict[str, dict[str, str]] = {}
        self.issuers: dict[str, str] = {}
        for name in FROM_DYNAMICS:
            secret = secrets.token_urlsafe(32)
            registration = {
                "client_id": CLIENT_ID,
                "client_secret": secret,
                "grant_types": ["authorization_code", "refresh_token"],
                "redirect_uris": [self.redirect_uri(name), *map(self.redirect_uri, FROM_RELAY)],
            }
            configuration = {
                "name": name,
                "clients": [registration],
                "certificate": str(certificate),
                "key": str(key),
            }
            provider = stack.enter_context(Program("provider.mjs", configuration, trust=trust))
            self.issuers[name] = provider.facts["url"]
            registrations[name] = {
                "issuer": self.issuers[name],
                "client_id": CLIENT_ID,
                "client_secret": secret,
            }
        self.client = stack.enter_context(
            Program("client.mjs", {"providers": registrations}, trust=trust)
        )
        self.settings = self._settings()
        self._connections = settings_reader.read(self.settings).connections
        world.relay_server.stop()
        self.relay: Server = world.serve(self.settings, port=world.relay_server.port)

    def redirect_uri(self, connection: str) -> str:
        """Return what is registered for a connection; the port stays for the stage's life."""
        return f"{self.world.relay_server.url}/callback/{connection}"

    @contextmanager
    def relay_down(self) -> Iterator[None]:
        """Take the relay down; what comes up at the end has its address and nothing in memory."""
        self.relay.stop()
        try:
            yield
        finally:
            self.relay = self.world.serve(self.settings, port=self.relay.port)

    def start(self, name: str, mode: str = "") -> "Flow":
        """Start a flow as Dynamics does: with its OAuth client, PKCE, and a state of its own."""
        question = {"start": name, "redirect_uri": self.redirect_uri(name)}
        told = self.client.ask(**question, **({"response_mode": mode} if mode else {}))
        return Flow(self, name, told["url"], told["state"], told["code_verifier"])

    def ticket(self, name: str) -> "Flow":
        """Start a flow at the relay: the link that Dynamics opens, with a ticket."""
        connection = self._connections.get(name)
        jti = secrets.token_urlsafe(16)
        ticket = state.mint_ticket(connection, jti, datetime.now(UTC), timedelta(minutes=5))
        url = f"{self.relay.url}/authorize/{name}?{urlencode({'ticket': ticket})}"
        return Flow(self, "bank", url)

    def state(self, name: str) -> str:
        """Return a state that Dynamics signed for a connection, bound to no browser."""
        now = datetime.now(UTC)
        connection = self._connections.get(name)
        return state.mint(connection, secrets.token_urlsafe(16), now, timedelta(minutes=5))

    def clear(self) -> None:
        """Empty Dynamics' table, and count its posts anew."""
        self.world.dynamics.rows.clear()
        self.world.dynamics.requests.clear()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self.world.dynamics.rows.values())

    def serve(self, app: Any) -> Server:  # an ASGI application
        """Start one more server, behind TLS."""
        tls = self.world.authority.server_context()
        return self._stack.enter_context(Server(app, tls=tls))

    def _settings(self) -> dict[str, str]:
        """Return the relay's settings: the world's, and those of each connection."""
        issuers = self.issuers
        key = secrets.token_urlsafe(32)
        plain = {
            "DYNAMICS_BODY": BODY,
            "PROVIDER_CLIENT_ID": CLIENT_ID,
            "PROVIDER_ISSUER": issuers["bank"],
            "PROVIDER_ISS_REQUIRED": "true",
            "PROVIDER_SCOPE": "openid offline_access",
            "PROVIDER_EXTRA": "prompt=consent",
            "STATE_KEYS": f"k1:{key}",
            "PAGE_RETURN_URL": "https://dynamics.example/?o={outcome}",
        }
        own = {
            "BANK": {"STATE_POLICY": "pattern", "STATE_PATTERN": "^[A-Za-z0-9_-]{43}$"},
            "INSURER": {"STATE_POLICY": "opaque", "PROVIDER_ISSUER": issuers["insurer"]},
        } | {
            name.upper(): {
                "STATE_POLICY": "signed",
                "PROVIDER_AUTHORIZATION_ENDPOINT": f"{issuers['bank']}/auth",
                "PROVIDER_RESPONSE_MODE": mode,
                "PROVIDER_REDIRECT_URI": self.redirect_uri(name),
            }
            for name, mode in FROM_RELAY.items()
        }
        for name in own:
            own[name]["PROVIDER_NAME"] = name.capitalize()
        return (
            self.world.settings
            | QUICK
            | plain
            | {
                f"CONNECTIONS__{name}__{setting}": value
                for name, given in own.items()
                for setting, value in given.items()
            }
        )


def flags(authority: Authority) -> tuple[str, ...]:
    """Return the browser's flags: it believes this authority's servers, and finds no others.

    Errors of certificates are not ignored in general: what Chromium loads in spite of one it never
    loads ahead and never caches.
    """
    chain, _ = authority.server_files()
    key = x509.load_pem_x509_certificate(chain.read_bytes()).public_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    fingerprint = base64.b64encode(hashlib.sha256(key.public_bytes(*form)).digest()).decode()
    return (
        f"--ignore-certificate-errors-spki-list={fingerprint}",
        # The provider's pages ask for a font from elsewhere.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    )


@dataclass(frozen=True)
class Flow:
    """One flow under way. `url` is what the person opens; the rest is Dynamics' to remember."""

    stage: Stage
    provider: str
    url: str
    state: str = ""
    code_verifier: str = ""

    def finish(self, row: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do with the row of this flow what Dynamics does: redeem, refresh, ask who it is.

        Of a flow that began at the relay the row, the only one then, has what it takes.
        """
        if row is None:
            [row] = [row for row in self.stage.rows if self.state in ("", row["sent_state"])]
        told: dict[str, Any] = self.stage.client.ask(
            finish=self.provider,
            state=self.state or row["sent_state"],
            code_verifier=self.code_verifier or row["code_verifier"],
            row={"redirect_uri": self.stage.redirect_uri(row["connection"]), **row},
        )
        return told


@dataclass
class Person:
    """A browser of one person's: cookies, tabs, and everything that it asked for.

    `relay` is the URL that the relay's pages begin with.
    """

    context: BrowserContext
    relay: str
    requests: list[Request] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            "event => console.error(`violated on ${document.URL}: ${event.violatedDirective}`))"
        )
        self.context.on("request", self._asked)
        self.context.on("console", lambda message: self.console.append(message.text))
        self.context.on("weberror", lambda error: self.console.append(str(error.error)))
        self.context.on("dialog", self._dismiss)

    @property
    def violations(self) -> list[str]:
        """Which Content-Security-Policy of the relay's own pages was violated, and by what."""
        return [line for line in self.console if line.startswith(f"violated on {self.relay}/")]

    @property
    def relay_cookies(self) -> list[Any]:
        """The cookies that the relay has set and not cleared."""
        return [one for one in self.context.cookies() if one["name"].startswith("__Host-relay")]

    def open(self, url: str) -> Page:
        """Open a URL in a new tab."""
        page = self.context.new_page()
        page.goto(url)
        return page

    def consent(self, page: Page, name: str = "ada") -> None:
        """Sign in on the provider's pages, where it asks for it, and consent."""
        self.sign_in(page, name)
        page.get_by_role("button", name="Continue").click()
        page.wait_for_url("**/done/**")

    def sign_in(self, page: Page, name: str = "ada") -> None:
        """Come to the provider's page that asks for consent."""
        if page.locator("input[name=login]").count():
            page.fill("input[name=login]", name)
            page.fill("input[name=password]", "any: the provider's own pages take it")
            page.get_by_role("button", name="Sign-in").click()
        page.get_by_role("button", name="Continue").wait_for()

    def history(self, page: Page) -> list[str]:
        """Return the URLs behind the back and forward buttons of a tab."""
        session = self.context.new_cdp_session(page)
        entries = session.send("Page.getNavigationHistory")["entries"]
        return [entry["url"] for entry in entries]

    def _asked(self, request: Request) -> None:
        self.requests.append(request)

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


def heading(page: Page) -> str:
    """Return what a page says first."""
    return page.get_by_role("heading", level=1).inner_text()


@contextmanager
def person(browser: Browser, relay: str) -> Iterator[Person]:
    """Give somebody a browser of their own."""
    context = browser.new_context()
    try:
        yield Person(context, relay)
    finally:
        context.close()
