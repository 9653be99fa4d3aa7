"""The scripts that azd runs: they mint keys once and never show one, and they pack what runs."""

import importlib.util
import json
import marshal
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from relay import settings_reader
from tests.helpers import SHEBANG, tiny_wheel
from tests.infra.view import INFRA, parsed

SCRIPTS = INFRA / "scripts"
VAULT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/kv-relay"
SITE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/sites/func-relay"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for az is a POSIX script")

AZ = '''{shebang}
"""Answers as az does, for the few requests that the scripts send. Its vault is a file."""
import json, pathlib, sys
state = pathlib.Path({state!r})
vault = json.loads(state.read_text())
arguments = sys.argv[1:]
vault["calls"].append(arguments)
def given(option):
    return arguments[arguments.index(option) + 1] if option in arguments else ""
if vault["broken"]:
    sys.exit("ERROR: Please run az login")
if arguments[0] == "rest":
    method, url = given("--method"), given("--url")
    path = url.partition("?")[0]
    if method == "get" and path.endswith("/secrets"):
        names = sorted(vault["secrets"])
        half = len(names) // 2
        # cmd.exe, which runs az on Windows, ends an argument at this character.
        assert not any("&" in argument for argument in arguments), arguments
        second = given("--url-parameters") == "@-" and "$skiptoken" in json.loads(sys.stdin.read())
        page = names[half:] if second else names[:half]
        answer = {{"value": [{{"name": name}} for name in page]}}
        if not second:
            answer["nextLink"] = url + "&$skiptoken=MDAw%3D"
    elif method == "put":
        assert given("--body") == "@-"
        body = json.loads(sys.stdin.read())
        vault["secrets"][path.rpartition("/")[2]] = body["properties"]["value"]
        answer = {{"properties": {{"secretUri": "https://kv"}}}}
    elif method == "post" and path.endswith("/config/configreferences/appsettings/refresh"):
        vault["refreshed"] += 1
        late = vault["refreshed"] <= vault["late"]
        answer = {{"value": [
            {{"name": name, "properties": {{"status": "Resolved" if not late and
              name.lower().replace("_", "-") in vault["secrets"] else "SecretNotFound"}}}}
            for name in vault["settings"]
        ]}}
        if vault["keyed"]:
            found = {{one["name"]: one["properties"] for one in answer["value"]}}
            answer = {{"properties": {{"keyToReferenceStatuses": found}}}}
    print(json.dumps(answer))
elif arguments[:2] == ["provider", "register"]:
    assert given("--namespace") == "Microsoft.App" and "--wait" in arguments
elif arguments[:3] == ["keyvault", "secret", "show"]:
    print(vault["secrets"][given("--name")])
state.write_text(json.dumps(vault))
'''


class Azure:
    """A stand-in for the az command with a vault, on the path of the scripts it runs."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "vault.json"
        self.bin = folder / "bin"
        self.bin.mkdir()
        program = self.bin / "az"
        program.write_text(AZ.format(shebang=SHEBANG, state=str(self.state)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.settings = ["OUTBOX_KEYS", "STATE_KEYS"]
        self.change(secrets={}, late=0, broken=False, keyed=False)

    def change(self, **values: Any) -> None:
        before = json.loads(self.state.read_text()) if self.state.exists() else {}
        fixed = {"calls": [], "refreshed": 0, "settings": self.settings}
        self.state.write_text(json.dumps({**before, **fixed, **values}))

    @property
    def now(self) -> dict[str, Any]:
        content = json.loads(self.state.read_text())
        assert isinstance(content, dict)
        return content

    @property
    def secrets(self) -> dict[str, str]:
        secrets = self.now["secrets"]
        assert isinstance(secrets, dict)
        return secrets

    def environ(self) -> dict[str, str]:
        """Return what azd sets, and this stand-in on the path."""
        return {
            "PATH": f"{self.bin}{os.pathsep}{Path(sys.executable).parent}",
            "RELAY_VAULT_ID": VAULT,
            "RELAY_APP_ID": SITE,
            "RELAY_VAULT_SETTINGS": ",".join(self.settings),
        }

    def run(
        self, script: str, *arguments: str, given: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script as azd does."""
        return subprocess.run(
            [sys.executable, str(SCRIPTS / script), *arguments],
            check=False,
            capture_output=True,
            text=True,
            input=given,
            env=self.environ() | environ,
        )


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    return Azure(tmp_path)


def shown(azure: Azure, done: subprocess.CompletedProcess[str]) -> bool:
    """Tell whether a secret stands in what was printed, or among the arguments of az."""
    text = done.stdout + done.stderr + json.dumps(azure.now["calls"])
    parts = [part for secret in azure.secrets.values() for part in secret.split(",")]
    return any(part and part in text for part in parts)


# -- keys -----------------------------------------------------------------------------------------


def test_a_new_vault_gets_keys_that_the_relay_takes(azure: Azure) -> None:
    done = azure.run("keys.py", "mint")
    assert done.returncode == 0, done.stderr
    assert set(azure.secrets) == {"outbox-keys", "state-keys"}
    read = settings_reader.read(
        {
            "ENTRA_TENANT_ID": "contoso.com",
            "ENTRA_CLIENT_ID": "client",
            "ENTRA_CLIENT_SECRET": "secret",
            "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
            "STATE_POLICY": "signed",
            "STATE_KEYS": azure.secrets["state-keys"],
            "OUTBOX_KEYS": azure.secrets["outbox-keys"],
        }
    )
    assert read.connections.problems == ()
    assert len(read.app.outbox_keys) == 1


def test_no_key_is_printed_or_stands_in_the_process_list(azure: Azure) -> None:
    for arguments in (["mint"], ["rotate", "STATE_KEYS"], ["retire", "STATE_KEYS"]):
        done = azure.run("keys.py", *arguments)
        assert done.returncode == 0, done.stderr
        assert not shown(azure, done)


def test_a_key_that_is_there_stays_and_a_missing_one_is_added(azure: Azure) -> None:
    azure.change(secrets={"state-keys": "k1:mine"})
    done = azure.run("keys.py", "mint")
    assert azure.secrets["state-keys"] == "k1:mine"
    assert azure.secrets["outbox-keys"]
    assert "STATE_KEYS: in the vault already" in done.stdout


def test_a_second_deployment_changes_no_key(azure: Azure) -> None:
    azure.run("keys.py", "mint")
    before = azure.secrets
    azure.run("keys.py", "mint")
    assert azure.secrets == before


def test_two_vaults_never_get_the_same_key(azure: Azure) -> None:
    azure.run("keys.py", "mint")
    first = set(azure.secrets.values())
    azure.change(secrets={})
    azure.run("keys.py", "mint")
    assert not first & set(azure.secrets.values())


def test_nothing_is_minted_while_the_vault_cannot_be_seen(azure: Azure) -> None:
    azure.change(broken=True)
    done = azure.run("keys.py", "mint")
    assert done.returncode != 0
    assert "az login" in done.stderr
    assert azure.secrets == {}


def test_without_az_the_script_says_where_to_get_it(azure: Azure, tmp_path: Path) -> None:
    done = azure.run("keys.py", "mint", PATH=str(tmp_path))
    assert done.returncode != 0
    assert "install-azure-cli" in done.stderr


def test_outside_a_deployment_the_script_says_what_is_missing(azure: Azure) -> None:
    done = azure.run("keys.py", "mint", RELAY_VAULT_ID="", RELAY_APP_ID="", RELAY_VAULT_SETTINGS="")
    assert done.returncode != 0
    assert "RELAY_VAULT_ID, RELAY_APP_ID, RELAY_VAULT_SETTINGS: not known" in done.stderr
    assert azure.secrets == {}


def test_the_app_is_made_to_read_its_keys_at_once(azure: Azure) -> None:
    done = azure.run("keys.py", "mint")
    assert azure.now["refreshed"] == 1
    assert "The app reads OUTBOX_KEYS, STATE_KEYS from the vault." in done.stdout


def test_a_role_that_arrives_late_is_waited_for(azure: Azure) -> None:
    azure.change(late=3)
    done = azure.run("keys.py", "--wait", "0", "mint")
    assert azure.now["refreshed"] == 4
    assert "The app reads" in done.stdout


def test_a_role_that_does_not_arrive_ends_no_deployment(azure: Azure) -> None:
    azure.change(late=99)
    done = azure.run("keys.py", "--wait", "0", "mint")
    assert done.returncode == 0
    assert azure.now["refreshed"] == 6
    assert "OUTBOX_KEYS: the app cannot read it yet (SecretNotFound)" in done.stdout


def test_both_forms_of_azures_answer_are_read(azure: Azure) -> None:
    azure.change(late=1, keyed=True)
    done = azure.run("keys.py", "--wait", "0", "mint")
    assert azure.now["refreshed"] == 2
    assert "The app reads OUTBOX_KEYS, STATE_KEYS from the vault." in done.stdout


def test_a_secret_that_a_person_must_bring_is_asked_for(azure: Azure) -> None:
    azure.settings = [*azure.settings, "ENTRA_CLIENT_SECRET"]
    azure.change()
    done = azure.run("keys.py", "mint")
    assert "Run: python3 infra/scripts/keys.py put ENTRA_CLIENT_SECRET" in done.stdout
    done = azure.run("keys.py", "put", "ENTRA_CLIENT_SECRET", given="canary~.1\n")
    assert azure.secrets["entra-client-secret"] == "canary~.1"
    assert not shown(azure, done)


def test_a_secret_that_no_setting_reads_is_not_stored(azure: Azure) -> None:
    done = azure.run("keys.py", "put", "ENTRA_CLIENT_SECRET", given="canary")
    assert done.returncode != 0
    assert azure.secrets == {}


PEM = "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n"


def test_a_certificate_comes_from_a_file_or_a_pipe(azure: Azure, tmp_path: Path) -> None:
    azure.settings = [*azure.settings, "ENTRA_CLIENT_CERTIFICATE"]
    azure.change()
    file = tmp_path / "relay.pem"
    file.write_bytes(b"\xef\xbb\xbf" + PEM.encode())
    done = azure.run(
        "keys.py", "--wait", "0", "put", "ENTRA_CLIENT_CERTIFICATE", "--file", str(file)
    )
    assert done.returncode == 0, done.stderr
    assert azure.secrets["entra-client-certificate"] == PEM.strip()
    assert not shown(azure, done)
    azure.change(secrets={})
    azure.run("keys.py", "--wait", "0", "put", "ENTRA_CLIENT_CERTIFICATE", given=PEM)
    assert azure.secrets["entra-client-certificate"] == PEM.strip()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"-----BEGIN PRIVATE KEY-----\n", id="its first line"),
        pytest.param(PEM.encode("utf-16"), id="UTF-16"),
        pytest.param(b"\x30\x82\xff\xfe", id="PFX"),
    ],
)
def test_a_certificate_that_is_not_whole_or_no_text_is_not_stored(
    azure: Azure, tmp_path: Path, content: bytes
) -> None:
    azure.settings = [*azure.settings, "ENTRA_CLIENT_CERTIFICATE"]
    azure.change()
    file = tmp_path / "relay.pem"
    file.write_bytes(content)
    done = azure.run(
        "keys.py", "--wait", "0", "put", "ENTRA_CLIENT_CERTIFICATE", "--file", str(file)
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert azure.secrets == {}


@pytest.mark.parametrize(
    ("setting", "prompts", "said"),
    [
        ("ENTRA_CLIENT_CERTIFICATE", (), b"put ENTRA_CLIENT_CERTIFICATE --file"),
        ("ENTRA_CLIENT_SECRET", ((b"SECRET: ", PEM), (b"Enter: ", "\n")), b"Nothing was stored."),
    ],
)
def test_a_certificate_that_is_pasted_is_neither_stored_nor_shown(
    azure: Azure, setting: str, prompts: tuple[tuple[bytes, str], ...], said: bytes
) -> None:
    azure.settings = [*azure.settings, setting]
    azure.change()
    ours, theirs = os.openpty()
    text = b""
    with subprocess.Popen(
        [sys.executable, str(SCRIPTS / "keys.py"), "put", setting],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=azure.environ(),
        start_new_session=True,  # so that it asks this terminal and not the tester's
    ) as child:
        os.close(theirs)
        for prompt, typed in prompts:
            text += shown_until(ours, prompt)
            assert text.endswith(prompt)
            os.write(ours, typed.encode())
        text += shown_until(ours, None)
        assert child.wait() != 0
    os.close(ours)
    assert b"canary" not in text
    assert b"PRIVATE" not in text
    assert said in text
    assert azure.secrets == {}


def shown_until(terminal: int, wanted: bytes | None) -> bytes:
    """Return what a terminal shows up to some text, or to its end."""
    text = b""
    while wanted is None or wanted not in text:
        try:
            piece = os.read(terminal, 1024)
        except OSError:  # so Linux says that the other side has gone
            break
        if not piece:
            break
        text += piece
    return text


def test_the_hook_mints_without_arguments(azure: Azure) -> None:
    done = azure.run("mint.py")
    assert done.returncode == 0, done.stderr
    assert set(azure.secrets) == {"outbox-keys", "state-keys"}


@pytest.mark.parametrize(("private", "calls"), [("true", 1), ("false", 0), ("", 0)])
def test_what_the_private_network_needs_is_registered(
    azure: Azure, private: str, calls: int
) -> None:
    done = azure.run("prepare.py", PRIVATE_NETWORK=private, AZURE_SUBSCRIPTION_ID="sub")
    assert done.returncode == 0, done.stderr
    assert len(azure.now["calls"]) == calls
    for call in azure.now["calls"]:
        assert call[-3:] == ["--subscription", "sub", "--only-show-errors"]


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("a@contoso.com, b@contoso.com\n", ["a@contoso.com", "b@contoso.com"]),
        ("\n", []),
        ("a\na@contoso.com\n", ["a@contoso.com"]),
    ],
)
def test_whom_the_alerts_tell_is_asked_once(azure: Azure, typed: str, kept: list[str]) -> None:
    azd = azure.bin / "azd"
    azd.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.told"\n')
    azd.chmod(0o755)
    terminal, stdin = os.openpty()
    os.write(terminal, typed.encode())
    hook = [sys.executable, str(SCRIPTS / "prepare.py")]
    done = subprocess.run(
        hook, check=False, capture_output=True, text=True, stdin=stdin, env=azure.environ()
    )
    os.close(stdin)
    os.close(terminal)
    assert done.returncode == 0, done.stderr
    *command, emails = (azure.bin / "azd.told").read_text().splitlines()
    assert command == ["env", "set", "ALERT_EMAILS"]
    assert json.loads(emails) == kept


def test_whom_the_alerts_tell_is_not_asked_where_nobody_answers_or_it_is_set(azure: Azure) -> None:
    assert "The alerts tell nobody: ALERT_EMAILS" in azure.run("prepare.py").stdout
    assert azure.run("prepare.py", ALERT_EMAILS="[]").stdout == ""


def test_a_deployment_of_an_older_template_is_not_told_to_wait_for_azd_up(azure: Azure) -> None:
    done = azure.run("keys.py", "mint", RELAY_VAULT_SETTINGS="")
    assert "Run: azd provision" in done.stderr
    assert "after azd up" not in done.stderr


def test_an_empty_secret_is_not_stored(azure: Azure) -> None:
    done = azure.run("keys.py", "put", "OUTBOX_KEYS", given=" \n")
    assert done.returncode != 0
    assert azure.secrets == {}


@pytest.mark.parametrize("setting", ["OUTBOX_KEYS", "STATE_KEYS"])
def test_rotating_puts_a_new_key_in_front_and_keeps_the_one_before(
    azure: Azure, setting: str
) -> None:
    azure.run("keys.py", "mint")
    name = setting.lower().replace("_", "-")
    first = azure.secrets[name]
    azure.run("keys.py", "rotate", setting)
    second, behind = azure.secrets[name].split(",")
    assert behind == first
    assert second != first
    azure.run("keys.py", "rotate", setting)
    assert azure.secrets[name].split(",")[1:] == [second]  # not three
    azure.run("keys.py", "retire", setting)
    assert "," not in azure.secrets[name]


def test_a_setting_has_the_same_name_in_the_vault_as_in_the_app() -> None:
    text = (INFRA / "modules" / "app.bicep").read_text()
    assert "${toLower(replace(setting, '_', '-'))}" in text
    keys = (SCRIPTS / "keys.py").read_text()
    assert 'return setting.lower().replace("_", "-")' in keys


# -- the checklist --------------------------------------------------------------------------------


class Relay:
    """The deployed app: it answers with these statuses, the last one again and again."""

    def __init__(self) -> None:
        self.answers = [200]
        self.asked: list[str] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                relay.asked.append(self.path)
                status = relay.answers.pop(0) if len(relay.answers) > 1 else relay.answers[0]
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay()
    thread = threading.Thread(target=relay.server.serve_forever, args=(0.01,))
    thread.start()
    yield relay
    relay.server.shutdown()
    thread.join()
    relay.server.server_close()


def checklist(
    azure: Azure, relay: Relay, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    values = VALUES | {"RELAY_URL": relay.url} | environ
    return azure.run("checklist.py", *(arguments or ("--wait", "0")), **values)


VALUES = {
    "RELAY_URL": "http://127.0.0.1:9",
    "RELAY_CALLBACKS": "/callback,/callback/xero",
    "RELAY_CLIENT_ID": "11111111-2222-3333-4444-555555555555",
    "RELAY_FEDERATED": "true",
    "RELAY_REGISTRATION_CREATED": "true",
    "RELAY_IDENTITY_PRINCIPAL_ID": "99999999-2222-3333-4444-555555555555",
    "RELAY_FEDERATION_ISSUER": "https://login.microsoftonline.com/tenant/v2.0",
    "RELAY_FEDERATION_AUDIENCE": "api://AzureADTokenExchange",
    "RELAY_VAULT_NAME": "kv-relay",
    "RELAY_STORAGE_NAME": "strelay",
    "RELAY_APP_NAME": "func-relay",
    "RELAY_STATE_POLICY": "signed",
    "RELAY_DOMAIN": "",
    "RELAY_DOMAIN_VALIDATION": "",
    "RELAY_ENDPOINT_HOST": "",
}


def test_the_checklist_has_the_exact_values_and_no_secret(azure: Azure, relay: Relay) -> None:
    azure.run("keys.py", "mint")
    done = checklist(azure, relay)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert f"{relay.url}/callback" in lines
    assert f"{relay.url}/callback/xero" in lines
    assert VALUES["RELAY_CLIENT_ID"] in lines
    assert "{" not in done.stdout
    # Entra's page for consent needs a redirect URI, which this registration does not have.
    assert "adminconsent?" not in done.stdout
    assert f"az ad app permission admin-consent --id {VALUES['RELAY_CLIENT_ID']}" in lines
    assert "CNAME" not in done.stdout
    assert "federated-credential" not in done.stdout
    assert not shown(azure, done)


def test_a_registration_that_existed_gets_its_credential_by_hand(
    azure: Azure, relay: Relay
) -> None:
    done = checklist(azure, relay, RELAY_REGISTRATION_CREATED="false")
    (line,) = (line for line in done.stdout.splitlines() if line.strip().startswith("{"))
    assert json.loads(line) == {
        "name": "relay",
        "issuer": VALUES["RELAY_FEDERATION_ISSUER"],
        "subject": VALUES["RELAY_IDENTITY_PRINCIPAL_ID"],
        "audiences": [VALUES["RELAY_FEDERATION_AUDIENCE"]],
    }
    assert f"--id {VALUES['RELAY_CLIENT_ID']}" in done.stdout
    assert '--parameters "@credential.json"' in done.stdout  # PowerShell splats it without quotes


def test_a_custom_domain_gets_its_two_records_and_is_not_waited_for(
    azure: Azure, relay: Relay
) -> None:
    domain = {
        "RELAY_DOMAIN": "callback.contoso.com",
        "RELAY_DOMAIN_VALIDATION": "_proof",
        "RELAY_ENDPOINT_HOST": "relay-x.z01.azurefd.net",
    }
    relay.answers = [502]
    done = checklist(azure, relay, "--wait", "600", **domain)
    assert done.returncode == 0
    assert len(relay.asked) == 1
    assert "CNAME  callback.contoso.com  relay-x.z01.azurefd.net" in done.stdout
    assert "TXT    _dnsauth.callback.contoso.com  _proof" in done.stdout


def test_the_checklist_waits_until_callbacks_come_through(azure: Azure, relay: Relay) -> None:
    relay.answers = [500, 404, 200]
    done = checklist(azure, relay, "--wait", "60", "--pause", "0")
    assert done.returncode == 0, done.stdout
    assert "200: callbacks come through." in done.stdout
    # With a code: without one the host does not go to its storage.
    assert relay.asked == ["/health?code=probe"] * 3


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, "the app does not come to its storage strelay"),
        (503, "python -m relay doctor --app func-relay"),
        (404, "azd deploy"),
        (403, "With Front Door only its own address answers"),
        (418, "docs/operate.md"),
    ],
)
def test_the_checklist_says_what_is_missing(
    azure: Azure, relay: Relay, status: int, said: str
) -> None:
    relay.answers = [status]
    done = checklist(azure, relay)
    assert done.returncode == 1
    assert f"Not yet ({status})" in done.stdout
    assert said in done.stdout
    assert "To ask again: python3 infra/scripts/checklist.py" in done.stdout


def test_the_checklist_says_when_nobody_answers(azure: Azure) -> None:
    done = azure.run("checklist.py", "--wait", "0", **VALUES)
    assert done.returncode == 1
    assert "may not use its storage\n   strelay" in done.stdout


def test_who_lets_strangers_in_is_told_so(azure: Azure, relay: Relay) -> None:
    done = checklist(azure, relay, RELAY_STATE_POLICY="opaque")
    assert "STATE_POLICY is opaque: strangers can write rows into Dynamics" in done.stdout
    assert "state-keys" not in done.stdout


def test_what_azd_knows_is_asked_of_it_when_a_person_runs_a_script(azure: Azure) -> None:
    program = azure.bin / "azd"
    values = json.dumps(VALUES)
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{values}\nEND\n")
    program.chmod(0o755)
    path = f"{azure.bin}{os.pathsep}/usr/bin{os.pathsep}/bin"
    done = azure.run("checklist.py", "--wait", "0", PATH=path)
    assert VALUES["RELAY_CLIENT_ID"] in done.stdout


# -- the package ----------------------------------------------------------------------------------


def new_project(folder: Path) -> Path:
    """Make a small project with the real script, whose packages come from a folder."""
    project = folder / "project"
    (project / "infra" / "scripts").mkdir(parents=True)
    (project / "relay").mkdir()
    (project / "tests").mkdir()
    shutil.copy2(SCRIPTS / "package.py", project / "infra" / "scripts")
    (project / "function_app.py").write_text("import relay\nimport tiny\nprint(tiny.ANSWER)\n")
    (project / "relay" / "__init__.py").write_text("")
    (project / "host.json").write_text("{}")
    (project / "local.settings.json").write_text("{}")
    (project / "ca.pem").write_text("")
    (project / "requirements.txt").write_text(tiny_wheel(folder))
    return project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project that nobody has packed."""
    return new_project(tmp_path)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a package that several tests look at."""
    project = new_project(tmp_path_factory.mktemp("packed"))
    done = pack(project)
    assert done.returncode == 0, done.stderr
    return project / "dist"


def pack(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    offline = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(project.parent),
        "PIP_CONFIG_FILE": os.devnull,
    }
    return subprocess.run(
        [sys.executable, str(project / "infra" / "scripts" / "package.py"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | offline,
    )


def test_the_package_holds_the_app_its_packages_and_byte_code_of_both(dist: Path) -> None:
    packages = dist / ".python_packages" / "lib" / "site-packages"
    assert {path.name for path in dist.iterdir()} == {
        ".funcignore",
        ".python_packages",
        "__pycache__",
        "ca.pem",
        "function_app.py",
        "host.json",
        "relay",
        "requirements.txt",
    }
    for folder, name in ((dist, "function_app"), (packages / "tiny", "__init__")):
        assert (folder / "__pycache__" / f"{name}.cpython-313.pyc").is_file()


def test_byte_code_is_taken_as_it_is_and_names_the_files_in_azure(dist: Path) -> None:
    code = (dist / "__pycache__" / "function_app.cpython-313.pyc").read_bytes()
    # PEP 552: hash-based, and not checked against the source.
    assert int.from_bytes(code[4:8], "little") == 0b01
    assert marshal.loads(code[16:]).co_filename == "/home/site/wwwroot/function_app.py"  # noqa: S302 - made just now


def test_the_package_runs_and_compiles_nothing_again(dist: Path) -> None:
    for source in dist.rglob("*.py"):
        os.utime(source, (0, 0))  # a copy has other times
    before = {path: path.stat().st_mtime_ns for path in dist.rglob("*.pyc")}
    done = subprocess.run(
        [sys.executable, "-c", "import function_app"],
        check=True,
        capture_output=True,
        text=True,
        cwd=dist,
        env=os.environ | {"PYTHONPATH": ".python_packages/lib/site-packages"},
    )
    assert done.stdout == "42\n"
    assert {path: path.stat().st_mtime_ns for path in dist.rglob("*.pyc")} == before


def test_azd_leaves_nothing_of_the_package_out(dist: Path) -> None:
    # Without such a file azd skips every __pycache__ of a Python service.
    lines = (dist / ".funcignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == []


def test_nothing_of_yesterday_is_deployed(project: Path) -> None:
    (project / "dist" / "relay").mkdir(parents=True)
    (project / "dist" / "host.json").write_text("{}")
    (project / "dist" / "relay" / "gone.py").write_text("")
    pack(project)
    assert not (project / "dist" / "relay" / "gone.py").exists()


def test_a_folder_of_somebody_else_is_not_emptied(project: Path) -> None:
    other = project / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    done = pack(project, "--out", str(other))
    assert done.returncode != 0
    assert (other / "thesis.txt").is_file()


@pytest.mark.parametrize(
    "pin",
    [
        pytest.param(f"missing==1.0 --hash=sha256:{'0' * 64}", id="nobody has it"),
        pytest.param(f"tiny==1.0 --hash=sha256:{'0' * 64}", id="another file"),
        pytest.param("tiny==1.0", id="no hash"),
    ],
)
def test_a_package_that_cannot_be_had_as_pinned_ends_the_deployment(
    project: Path, pin: str
) -> None:
    (project / "requirements.txt").write_text(f"{pin}\n")
    done = pack(project)
    assert done.returncode != 0
    assert "stopped" in done.stderr


def test_python_of_another_version_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("package", SCRIPTS / "package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.find_python() == [sys.executable]
    monkeypatch.setattr(module, "RUNTIME", "3.7")
    assert module.find_python() is None
    assert module.main([]) == 2


def test_the_apps_files_are_all_packed() -> None:
    # function_app.py, and every package of the project that it imports.
    text = (SCRIPTS / "package.py").read_text()
    assert 'APP = ("function_app.py", "host.json", "requirements.txt", "relay")' in text
    assert "RELAY_VAULT_SETTINGS" in parsed(INFRA / "main.bicep")["outputs"]
