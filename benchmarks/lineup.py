"""Who takes part: the relay, and what people would use instead of it.

Python contestants run as Azure runs a function app: in a worker process that has the worker's
packages, what its requirements name, and nothing of the development environment.
"""

import hashlib
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from benchmarks import upstream
from benchmarks.upstream import Upstream
from sandbox import packages
from sandbox.packages import Deployment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = HERE / "peers"
CONTESTANTS = HERE / "contestants"
NODE_MODULES = PEERS / "node_modules"
RELAY = "relay"
TIMES = "\N{MULTIPLICATION SIGN}"
LIMIT = "nothing"
HTTPX = "bare"
DEPLOYED = ("function_app.py", "host.json", "requirements.txt")
AIOHTTP = (
    "aiohappyeyeballs",
    "aiohttp",
    "aiosignal",
    "attrs",
    "frozenlist",
    "idna",
    "multidict",
    "propcache",
    "yarl",
)
"""All that a function with aiohttp has in its requirements."""


class Size(NamedTuple):
    """How many connections the relay has, and environments each; the load goes to one of them."""

    connections: int = 3
    environments: int = 0

    def __str__(self) -> str:
        """Return it for a table."""
        return (
            f"{self.connections} {TIMES} {self.environments}" if self.environments else f"{self[0]}"
        )


USUAL = Size()


class Kind(StrEnum):
    """What runs a contestant."""

    FUNCTION = "function"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One that takes part. `folder` holds its function app, `script` its program for Node.

    `delivers` is false for the one that does nothing.
    """

    name: str
    label: str
    about: str
    kind: Kind = Kind.FUNCTION
    delivers: bool = True


LINEUP = (
    Contestant(RELAY, "the relay", "this project, with everything on"),
    Contestant(LIMIT, "does nothing", "the Functions host's limit", delivers=False),
    Contestant(HTTPX, "httpx", "a bare function with HTTPX as it comes"),
    Contestant("bare_msal", "httpx + MSAL", "the same with MSAL for the token"),
    Contestant("bare_transports", "httpx, 1 transport each", "one transport for each connection"),
    Contestant("bare_aiohttp", "aiohttp", "a bare function with aiohttp"),
    Contestant("article", "the article", "its way in Python: blocking calls, JSON by pasting"),
    Contestant("node_red", "Node-RED", "http in, function, http request", Kind.NODE),
    Contestant("express", "Express + MSAL", "Express 5 with MSAL Node", Kind.NODE),
)


@dataclass(frozen=True)
class Setup:
    """How to start a contestant on a port: a command, its environment, where it runs.

    `placeholder`: the command is `benchmarks.host`, and the app has to be handed over.
    """

    command: list[str]
    settings: dict[str, str]
    directory: Path
    placeholder: bool = False


@dataclass(frozen=True)
class Apps:
    """The folders of all function apps of a run, made once. `relay` is as it is deployed."""

    relay: Deployment
    aiohttp: Path
    """The packages of the one contestant that has aiohttp."""

    @classmethod
    def copied(cls, folder: Path) -> "Apps":
        """Copy the relay and all packages into a folder."""
        directory = folder / RELAY
        directory.mkdir()
        for name in DEPLOYED:
            shutil.copyfile(ROOT / name, directory / name)
        left = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / RELAY, directory / RELAY, ignore=left)
        relay = Deployment.of(directory, folder / "packages")
        return cls(relay, packages.copy(AIOHTTP, folder / "aiohttp"))


@dataclass(frozen=True)
class Rig:
    """What the contestants are told: where the upstreams are, whom to trust, which keys.

    `folder` is for files of this run. `bundle` is a PEM file of the usual CAs and the run's own, as
    HTTPX and requests would have them from a package.
    """

    upstream: Upstream
    apps: Apps
    folder: Path
    bundle: Path
    state_keys: str
    outbox_keys: str
    issuer: str

    def setup(
        self, contestant: Contestant, port: int, *, size: Size = USUAL, cloud: bool = False
    ) -> Setup:
        """Return how to start it.

        `size` is the relay's. `cloud`: Entra goes by the name that it has in life, and is reached
        through a proxy.
        """
        if contestant.kind is Kind.NODE:
            return self._node(contestant, port)
        folder = CONTESTANTS / contestant.name
        settings = self.credentials()
        if contestant.name == RELAY:
            folder, settings = self.apps.relay.directory, self._relay_settings(size)
        if cloud:
            settings = settings | self._cloud()
        return self.function(folder, port, settings, aiohttp=contestant.name == "bare_aiohttp")

    def _cloud(self) -> dict[str, str]:
        authority = f"https://{upstream.CLOUD}/{upstream.TENANT}"
        return {
            "AUTHORITY": authority,
            "ENTRA_AUTHORITY": authority,
            "HTTPS_PROXY": self.upstream.tunnel_url,
            "NO_PROXY": "localhost,127.0.0.1",
        }

    def function(
        self, folder: Path, port: int, settings: Mapping[str, str], *, aiohttp: bool = False
    ) -> Setup:
        """Return how to start the function app in a folder, with the relay's packages."""
        installed = self.apps.aiohttp if aiohttp else self.apps.relay.packages
        options = {
            "--directory": folder,
            "--packages": installed,
            "--worker": self.apps.relay.worker,
            "--port": port,
        }
        command = [sys.executable, "-m", "benchmarks.host"]
        for name, value in options.items():
            command += [name, str(value)]
        platform = {
            "AzureWebJobsStorage": "none: queues are kept in memory",
            "AZURE_FUNCTIONS_ENVIRONMENT": "Production",
        }
        return Setup(command, {**settings, **platform}, ROOT, placeholder=True)

    def credentials(self) -> dict[str, str]:
        """Return the settings of those that are not the relay."""
        authority = f"{self.upstream.entra_url}/{upstream.TENANT}"
        return {
            "AUTHORITY": authority,
            "TOKEN_URL": f"{authority}/oauth2/v2.0/token",
            "CLIENT_ID": upstream.CLIENT_ID,
            "CLIENT_SECRET": upstream.CLIENT_SECRET,
            "DYNAMICS_URL": f"{self.upstream.dynamics_url}{upstream.ROWS}",
            "DYNAMICS_SCOPE": f"{self.upstream.dynamics_url}/.default",
            "SSL_CERT_FILE": str(self.bundle),
            "REQUESTS_CA_BUNDLE": str(self.bundle),
            "NODE_EXTRA_CA_CERTS": str(self.upstream.authority.bundle),
        }

    def _relay_settings(self, size: Size) -> dict[str, str]:
        further = {}
        names = ["DEFAULT", *(f"C{number:03d}" for number in range(1, size.connections))]
        for number, name in enumerate(names):
            prefix = f"CONNECTIONS__{name}__"
            if number:
                url = f"{self.upstream.dynamics_url}/data/Rows{number}"
                further[f"{prefix}DYNAMICS_URL"] = url
                further[f"{prefix}PROVIDER_ISSUER"] = f"https://provider{number}.example.com"
                further[f"{prefix}CODE_TTL"] = "600"
            for environment in range(size.environments):
                inner = f"{prefix}ENVIRONMENTS__E{environment}__"
                url = f"{self.upstream.dynamics_url}/data/Rows{number}E{environment}"
                further[f"{inner}DYNAMICS_URL"] = url
                further[f"{inner}STATE_KEYS"] = f"k1:{secrets.token_urlsafe(32)}"
        return {
            "ENTRA_AUTHORITY": f"{self.upstream.entra_url}/{upstream.TENANT}",
            "ENTRA_CLIENT_ID": upstream.CLIENT_ID,
            "ENTRA_CLIENT_SECRET": upstream.CLIENT_SECRET,
            "DYNAMICS_URL": f"{self.upstream.dynamics_url}{upstream.ROWS}",
            "STATE_POLICY": "signed",
            "STATE_KEYS": self.state_keys,
            "OUTBOX_KEYS": self.outbox_keys,
            "PROVIDER_ISSUER": self.issuer,
            "PROVIDER_ISS_REQUIRED": "true",
            "CA_BUNDLE": str(self.upstream.authority.bundle),
            **further,
        }

    def _node(self, contestant: Contestant, port: int) -> Setup:
        node = shutil.which("node")
        if node is None:
            raise FileNotFoundError("There is no Node.js on PATH.")
        settings = {**self.credentials(), "PORT": str(port), "NODE_ENV": "production"}
        if contestant.name == "express":
            return Setup([node, str(PEERS / "express.mjs")], settings, PEERS)
        folder = self.folder / "node-red"
        folder.mkdir(exist_ok=True)
        for name in ("flows.json", "settings.js"):
            shutil.copyfile(PEERS / "node_red" / name, folder / name)
        settings["FLOWS"] = str(folder / "flows.json")
        red = NODE_MODULES / "node-red/red.js"
        options = ["--userDir", str(folder), "--settings", str(folder / "settings.js")]
        return Setup([node, str(red), *options], settings, folder)


def install_peers() -> str:
    """Install what peers/package-lock.json names, once; say what is missing if that fails."""
    npm, mark = shutil.which("npm"), NODE_MODULES / "installed"
    if shutil.which("node") is None or npm is None:
        return "there is no Node.js here; it is at https://nodejs.org/, 20 or later"
    # The same mark as dev.py's, so that whoever comes first installs.
    wanted = hashlib.sha256((PEERS / "package-lock.json").read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text("utf-8") == wanted:
        return ""
    print("installing Node-RED and Express into benchmarks/peers, once …", flush=True)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    ended = subprocess.run([npm, "ci", *quiet], cwd=PEERS, check=False, stdout=subprocess.DEVNULL)
    if ended.returncode:
        return "npm could not install them; its message is at the top"
    mark.write_text(wanted, "utf-8")
    return ""


def versions() -> dict[str, str]:
    """Return what was measured, by name."""
    names = ("azure-functions", "azure-functions-runtime", "uvloop", "httpx", "msal", "aiohttp")
    found = {"Python": ".".join(map(str, sys.version_info[:3]))}
    found |= {name: version(name) for name in names}
    if (NODE_MODULES / "installed").is_file():
        for name in ("node-red", "express", "@azure/msal-node"):
            package = json.loads((NODE_MODULES / name / "package.json").read_text("utf-8"))
            found[name] = package["version"]
    node = shutil.which("node")
    if node is not None:
        said = subprocess.run([node, "--version"], check=False, capture_output=True, text=True)
        found["Node.js"] = said.stdout.strip().removeprefix("v")
    return found
