"""docs/deploy.md and docs/cost.md say what the deployment is, and their arithmetic is right."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.infra.view import INFRA, Evaluation, parsed

DEPLOY = ROOT / "docs" / "deploy.md"
COST = ROOT / "docs" / "cost.md"
PAGES = [DEPLOY, COST, INFRA / "apim" / "README.md"]
MAIN = parsed(INFRA / "main.bicep")["parameters"]

ASKED = {"AZURE_ENV_NAME", "AZURE_LOCATION"}
"""azd asks for them by itself."""

TIMES = "\N{MULTIPLICATION SIGN}"


def variables() -> dict[str, str]:
    """Return the parameters of the platform by the variable that they are read from."""
    content = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    values = {name: one["value"] for name, one in content.items() if name != "settings"}
    return {value.removeprefix("${").removesuffix("}"): name for name, value in values.items()}


def rows(path: Path) -> list[list[str]]:
    """Return the cells of all tables of a page."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def shown(default: Any) -> str:
    """Return a default as the page writes it."""
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)


def test_every_variable_is_told_and_every_variable_that_is_told_is_read() -> None:
    text = DEPLOY.read_text()
    for variable in set(variables()) - ASKED - {"DYNAMICS_URL"}:
        assert f"`{variable}`" in text or f"azd env set {variable} " in text, variable
    content = json.loads((INFRA / "main.parameters.json").read_text())["parameters"]
    known = {*variables(), *content["settings"]["value"]}
    for variable in re.findall(r"azd env set ([A-Z_]+)", text):
        assert variable in known, variable


def test_defaults_are_told_as_they_are() -> None:
    checked = 0
    for cells in rows(DEPLOY):
        names = re.findall(r"`([A-Z_]+)`", cells[0])
        if len(cells) < 3 or not names or not set(names) <= set(variables()):
            continue
        told = re.findall(r"`([^`]+)`|\bnone\b", cells[1])
        for name, default in zip(names, told * len(names) if len(told) == 1 else told, strict=True):
            actual = shown(MAIN[variables()[name]]["default"])
            # A default that is put together is told with a placeholder.
            assert default == actual or "<" in default, name
            checked += 1
    assert checked >= 15


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_inside_the_project_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_scripts_and_files_that_a_page_names_are_there(path: Path) -> None:
    for name in re.findall(
        r"\b(infra/[\w/.-]+\.(?:py|bicep)|\.github/[\w/.-]+\.yml)", path.read_text()
    ):
        assert (ROOT / name).is_file(), name


# -- cost -----------------------------------------------------------------------------------------


def number(text: str) -> float:
    return float(text.replace(",", "").replace("$", ""))


def products() -> list[tuple[str, float, float]]:
    """Return every calculation of the page, with its result and what is told."""
    unit = r"(?: (?:s|GB|h))?"
    amount = rf"\$?[\d,.]*\d{unit}"
    pattern = rf"({amount}(?: [{TIMES}+] {amount})+) = (\$[\d,.]*\d|\*\*\d+ GB-seconds)"
    found = []
    for terms, told in re.findall(pattern, COST.read_text()):
        total = 0.0
        for term in terms.split(" + "):
            product = 1.0
            for factor in term.split(f" {TIMES} "):
                product *= number(factor.split(" ")[0])
            total += product
        found.append((terms, total, number(re.sub(r"[^\d.,]", "", told))))
    return found


def test_the_page_calculates_and_does_so_rightly() -> None:
    assert len(products()) >= 9
    for terms, total, told in products():
        assert total == pytest.approx(told, abs=0.006), terms


def test_the_sum_of_a_column_is_what_stands_below_it() -> None:
    table = [cells for cells in rows(COST) if len(cells) == 4]
    start = next(n for n, cells in enumerate(table) if "100,000, at" in cells[0])
    end = next(n for n, cells in enumerate(table) if "together" in cells[0])
    for column in (1, 2, 3):
        amounts = [cells[column] for cells in table[start:end]]
        # The result of a calculation; of several amounts the first, which is what is paid.
        costs = [
            number(re.findall(r"\$([\d,.]*\d)", one.split(" = ")[-1])[0])
            for one in amounts
            if "$" in one
        ]
        together = number(table[end][column].strip("*"))
        assert sum(costs) == pytest.approx(together, abs=0.006)


def test_the_arithmetic_uses_the_numbers_of_the_deployment() -> None:
    text = COST.read_text()
    instances = MAIN["maximumInstanceCount"]["default"]
    concurrency = MAIN["httpConcurrency"]["default"]
    assert f"{instances} {TIMES} {concurrency} = {instances * concurrency} callbacks" in text
    assert f"{MAIN['instanceMemoryMB']['default'] // 1024} GB" in text
    host = json.loads((ROOT / "host.json").read_text())["extensions"]["queues"]
    assert f"takes {host['batchSize']} messages, and fetches more when" in text
    assert f"when {host['newBatchThreshold']} are left" in text


def test_alert_rules_cost_what_their_frequency_costs() -> None:
    given = {"silentWindow": "P1D", "availabilityTest": False}
    rules = Evaluation(INFRA / "modules" / "alerts.bicep", given).value("rules")
    paid = [rule["every"] for rule in rules if rule["enabled"]]
    cost = sum(1.50 if every == "PT5M" else 0.50 for every in paid)
    assert f"| ${cost:.2f} | ${cost:.2f} | ${cost:.2f} |" in COST.read_text()
