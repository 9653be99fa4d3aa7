"""The pages that a consultant and an administrator follow say what the code does.

Blocks of output are held against real runs of the commands, reasons against the source, queries
against the files that Azure gets. What a page names must be there.
"""

import ast
import base64
import inspect
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import errors, settings
from relay.delivery.retry_after import TRANSIENT
from relay.delivery.sealing import DeadLetter
from relay.delivery.targets import TARGETS, Meaning, TargetKind
from relay.entra.refusals import KNOWN, Retry
from relay.flow import DEADLINE, ENTRA_DEADLINE
from relay.log import Line
from relay.outcome import Outcome
from relay.pages.translations import LANGUAGES, Text
from relay.settings import ARTICLE
from relay.tools.commands import PROGRAM, command_line, main
from relay.tools.doctor import reasons as explained
from relay.tools.doctor.host_json import FILE
from relay.tools.doctor.reasons import HINTS
from relay.tracing import SWITCHES
from sandbox import terminals
from sandbox.azure_storage import AzureQueues
from sandbox.azurite import Azurite
from sandbox.target import Fault
from sandbox.world import APP, World
from tests.docs import operate_page
from tests.infra.view import Evaluation

DOCS = APP / "docs"
SETUP, COMMANDS, SETTINGS_PAGE = (DOCS / f"{name}.md" for name in ("setup", "commands", "settings"))
OPERATE, OUTBOX, MONITORING, UPGRADE = (
    DOCS / f"{name}.md"
    for name in ("operate", "operate-outbox", "operate-monitoring", "operate-upgrade")
)
OPERATING = sorted(DOCS.glob("operate*.md"))
PAGES = [
    *sorted(APP.glob("*.md")),
    APP / "sandbox/README.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted((APP / "infra").rglob("*.md")),
]
QUERIES = APP / "infra" / "queries"

type Block = tuple[str, str]
"""A fenced block: its language, and what stands in it."""


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, those inside of a list too."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text_of(page), re.MULTILINE | re.DOTALL)
    return [
        (language, re.sub(rf"^{indent}", "", content, flags=re.MULTILINE))
        for indent, language, content in found
    ]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def section(page: Path, title: str) -> str:
    """Return what stands under a title, down to the next one that is as high."""
    match = re.search(rf"^(#+) {re.escape(title)}$", text_of(page), re.MULTILINE)
    assert match, title
    rest = text_of(page)[match.end() :]
    return re.split(rf"^#{{1,{len(match[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables in a text, without their heads."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        _, _, *lines = table.splitlines()
        found += [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's titles, made as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_pages_are_found() -> None:
    assert {SETUP, COMMANDS, SETTINGS_PAGE, *OPERATING} <= set(PAGES)
    assert {OPERATE, OUTBOX, MONITORING, UPGRADE} < set(OPERATING)
    assert len(PAGES) > 10


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(APP)),
)
def test_a_page_begins_with_who_it_is_for(page: Path) -> None:
    title, audience, *_ = text_of(page).split("\n\n")
    assert title.startswith("# ")
    assert audience.startswith("For ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(APP)))
def test_paragraphs_are_wrapped_at_100_columns(page: Path) -> None:
    generated = re.sub(r"<!-- measured -->.*<!-- /measured -->", "", prose(page), flags=re.DOTALL)
    for line in generated.splitlines():
        # Code and links must not be broken; tables are as long as they are.
        words = re.sub(r"`[^`]+`|\]\([^)]+\)", "", line)
        assert len(words) <= 100 or line.lstrip().startswith("|"), line


# -- links, JSON, settings -------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(APP)))
def test_every_link_leads_to_a_file_and_every_anchor_to_a_title(page: Path) -> None:
    for image in re.findall(r'\bsrc(?:set)?="([^"]+)"', prose(page)):
        assert (page.parent / image).is_file(), image
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(APP)))
def test_every_block_of_json_is_json(page: Path) -> None:
    for language, content in blocks(page):
        if language == "json":
            json.loads(content)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(APP)))
def test_every_block_of_python_is_python(page: Path) -> None:
    for language, content in blocks(page):
        if language == "python":
            ast.parse(content)


def test_the_settings_to_begin_with_are_those_of_the_example() -> None:
    (shown,) = [content for language, content in blocks(SETUP) if language == "json"]
    assert json.loads(shown) == json.loads(text_of(APP / "local.settings.json.example"))


PLATFORM = re.compile(r"(?:AzureWebJobs|FUNCTIONS_|OTEL_|AZURE_|APPLICATIONINSIGHTS_|RELAY_)\w+")
"""Settings and variables of others; `RELAY_` is what the deployment prints."""
OF_THE_SHELL = {"HTTPS_PROXY", "NO_COLOR", "NO_PROXY", "PIP_CERT", *SWITCHES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(APP)))
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = {row["setting"] for row in settings.table()}
    assert "DYNAMICS_URL" in known
    families = {name.partition("_")[0] for name in known} - {"CA", "CODE"}
    text = text_of(page)
    for name in re.findall(r"\b(?:CONNECTIONS|ENVIRONMENTS)__[A-Z0-9_]+?__([A-Z][A-Z_]+)\b", text):
        assert name.rpartition("__")[2] in known, name
    for name in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", text):
        if name.partition("_")[0] in families and not PLATFORM.fullmatch(name):
            assert name in known, name


def variables() -> set[str]:
    """Return what `azd env set` may set."""
    return set(re.findall(r"\$\{(\w+)\}", text_of(APP / "infra" / "main.parameters.json")))


@pytest.mark.parametrize(
    "page", [SETUP, COMMANDS, SETTINGS_PAGE, *OPERATING], ids=lambda page: page.name
)
def test_every_name_in_capitals_is_one_that_somebody_reads(page: Path) -> None:
    known = {row["setting"] for row in settings.table()} | variables() | OF_THE_SHELL
    for name in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", prose(page)):
        assert name in known or PLATFORM.fullmatch(name), name
    for name in re.findall(r"azd env set ([A-Z_]+)", text_of(page)):
        assert name in variables(), name


# -- commands --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Return the help of each command by its name, and under no name that of all."""
    out = {}
    for name in ("", *command_line().commands):
        with redirect_stdout(io.StringIO()) as printed:
            main([*filter(None, [name]), "--help"])
        out[name] = printed.getvalue()
    return out


def test_every_help_stands_in_the_page_as_it_is_printed(helps: dict[str, str]) -> None:
    shown = [content for language, content in blocks(COMMANDS) if language == "text"]
    for name, expected in helps.items():
        assert expected in shown, f"docs/commands.md: the help of {name or 'all'} is\n{expected}"
    assert len(shown) == len(helps)


def test_every_command_has_a_chapter_and_every_chapter_is_a_command(
    helps: dict[str, str],
) -> None:
    titles = re.findall(r"^## (.+)$", prose(COMMANDS), re.MULTILINE)
    assert titles == [*filter(None, helps)]
    for name in titles:
        assert helps[name] in section(COMMANDS, name)


def relay_lines() -> list[str]:
    """Return every call of the commands that a page shows, in a block or in a sentence."""
    lines = []
    for page in PAGES:
        text = text_of(page)
        inline = [" ".join(code.split()) for code in re.findall(r"`([^`\n]+)`", prose(page))]
        code = chain(inline, *(content.splitlines() for _, content in blocks(page)))
        for line in code:
            match = re.fullmatch(r"(?:[$>] )?(?:\S*python\S* -m relay)(| .*)", line.strip())
            if match and "…" not in match[1] and "<command>" not in match[1]:
                lines.append(match[1].partition(" #")[0].strip())
        assert text
    return lines


@pytest.mark.parametrize("line", sorted(set(relay_lines())))
def test_every_command_that_is_shown_is_accepted(line: str) -> None:
    name, *arguments = shlex.split(re.sub(r"^--settings \S+ ", "", line)) or [""]
    if name and not name.startswith("-"):
        # Parsed, and not run: what is wrong raises.
        command_line().commands[name].make_context(PROGRAM, arguments)


def test_most_commands_are_shown_somewhere() -> None:
    used = {shlex.split(line)[0] for line in relay_lines() if line}
    assert {"doctor", "send", "discover", "keygen", "dead-letters", "settings"} <= used


def test_every_command_of_a_script_that_is_shown_is_one_of_its_own() -> None:
    own = {
        "dev.py": re.findall(r'"(\w+)": \1\b', text_of(APP / "dev.py")),
        "keys.py": re.findall(
            r"^(\w+)(?: SETTING)? {2,}", text_of(APP / "infra/scripts/keys.py"), re.MULTILINE
        ),
    }
    assert {"demo", "up"} <= set(own["dev.py"])
    assert {"mint", "rotate"} <= set(own["keys.py"])
    for page in PAGES:
        for script, command in re.findall(r"\b(dev\.py|keys\.py) (\w+)", text_of(page)):
            assert command in own[script], (page.name, script, command)


def test_every_script_that_is_shown_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"(?:py -3(?:\.13)?|python3) ([\w/]+\.py)", text_of(page)):
            assert (APP / name).is_file(), (page.name, name)


# -- what the commands print -----------------------------------------------------------------------

RUN = re.compile(
    r"^<!-- ran: (\w+) -->\n```console\n\$ python -m relay (.*)\n([^`]*)^```$", re.MULTILINE
)
REFERENCE = "5f0c2a9be1d74c38"
STATE_KEY = "k1:8W6mGkVqv1Xb3o0Zr5tYc2Jd9sLhTf4NaQeUiPw7RzM"
OUTBOX_KEY = "Yk3vQm8sT1xZr5tYc2Jd9sLhTf4NaQeUiPw7RzMbK0w="
LOGIN = "https://login.microsoftonline.com/7a3c1b52-9f0e-4d6b-8e21-5c4d3b2a1908"
CONTOSO = "https://contoso.crm4.dynamics.com"

type Stage = Callable[[str, str], str]
"""Runs a command line as it stands in a page, under the name that the page gives it."""


def shown() -> list[tuple[Path, str, str, str]]:
    """Return the runs that the pages show: page, name, command line, output."""
    return [(page, *match) for page in PAGES for match in RUN.findall(text_of(page))]


async def challenge(_: Request) -> Response:
    """Refuse as Dataverse does."""
    words = f"Bearer authorization_uri={LOGIN}/oauth2/authorize, resource_id={CONTOSO}/"
    return Response(status_code=401, headers={"WWW-Authenticate": words})


def letters() -> list[DeadLetter]:
    """Return two callbacks that were given up."""
    common = {"connection": "default", "state": "of-somebody", "delivery_id": "0" * 32}
    return [
        DeadLetter(
            reference=REFERENCE,
            reason="expired",
            attempts=29,
            first="2026-11-20T08:12:44Z",
            last="2026-11-20T08:17:31Z",
            **common,
        ),
        DeadLetter(
            reference="b7719c04d2e85f6a",
            reason="dynamics_403",
            attempts=4,
            first="2026-11-20T09:40:02Z",
            last="2026-11-20T09:40:35Z",
            **common,
        ),
    ]


@pytest.fixture(scope="module")
def world(azurite: Azurite) -> Iterator[World]:
    with (
        World(storage=azurite.connection_string, key_length=1024) as world,
        closing(AzureQueues(azurite.connection_string)) as queues,
    ):
        queues.create("callback-outbox")
        queues.create("given-up-dead")
        for letter in letters():
            text = json.dumps(asdict(letter))
            queues.send("given-up-dead", base64.b64encode(text.encode()).decode())
        yield world


@pytest.fixture(scope="module")
def environment(world: World) -> str:
    """Return the address of an environment that tells its authority."""
    return world.add(Starlette(routes=[Route("/{path:path}", challenge)])).url


@pytest.fixture
def stage(
    world: World, environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """Run commands in a folder of the app, against the sandbox."""
    shutil.copy(APP / "host.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in settings.names(settings.AppSettings):
        monkeypatch.delenv(name, raising=False)

    def run(name: str, line: str) -> str:
        given = dict(world.settings) | {"STATE_POLICY": "opaque"} | SETTINGS[name]
        for setting, value in given.items():
            monkeypatch.setenv(setting, value)
        if name == "checked":
            world.dynamics.faults.append(Fault.VALIDATION)
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            main(shlex.split(line.replace(CONTOSO, environment)))
        said = out.getvalue().replace(environment, CONTOSO)
        for server, host in (
            (world.dynamics_server, "contoso.operations.dynamics.com"),
            (world.entra_server, "login.microsoftonline.com"),
        ):
            said = said.replace(urlsplit(server.url).netloc, host)
        said = re.sub(r"; \d+ s$", "; 3 s", said, flags=re.MULTILINE)
        for secret in (STATE_KEY, OUTBOX_KEY, world.settings["ENTRA_CLIENT_SECRET"], "localhost"):
            assert secret not in said
        return re.sub(
            r"^(reference  )[0-9a-f]{16}$", rf"\g<1>{REFERENCE}", said, flags=re.MULTILINE
        )

    yield run
    world.dynamics.faults.clear()


FIRST = {"PROVIDER_ISSUER": "", "OUTBOX_KEYS": ""}
BODY = '{"code": "{code}", "state": "{state}", "dataAreaId": "usmf"}'
PRODUCTION = {
    "DYNAMICS_BODY": BODY,
    "STATE_POLICY": "signed",
    "STATE_KEYS": STATE_KEY,
    "PROVIDER_ISS_REQUIRED": "true",
    "OUTBOX_KEYS": OUTBOX_KEY,
}
SETTINGS: Mapping[str, dict[str, str]] = {
    "healthy": PRODUCTION,
    "broken": FIRST | {"ENTRA_CLIENT_SECRET": "another"},
    "json": PRODUCTION,
    "discover": {},
    "sent": FIRST,
    "refused": FIRST | {"ENTRA_CLIENT_SECRET": "another"},
    "checked": FIRST,
    "letters": {"OUTBOX_QUEUE": "given-up"},
    "settings": {},
}
"""By the name of a run: what is set beside the sandbox's own settings; empty means not set."""


@pytest.mark.parametrize(
    ("page", "name", "line", "output"),
    shown(),
    ids=[f"{page.stem}-{name}" for page, name, _, _ in shown()],
)
def test_a_command_prints_what_the_page_shows(
    page: Path, name: str, line: str, output: str, stage: Stage
) -> None:
    actual = stage(name, line)
    start, more, rest = output.partition("…\n")
    assert rest == "", "only the end of an output can be left out"
    assert (actual.startswith(start) and actual != start) if more else actual == output, (
        f"{page.name}: python -m relay {line}\n{actual}"
    )


def test_every_run_is_shown_and_every_command_that_tells_much_has_one() -> None:
    assert {name for _, name, _, _ in shown()} == set(SETTINGS)
    told = {line.split()[0] for page, _, line, _ in shown() if page == COMMANDS}
    assert told == {"doctor", "discover", "send", "dead-letters", "settings"}


def test_the_pictures_of_the_terminal_show_these_runs() -> None:
    drawn = terminals.pictures()
    assert len(drawn) == 4
    for name, svg in drawn.items():
        assert text_of(DOCS / "images" / name) == svg, f"{name}: python3 dev.py shots --readme"
        assert "url(http" not in svg
        assert f"(images/{name})" in text_of(COMMANDS)


def checks() -> set[str]:
    """Return the name of every check of the doctor."""
    found = {FILE}
    tools = APP / "relay" / "tools"
    for path in (tools / "examination.py", *(tools / "doctor").glob("*.py")):
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "ok",
                "skip",
                "warn",
                "fail",
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    found.add(str(first.value))
                else:
                    # Handed on by a helper, whose callers name their check in other findings too.
                    assert ast.unparse(first) in ("check", "FILE")
    return found


def test_every_check_of_the_doctor_is_explained_and_no_other() -> None:
    table = section(SETUP, "5. The doctor").partition("| check |")[2]
    explained = [
        name for row in rows(f"| check |{table}") for name in re.findall("`(.+?)`", row[0])
    ]
    assert len(explained) > 30
    assert sorted(explained) == sorted(checks())


# -- outcomes --------------------------------------------------------------------------------------


def title_of(page: Text) -> str:
    return page.title.replace("\N{NO-BREAK SPACE}", " ")


def test_the_page_has_three_steps_for_each_outcome_as_they_are_generated() -> None:
    _, part, _ = operate_page.parts(text_of(OPERATE))
    assert part == operate_page.generated(), "run python -m tests.docs.operate_page"
    assert re.findall(r"^### `(\w+)`$", part, re.MULTILINE) == list(Outcome)
    assert part.count("\n2. Run first: ") == len(Outcome)


def test_every_page_of_a_person_is_named_by_its_title() -> None:
    text = " ".join(text_of(OPERATE).split())
    for name, page in LANGUAGES["en"].pages.items():
        assert f"“{title_of(page)}”" in text, name


def test_setup_names_pages_by_their_titles() -> None:
    titles = {title_of(page) for page in LANGUAGES["en"].pages.values()}
    first = [row[0] for row in rows(section(SETUP, "10. One real authorization"))]
    assert len(first) > 5
    for cell in first[1:]:
        assert cell.partition(", and ")[0] in titles, cell


# -- reasons ---------------------------------------------------------------------------------------

ERRORS = {
    name
    for name, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.RelayError)
}
KINDS = {
    "jws.py": ("state", "ticket", "jarm"),
    "state.py": ("state", "ticket"),
    "jarm.py": ("jarm",),
    "authorize.py": ("ticket",),
}
"""Which kinds of tokens a `.refused(…)` in these files may be about, unless it names one."""
FAMILIES = {
    "f'dynamics_{status}'": ["dynamics_<status>"],
    "f'identity_{status}'": ["identity_<status>"],
    "f'AADSTS{code}'": ["AADSTS<number>"],
    "f'{asked}_{error}'": ["entra_<error>"],
    # Of the identity endpoint a status is known, or there was no answer and a word says why.
    "f'{asked}_{otherwise}'": ["entra_<Kind>", "identity_<Kind>"],
    "known.reason": sorted({each.reason for kind in TARGETS for each in kind.refusals} - {""}),
    "_fault(error)": [
        f"dynamics_{word}"
        for word in ("connect", "connection", "protocol", "proxy", "request", "tls")
    ],
    "str(response.status_code)": ["<status>"],
    "type(error).__name__": ["<Kind>"],
    "error_codes.known(error_code)": ["<error>", "other"],
    "f'{name}_characters'": ["code_characters", "state_characters", "error_characters"],
}
"""What the source puts together, and how the page writes it."""
PASSED_ON = {
    "reason",
    "error.reason",
    "word",
    "message",
    "f'{self.name}_{fault}'",
    "f'jwks_{fault}'",
    "reasons[0]",
    "name",
    "problems",
    "tuple(problems)",
    "(*wrong, *problems)",
    "self.problems",
    "connection.problems",
}
"""Values that come from a call which is itself among those that are looked at."""


def served() -> list[Path]:
    """Return the modules that serve a callback; what `tools` raises is told at a terminal."""
    relay = APP / "relay"
    return [each for each in relay.rglob("*.py") if each.relative_to(relay).parts[0] != "tools"]


def words(node: ast.expr) -> Iterator[str]:
    """Return the words that an argument can be, as the page writes them."""
    match node:
        case ast.Constant(value=str(word)):
            yield word
        case ast.IfExp():
            yield from words(node.body)
            yield from words(node.orelse)
        case _:
            source = ast.unparse(node)
            assert source in FAMILIES or source in PASSED_ON, f"a new kind of reason: {source}"
            yield from FAMILIES.get(source, [])


def beginnings(function: str, file: str) -> tuple[str, ...]:
    """Return what the words begin with that a function of this name gives to an error."""
    *receiver, name = function.split(".")
    named = receiver[-1].lower() if receiver else ""
    if name in ("refused", "text_claim"):
        kinds = (named,) if named in KINDS["jws.py"] else KINDS.get(file, ())
        return tuple(f"{kind}_" for kind in kinds)
    if name in ERRORS - {"Misconfigured"} or (file == "errors.py" and name == "__init__"):
        return ("",)
    return {
        ("client.py", "UnreachableError"): ("entra_", "identity_"),
        # The identity endpoint's own answers are told by their status.
        ("client.py", "_refusal"): ("entra_",),
        ("jwks.py", "_unavailable"): ("jwks_",),
        ("flow.py", "_give_up"): ("",),
    }.get((file, name), ())


SECOND = ("_refusal", "_give_up")
"""Functions that take the word as their second argument."""


def of_call(call: ast.Call, file: str) -> Iterator[str]:
    """Return the reasons that a call may give to an error."""
    function = ast.unparse(call.func)
    place = int(function.endswith(SECOND))
    for beginning in beginnings(function, file):
        for argument in call.args[place : place + 1]:
            yield from (f"{beginning}{word}" for word in words(argument))


def reasons() -> set[str]:
    """Return every reason that the source can give, families as the page writes them."""
    found: set[str] = set()
    for path in served():
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Call):
                found |= set(of_call(node, path.name))
            elif isinstance(node, ast.Assign) and path.name != "tracing.py":
                target = ast.unparse(node.targets[0])
                if target in ("reason", "line.reason", "self.line.reason"):
                    found |= set(words(node.value))
            elif isinstance(node, ast.FunctionDef) and node.name == "_reasons":
                for each in ast.walk(node):
                    if isinstance(each, ast.Yield) and each.value is not None:
                        found |= set(words(each.value))
    return found


def told() -> set[str]:
    """Return every reason that the page explains."""
    tables = section(OPERATE, "The reasons").partition("### The numbers of Entra")[0]
    return set(re.findall(r"`([^`]+)`", " ".join(row[0] for row in rows(tables))))


def test_every_reason_that_the_relay_can_give_is_explained() -> None:
    assert reasons() - told() == set()


def test_every_reason_that_is_explained_can_be_given() -> None:
    assert told() - reasons() == set()


def test_what_a_reason_means_is_found_by_its_word_or_its_family() -> None:
    for word in told() - {"<error>", "other"}:
        example = re.sub(r"<status>|<number>", "503", word).replace("<Kind>", "ReadError")
        found = explained.find(example.replace("<error>", "invalid_client"))
        assert found
        assert word in found.words.split()
    assert explained.find("another") is None


def test_a_refusal_is_told_in_the_words_of_its_table() -> None:
    of_entra = {reason: (each.wrong, each.fix) for each in KNOWN for reason in each.reasons}
    told = {**HINTS, **of_entra}
    assert {reason: explained.hint(reason) for reason in told} == told
    expired = explained.hint("expired")
    assert expired is not None
    assert expired.fix.endswith("start again.")
    assert explained.hint("another") is None


def test_the_reasons_are_found() -> None:
    # A collector that finds nothing would let every page pass.
    assert len(reasons()) > 90
    assert {"bare", "expired", "state_cookie_mismatch", "outbox_seal", "jwks_pause"} <= reasons()
    assert {"dynamics_connect", "entra_timeout", "identity_missing", "settings"} <= reasons()


def test_every_refusal_of_entra_is_explained_in_the_words_of_the_doctor() -> None:
    in_rows = {}
    for names, outcome, wrong, fix in rows(section(OPERATE, "The numbers of Entra")):
        for name in names.split(", "):
            reason = f"AADSTS{name}" if name.isdecimal() else name.strip("`")
            in_rows[reason] = (outcome.strip("`"), wrong, fix)
    # Others have a row of their own among the reasons, with their outcome.
    among_reasons = {
        word for group in explained.GROUPS for row in group.reasons for word in row.words.split()
    }
    assert in_rows == {
        reason: ("rejected" if known.retry is Retry.NEVER else "held", known.wrong, known.fix)
        for known in KNOWN
        for reason in known.reasons
        if reason not in among_reasons
    }


PASSING = {known.reason for kind in TARGETS for known in kind.refusals} - {""}
"""The reasons of refusals that pass although their status is final."""


def test_every_status_of_dynamics_is_explained_in_the_words_of_send() -> None:
    explained = {
        reason.strip("`"): (outcome.strip("`"), wrong, fix)
        for reason, outcome, wrong, fix in rows(section(OPERATE, "The statuses of Dynamics"))
    }
    expected = {}
    for reason in HINTS.keys() - PASSING:
        status = reason.removeprefix("dynamics_")
        held = not status.isdecimal() or int(status) in TRANSIENT
        expected[reason] = ("held" if held else "rejected", *HINTS[reason])
    assert explained == expected


def test_every_refusal_of_dynamics_that_passes_is_explained_in_the_words_of_send() -> None:
    table = rows(section(OPERATE, "Refusals that pass"))
    assert {reason.strip("`"): (wrong, fix) for reason, _, wrong, fix in table} == {
        reason: tuple(HINTS[reason]) for reason in PASSING
    }


NAMES = {
    "dataverse": "Dataverse",
    "business-central": "Business Central",
    "finance-operations": "Finance & Operations, OData",
}


@pytest.mark.parametrize("kind", TARGETS, ids=lambda kind: kind.name)
def test_every_code_and_phrase_of_dynamics_that_passes_is_told(kind: TargetKind) -> None:
    passes = [known for known in kind.refusals if known.meaning is Meaning.PASSES]
    expected: dict[str, set[str]] = {}
    for known in passes:
        # Of a pattern the name in it is told; what it is a pattern of, in words.
        codes = {re.sub(r"^\.\*\\\.", "", code) for code in known.codes}
        plain = {code for code in codes if re.fullmatch(r"\w+", code)}
        expected.setdefault(known.reason, set()).update(plain, known.phrases)
    found = {}
    for reason, answers, *_ in rows(section(OPERATE, "Refusals that pass")):
        for answer in answers.split(". "):
            who, _, what = answer.partition(": ")
            assert who in NAMES.values()
            if who == NAMES.get(kind.name):
                told = re.findall(r"`([^`]+)`|“([^”]+)”", what)
                found[reason.strip("`")] = {code or phrase for code, phrase in told}
    assert found == expected


def test_every_line_that_the_relay_logs_is_told() -> None:
    formats = set()
    for path in [*served(), APP / "function_app.py"]:
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Call) and re.match(
                r"logger\.|(self\._)?say$", ast.unparse(node.func)
            ):
                given = [a.value for a in node.args if isinstance(a, ast.Constant)]
                formats |= {value for value in given if isinstance(value, str)}
    beginnings = {re.split(r"[%=]", each)[0].strip() for each in formats}
    assert {"callback", "unforeseen", "setting", "no token from Entra: reason"} <= beginnings
    for beginning in beginnings:
        assert beginning in section(OPERATE, "From a reference to a cause"), beginning


# -- queries and alerts ----------------------------------------------------------------------------


def test_every_query_that_azure_gets_is_explained() -> None:
    told = [row[0] for row in rows(section(MONITORING, "The queries"))]
    files = sorted(path.name for path in QUERIES.glob("*.kql"))
    assert len(files) > 5
    assert sorted(told) == [f"[{name}](../infra/queries/{name})" for name in files]


def test_there_is_something_to_do_for_every_alert() -> None:
    rules = Evaluation(APP / "infra" / "modules" / "alerts.bicep", {}).value("rules")
    names = [row[0] for row in rows(section(MONITORING, "The alerts"))]
    assert names == [rule["title"] for rule in rules]


def test_each_alert_begins_with_something_to_run() -> None:
    # Whether the commands are accepted is tested with those of all pages.
    for title, first, *_ in rows(section(MONITORING, "The alerts")):
        begins = ("`python -m relay ", "[outcomes.kql]", "[latency.kql]")
        assert first.startswith(begins), title


# -- the rest of what an administrator reads -------------------------------------------------------


def test_every_old_name_of_a_setting_is_told_with_the_new_one() -> None:
    table = rows(section(UPGRADE, "Moving from the C# function"))
    told = {old.strip("`"): new.split("`")[1] for old, new, _ in table}
    assert told == ARTICLE


def test_what_opentelemetry_gets_is_told_by_its_switches_and_attributes() -> None:
    text = section(MONITORING, "OpenTelemetry")
    for switch in SWITCHES:
        assert switch in text
    line = Line(reference=REFERENCE, reason="expired")
    for name in ("outcome", *line.values()):
        assert f"`relay.{name}`" in text
    spans = re.findall(r'spans\("(\w+)"\)', text_of(APP / "relay" / "flow.py"))
    assert len(set(spans)) == 4
    for span in spans:
        assert f"`{span}`" in text


def test_numbers_of_the_outbox_are_those_of_host_json() -> None:
    queues = json.loads(text_of(APP / "host.json"))["extensions"]["queues"]
    attempts = queues["maxDequeueCount"]
    seconds, interval = (
        int(queues[name][-2:]) for name in ("visibilityTimeout", "maxPollingInterval")
    )
    text = " ".join(text_of(OUTBOX).split())
    assert f"`visibilityTimeout` {seconds} s, `maxPollingInterval` {interval} s" in text
    assert f"`maxDequeueCount` {attempts} |" in text
    assert f"after {attempts} attempts" in text
    assert f"more than {attempts * seconds // 60} minutes" in text


def test_deadlines_are_told_as_they_are() -> None:
    text = " ".join(text_of(OUTBOX).split())
    assert f"{ENTRA_DEADLINE:.0f} seconds for Entra and {DEADLINE:.0f} seconds for" in text
    assert f"no token within {ENTRA_DEADLINE:.0f} s" in text_of(OPERATE)
    assert f"took longer than {DEADLINE:.0f} s" in text_of(OPERATE)
