"""The smaller commands: what they print works, and what they say of a mistake helps."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

import relay
from relay import settings, settings_reader
from relay.delivery import targets
from relay.delivery.callback import Callback
from relay.delivery.sealing import Sealer
from relay.errors import InvalidResponse
from relay.oauth import state
from relay.tools.commands import command_line, main
from sandbox.world import World
from tests.helpers import ROOT, connection, response, verified

SECRET = "canary-secret"
STATE_KEY = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LWNhbmE"
SETTINGS = {
    "ENTRA_TENANT_ID": "contoso.onmicrosoft.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": SECRET,
    "DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
    "STATE_POLICY": "signed",
    "STATE_KEYS": f"k1:{STATE_KEY}",
    "CONNECTIONS__XERO__CODE_TTL": "60",
    "CONNECTIONS__BROKEN__CODE_TTL": "canary",
}
COMMANDS = {*command_line().commands}

type Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in an empty folder, with these settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command, and return its exit code and what it said. No secret may be in an error."""

    def runs(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        said = capsys.readouterr()
        for secret in ("canary", SECRET, STATE_KEY):
            assert secret not in said.err
        return code, said.out, said.err

    return runs


def local_settings(folder: Path, content: object, encoding: str = "utf-8") -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "local.settings.json").write_text(text, encoding)


# -- keygen ----------------------------------------------------------------------------------------


def keys(run: Run) -> dict[str, str]:
    code, out, err = run("keygen")
    assert (code, err) == (0, "")
    return dict(line.split("=", 1) for line in out.splitlines())


def test_the_keys_of_keygen_work_as_settings(run: Run) -> None:
    made = keys(run)
    assert made.keys() == {"OUTBOX_KEYS", "STATE_KEYS"}
    read = settings_reader.read(SETTINGS | made)
    found = read.connections.get("default")
    (kid,) = found.state_keys
    assert re.fullmatch(r"k\d{8}", kid)
    assert len(found.state_keys[kid]) == 32
    now = datetime.now(UTC)
    callback = Callback.received(connection(), verified(), "0" * 16, now)
    sealer = Sealer(read.app.outbox_keys)
    message = sealer.seal(callback).encode()
    opened = sealer.open(message).callback(settings_reader.read(SETTINGS | made).connections)
    assert opened.response == callback.response


def test_a_state_can_be_minted_with_the_keys_of_keygen(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = keys(run)["STATE_KEYS"]
    monkeypatch.setenv("STATE_KEYS", made)
    code, out, _ = run("state")
    assert code == 0
    default = settings_reader.read(SETTINGS | {"STATE_KEYS": made}).connections.get("default")
    assert state.verify(response(state=out.strip()), default).state == out.strip()


def test_keygen_never_makes_the_same_keys_twice(run: Run) -> None:
    first, second = keys(run), keys(run)
    for name in first:
        assert first[name] != second[name]


# -- state and ticket ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "xero"])
def test_a_minted_state_is_believed_for_its_connection_and_for_no_other(
    run: Run, name: str
) -> None:
    code, out, err = run("state", *(() if name == "default" else ("--connection", name)))
    assert (code, err) == (0, "")
    minted = response(state=out.strip())
    connections = settings_reader.read(SETTINGS).connections
    assert state.verify(minted, connections.get(name)).state == out.strip()
    other = connections.get("xero" if name == "default" else "default")
    with pytest.raises(InvalidResponse):
        state.verify(minted, other)


def test_a_minted_state_lives_for_ten_minutes_and_is_new_each_time(run: Run) -> None:
    (_, first, _), (_, second, _) = run("state"), run("state")
    assert first != second
    default = settings_reader.read(SETTINGS).connections.get("default")
    soon, late = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (9, 12))
    state.verify(response(state=first.strip()), default, now=soon)
    with pytest.raises(InvalidResponse):
        state.verify(response(state=first.strip()), default, now=late)


def test_a_state_is_checked_offline_for_every_connection(run: Run) -> None:
    minted = run("state", "--connection", "xero")[1].strip()
    code, out, err = run("state", "--check", minted, "--connection", "xero")
    assert (code, err) == (0, "")
    assert re.findall(r"^(\S+) +(.+)$", out, re.MULTILINE)[:2] == [
        ("default", "state_audience"),
        ("xero", "takes it"),
    ]
    assert minted not in out
    assert run("state", "--check", minted)[0] == 1
    code, out, _ = run("state", "--check", "canary.canary.canary")
    assert (code, "state_malformed" in out, "canary" in out) == (1, True, False)


def test_that_a_connection_takes_any_state_says_nothing_of_this_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONNECTIONS__OPEN__STATE_POLICY", "opaque")
    _, out, _ = run("state", "--check", "anything")
    assert re.search(r"^open +takes any: STATE_POLICY is opaque$", out, re.MULTILINE)


def test_a_state_that_is_checked_names_its_own_environment(run: Run) -> None:
    code, out, err = run("state", "--check", "canary.canary.canary", "--environment", "uat")
    assert (code, out) == (2, "")
    assert "--check" in err


def test_a_ticket_for_an_environment_is_under_its_key(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = {
        "ENVIRONMENTS__UAT__DYNAMICS_URL": "https://uat.operations.dynamics.com/data/Rows",
        "ENVIRONMENTS__UAT__STATE_KEYS": f"u1:{'C' * 43}",
    }
    for name, value in further.items():
        monkeypatch.setenv(name, value)
    code, out, err = run("ticket", "--environment", "UAT")
    assert (code, err) == (0, "")
    found = settings_reader.read(SETTINGS | further).connections.get("default")
    assert state.verify_ticket(out.strip(), found, datetime.now(UTC)).environment == "uat"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(
        {
            "STATE_POLICY": "signed",
            "STATE_KEYS": f"k1:{STATE_KEY}",
            "PROVIDER_CLIENT_ID": "dynamics-365",
            "PROVIDER_AUTHORIZATION_ENDPOINT": "https://login.example/authorize",
            "PROVIDER_REDIRECT_URI": "https://relay.example/callback",
        }
    ) as world:
        yield world


def test_a_minted_state_takes_a_callback_all_the_way_to_dynamics(run: Run, world: World) -> None:
    minted = run("state")[1].strip()
    with world.client() as client:
        answer = client.get(world.redirect_uri, params={"code": "c", "state": minted})
    assert answer.json()["outcome"] == "delivered"
    assert minted in world.dynamics.rows


def test_a_minted_ticket_starts_a_flow(run: Run, world: World) -> None:
    code, out, err = run("ticket")
    assert (code, err) == (0, "")

    def start(ticket: str) -> httpx.Response:
        with world.client() as client:
            url = f"{world.relay_server.url}/authorize/default"
            return client.get(url, params={"ticket": ticket})

    started = start(out.strip())
    assert started.status_code == 302
    assert started.headers["location"].startswith("https://login.example/authorize?")
    assert start(run("state")[1].strip()).status_code == 400


def test_without_a_key_to_mint_with_the_command_says_how_to_get_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_KEYS")
    monkeypatch.setenv("STATE_POLICY", "opaque")
    for name in ("state", "ticket"):
        code, out, err = run(name)
        assert (code, out) == (1, "")
        assert "STATE_KEYS: expected" in err
        assert "python -m relay keygen" in err


def test_an_unknown_connection_is_answered_with_those_that_there_are(run: Run) -> None:
    for name in ("state", "ticket", "doctor"):
        code, out, err = run(name, "--connection", "canary")
        assert (code, out) == (1, "")
        assert "broken, default, xero" in err


def test_a_connection_with_wrong_settings_is_answered_with_what_is_expected(run: Run) -> None:
    code, out, err = run("state", "--connection", "broken")
    assert (code, out) == (1, "")
    assert err.startswith("CONNECTIONS__BROKEN__CODE_TTL: expected seconds")


def test_without_any_connection_the_first_setting_is_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name)
    code, out, err = run("state")
    assert (code, out) == (1, "")
    assert err.startswith("DYNAMICS_URL: missing")


# -- settings --------------------------------------------------------------------------------------


def test_every_setting_is_listed_with_what_is_expected(run: Run) -> None:
    code, out, err = run("settings")
    assert (code, err) == (0, "")
    listed = [line for line in out.splitlines() if re.fullmatch(r"[A-Z_]+", line)]
    assert listed == [
        *settings.names(settings.ConnectionSettings),
        *settings.names(settings.AppSettings),
    ]
    assert out.count("    expected  ") == len(listed)
    for article, ours in settings.ARTICLE.items():
        assert re.search(rf"^{ours}\n(    .*\n)*    also      {article}$", out, re.MULTILINE)
    assert re.search(r"^DYNAMICS_TIMEOUT\n(    .*\n)*    default   20", out, re.MULTILINE)
    assert "but\nfor CA_BUNDLE, OUTBOX_KEYS, OUTBOX_QUEUE." in out


def test_the_list_of_settings_fits_a_narrow_terminal_and_shows_no_value(run: Run) -> None:
    _, out, _ = run("settings")
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "canary" not in out
    assert STATE_KEY not in out


# -- local.settings.json ---------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_local_settings_are_read_with_and_without_a_byte_order_mark(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name)
    local_settings(folder, {"IsEncrypted": False, "Values": SETTINGS}, encoding)
    code, out, _ = run("state")
    assert code == 0
    default = settings_reader.read(SETTINGS).connections.get("default")
    state.verify(response(state=out.strip()), default)


def test_the_environment_counts_before_local_settings(run: Run, folder: Path) -> None:
    local_settings(folder, {"Values": {"STATE_KEYS": "canary", "DYNAMICS_URL": "canary"}})
    code, _, _ = run("state")
    assert code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"Values":\n  {"A": "canary"', "Expecting ',' delimiter (line 2, column 17)"),
        ("canary", "is no JSON: Expecting value (line 1, column 1)"),
        ([], "expected"),
        ({}, "expected"),
        ({"Values": ["canary"]}, "expected"),
        ({"Values": {"DYNAMICS_TIMEOUT": 1}}, "DYNAMICS_TIMEOUT: expected a text, in quotes"),
        ({"Values": {"canary canary": 1}}, "a name: expected a text"),
        ({"IsEncrypted": True, "Values": {"A": "canary"}}, "run: func settings decrypt"),
    ],
)
@pytest.mark.parametrize(
    "name", ["doctor", "state", "ticket", "dead-letters", "discover https://localhost:1"]
)
def test_local_settings_that_cannot_be_used_are_named_without_their_values(
    run: Run, folder: Path, content: object, said: str, name: str
) -> None:
    local_settings(folder, content)
    code, out, err = run(*name.split())
    assert (code, out) == (1, "")
    assert err.startswith("local.settings.json")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_local_settings_in_another_encoding_are_named_too(
    run: Run, folder: Path, encoding: str
) -> None:
    """PowerShell 5.1 writes the first, other programs on Windows the second."""
    local_settings(folder, '{"Values": {"PAGE_ORGANIZATION": "Müller"}}', encoding)
    code, out, err = run("state")
    assert (code, out) == (1, "")
    assert "save it as UTF-8" in err


def test_settings_names_a_file_in_place_of_local_settings(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name)
    local_settings(folder, "canary")
    (folder / "other.json").write_text(json.dumps({"Values": SETTINGS}))
    code, out, _ = run("--settings", "other.json", "state")
    assert code == 0
    state.verify(
        response(state=out.strip()), settings_reader.read(SETTINGS).connections.get("default")
    )


def test_the_environment_counts_before_the_file_of_settings(run: Run, folder: Path) -> None:
    (folder / "other.json").write_text(json.dumps({"Values": {"STATE_KEYS": "canary"}}))
    assert run("--settings", "other.json", "state")[0] == 0


def test_a_file_of_settings_that_cannot_be_used_is_named(run: Run, folder: Path) -> None:
    code, out, err = run("--settings", "other.json", "state")
    assert (code, out) == (2, "")
    assert "file 'other.json' does not exist" in err
    (folder / "other.json").write_text("canary")
    code, out, err = run("--settings", "other.json", "state")
    assert (code, out) == (1, "")
    assert err.startswith("other.json is no JSON")


def test_a_file_to_which_windows_added_txt_is_recognised(run: Run, folder: Path) -> None:
    (folder / "local.settings.json.txt").write_text("{}")
    code, out, err = run("state")
    assert (code, out) == (1, "")
    assert "expected the name local.settings.json" in err


def test_send_and_the_doctor_say_the_same_where_entra_cannot_be_reached(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTRA_AUTHORITY", "https://127.0.0.1:1/contoso.com")
    monkeypatch.setenv("DYNAMICS_URL", "https://127.0.0.1:1/data/OAuthCallbacks")
    code, out, _ = run("send", "--json")
    sent = json.loads(out)
    assert (code, sent["outcome"], sent["reason"]) == (1, "rejected", "entra_connect")
    code, out, _ = run("doctor", "--json", "--connection", "default")
    found = {each["check"]: each for each in json.loads(out)}
    assert (sent["wrong"], sent["fix"]) == (
        found["authority"]["message"],
        found["authority"]["fix"],
    )


# -- usage and exit codes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("state", "--nonsense"), ("discover",), ("discover", "ftp://example")],
)
def test_wrong_usage_ends_with_2_and_says_so(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize("name", [None, *sorted(COMMANDS)])
def test_every_help_fits_a_narrow_terminal_and_has_an_example(run: Run, name: str | None) -> None:
    code, out, err = run(*((name,) if name else ()), "--help")
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "python -m relay" in out
    assert "examples:" in out
    if name:
        assert f"  python -m relay {name}" in out


def test_the_help_names_every_command_and_the_exit_codes(run: Run) -> None:
    _, out, _ = run("--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", out, re.MULTILINE)
    assert "exit codes: 0 all well, 1 something is wrong, 2 wrong usage" in out


def test_a_bare_call_prints_the_help_and_a_version_can_be_asked_for(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert out == run("--help")[1]
    assert run("--version") == (0, f"{relay.__version__}\n", "")


@pytest.mark.parametrize(
    ("typed", "meant"), [("docter", "doctor"), ("deadletters", "dead-letters"), ("stat", "state")]
)
def test_an_unknown_command_names_the_nearest_one(run: Run, typed: str, meant: str) -> None:
    code, out, err = run(typed)
    assert (code, out) == (2, "")
    assert f"Did you mean '{meant}'" in err or f"'{meant}'" in err


@pytest.mark.parametrize("name", ["settings", "discover", "send", "doctor", "dead-letters"])
def test_what_reports_has_json(run: Run, name: str) -> None:
    assert "--json" in run(name, "--help")[1]


@pytest.mark.parametrize("kind", targets.TARGETS, ids=lambda kind: kind.name)
def test_the_block_for_a_target_works_as_settings(run: Run, kind: targets.TargetKind) -> None:
    code, out, err = run("settings", "--for", kind.name)
    assert (code, err) == (0, "")
    read = settings_reader.read(SETTINGS | json.loads(out)).connections.get("default")
    found = targets.find(read.target.url)
    assert found is not None
    assert found[0] is kind


def test_the_settings_are_told_to_programs_too(run: Run) -> None:
    code, out, _ = run("settings", "--json")
    assert code == 0
    listed = json.loads(out)
    assert [each["setting"] for each in listed] == [row["setting"] for row in settings.table()]
    assert next(each for each in listed if each["setting"] == "CODE_TTL")["default"] == 300


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_every_shell_is_told_how_to_complete(run: Run, shell: str) -> None:
    code, out, err = run("completion", shell)
    assert (code, err) == (0, "")
    assert f"complete_{shell}" in out
    assert "python -m relay" in out


def test_bash_completes_an_option(run: Run) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not on PATH")
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
    asked = """
COMP_WORDS=(relay doctor --conn); COMP_CWORD=2; _relay_words; echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        [bash, "--noprofile", "--norc", "-c", python + run("completion", "bash")[1] + asked],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == ["--connection"]


def test_with_the_apps_packages_alone_it_says_what_to_install_and_nothing_else(
    tmp_path: Path,
) -> None:
    # As where requirements.txt alone is installed: a package of the desk cannot be imported.
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('x', name='typer')")
    done = subprocess.run(
        [sys.executable, "-m", "relay"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "", "PATH": ""},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "First: python -m pip install -r requirements-operator.txt\n"


def test_a_bundle_that_is_no_file_is_named_by_every_command_that_needs_trust(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CA_BUNDLE", "canary.pem")
    monkeypatch.setenv("AzureWebJobsStorage", "UseDevelopmentStorage=true")
    for name in (("discover", "https://localhost:1"), ("send",)):
        code, out, err = run(*name)
        assert (code, out) == (1, "")
        assert "CA_BUNDLE" in err
