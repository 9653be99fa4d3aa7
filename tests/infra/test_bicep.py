"""What `azd up` deploys: it fits the app, it is closed where it can be, and all can be set."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pycep
import pytest
import yaml

from relay import settings
from relay.delivery.targets import TARGETS, TargetKind
from relay.oauth.request import MAX_BODY
from tests.helpers import ROOT
from tests.infra.view import (
    FILES,
    INFRA,
    UNKNOWN,
    Evaluation,
    Failed,
    parsed,
    resources,
    used,
    verified,
)

MAIN = INFRA / "main.bicep"
APP = INFRA / "modules" / "app.bicep"
STORAGE = INFRA / "modules" / "storage.bicep"
PACKAGE = INFRA / "modules" / "package.bicep"
AVAILABILITY = INFRA / "modules" / "availability.bicep"
VAULT = INFRA / "modules" / "vault.bicep"
MONITORING = INFRA / "modules" / "monitoring.bicep"
PROFILE = INFRA / "modules" / "front-door-profile.bicep"
ROUTE = INFRA / "modules" / "front-door-route.bicep"
NETWORK = INFRA / "modules" / "network.bicep"
OPERATORS = INFRA / "modules" / "operators.bicep"

SITE = "avm/res/web/site"
ACCOUNT = "avm/res/storage/storage-account"
KEY_VAULT = "avm/res/key-vault/vault"
FIREWALL = "avm/res/network/front-door-web-application-firewall-policy"

SECRETS = {
    "OUTBOX_KEYS",
    "STATE_KEYS",
    "ENTRA_CLIENT_SECRET",
    "ENTRA_CLIENT_CERTIFICATE",
    "ENTRA_CLIENT_CERTIFICATE_PASSWORD",
}
"""Settings that only ever come from the vault."""

VERSIONS = {
    "avm/ptn/authorization/resource-role-assignment": "0.1.2",
    "avm/res/api-management/service": "0.14.4",
    "avm/res/insights/action-group": "0.8.0",
    "avm/res/insights/component": "0.8.0",
    "avm/res/insights/scheduled-query-rule": "0.6.0",
    "avm/res/insights/webtest": "0.3.2",
    "avm/res/key-vault/vault": "0.14.0",
    "avm/res/managed-identity/user-assigned-identity": "0.6.0",
    "avm/res/network/front-door-web-application-firewall-policy": "0.3.3",
    "avm/res/network/private-dns-zone": "0.8.1",
    "avm/res/network/virtual-network": "0.10.1",
    "avm/res/operational-insights/workspace": "0.16.1",
    "avm/res/storage/storage-account": "0.33.0",
    "avm/res/web/serverfarm": "0.7.0",
    "avm/res/web/site": "0.24.0",
    "Microsoft.ApiManagement/service": "2024-05-01",
    "Microsoft.ApiManagement/service/apis": "2024-05-01",
    "Microsoft.ApiManagement/service/apis/operations": "2024-05-01",
    "Microsoft.ApiManagement/service/apis/operations/policies": "2024-05-01",
    "Microsoft.ApiManagement/service/namedValues": "2024-05-01",
    "Microsoft.Authorization/roleAssignments": "2022-04-01",
    "Microsoft.Authorization/roleDefinitions": "2022-04-01",
    "Microsoft.Cdn/profiles": "2025-12-01",
    "Microsoft.Cdn/profiles/afdEndpoints": "2025-12-01",
    "Microsoft.Cdn/profiles/afdEndpoints/routes": "2025-12-01",
    "Microsoft.Cdn/profiles/customDomains": "2025-12-01",
    "Microsoft.Cdn/profiles/originGroups": "2025-12-01",
    "Microsoft.Cdn/profiles/originGroups/origins": "2025-12-01",
    "Microsoft.Cdn/profiles/securityPolicies": "2025-12-01",
    "Microsoft.Graph/applications": "v1.0",
    "Microsoft.Graph/servicePrincipals": "v1.0",
    # The only version that all services take; it has been called a preview for years.
    "Microsoft.Insights/diagnosticSettings": "2021-05-01-preview",
    "Microsoft.Insights/workbooks": "2023-06-01",
    "Microsoft.KeyVault/vaults": "2026-02-01",
    "Microsoft.Resources/resourceGroups": "2025-04-01",
    "Microsoft.Storage/storageAccounts": "2024-01-01",
    "Microsoft.Storage/storageAccounts/queueServices": "2024-01-01",
    "Microsoft.Storage/storageAccounts/queueServices/queues": "2024-01-01",
    "Microsoft.Web/sites": "2024-04-01",
}
"""What was checked against the published types and modules, on 21 November 2026."""

ROLES = {
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a": "Storage Queue Data Message Sender",
    "8a0f0c08-91a1-4084-bc3d-661d67233fed": "Storage Queue Data Message Processor",
    "19e7f393-937e-4f77-808e-94535e297925": "Storage Queue Data Reader",
    "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
}

USUAL = {
    "environmentName": "prod",
    "location": "westeurope",
    "cloud": "AzureCloud",
    "dynamicsUrl": "https://contoso.operations.dynamics.com/data/OAuthCallbacks",
}
"""Parameters of main.bicep that it takes; `cloud` is what Azure says."""

GUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def relay_settings() -> set[str]:
    """Return every setting that the relay reads."""
    read = settings.names(settings.ConnectionSettings) + settings.names(settings.AppSettings)
    return {*read}


def parameters() -> dict[str, Any]:
    """Return the values of main.parameters.json."""
    content = json.loads((INFRA / "main.parameters.json").read_text())
    return {name: one["value"] for name, one in content["parameters"].items()}


def given_to_azd() -> set[str]:
    """Return the variables that main.parameters.json reads."""
    text = (INFRA / "main.parameters.json").read_text()
    return set(re.findall(r"\$\{([A-Z0-9_]+)\}", text))


def deployment(**given: Any) -> Evaluation:
    """Return main.bicep for these parameters."""
    return Evaluation(MAIN, USUAL | given)


def app_settings(**given: Any) -> dict[str, Any]:
    """Return the app settings that the site is given, but for those that only Azure works out."""
    (config,) = used(APP, SITE, **{"hostKeysInFiles": False} | given)["configs"]
    assert config["name"] == "appsettings"
    properties = config["properties"]
    assert isinstance(properties, dict)
    return properties


@cache
def bindings() -> dict[str, dict[str, Any]]:
    """Return the functions' bindings by function and binding name."""
    # A copy of its own: an app can be indexed only once.
    spec = importlib.util.spec_from_file_location("function_app_of_infra", ROOT / "function_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        one.get_function_name(): {b.name: b.get_dict_repr() for b in one.get_bindings()}
        for one in module.app.get_functions()
    }


def role_assignments(node: Any) -> list[dict[str, Any]]:
    """Return all role assignments below a node."""
    if isinstance(node, list):
        return [one for item in node for one in role_assignments(item)]
    if not isinstance(node, dict):
        return []
    own = node.get("roleAssignments", [])
    below = [one for key, item in node.items() if key != "roleAssignments" for one in [item]]
    return [*own, *role_assignments(below)]


# -- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_every_bicep_file_parses(path: Path) -> None:
    assert parsed(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_line_is_no_longer_than_the_formatter_leaves_it(path: Path) -> None:
    """The formatter breaks what is wider than 120 characters, unless it is one text."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = re.fullmatch(r"@description\('.*'\)|\s*(?:var \w+ = |\w+: )?'.*'", line)
        assert len(line) <= 120 or text, line


def test_a_bicep_file_that_is_broken_does_not_parse() -> None:
    with pytest.raises(Exception, match="Unexpected"):
        pycep.BicepParser().parse(text="resource x 'Microsoft.Web/sites@2025-03-01' = {\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_every_type_and_module_has_the_version_that_was_checked(path: Path) -> None:
    text = path.read_text()
    found = re.findall(r"'(?:br/public:)?((?:avm/|Microsoft\.)[A-Za-z0-9/.-]+)[@:]([^']+)'", text)
    for name, version in found:
        assert VERSIONS.get(name) == version, f"{name} {version}"
    declared = len(re.findall(r"^(?:resource|module) ", text, re.MULTILINE))
    local = len(re.findall(r"^module \w+ '[^':]+\.bicep'", text, re.MULTILINE))
    assert declared == len(found) + local


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_modules_send_no_telemetry_to_their_makers(path: Path) -> None:
    for module in verified(path):
        assert module.params["enableTelemetry"] is False, module.path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_files_that_a_module_loads_are_there(path: Path) -> None:
    for name in re.findall(r"loadTextContent\('([^']+)'\)", path.read_text()):
        assert (path.parent / name).is_file(), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_every_parameter_and_variable_is_used(path: Path) -> None:
    text = path.read_text()
    for name in [*parsed(path).get("parameters", {}), *parsed(path).get("variables", {})]:
        assert len(re.findall(rf"\b{name}\b", text)) > 1, name


def test_local_modules_are_given_just_the_parameters_that_they_have() -> None:
    for module in parsed(MAIN)["modules"].values():
        if module["type"] != "local":
            continue
        path = MAIN.parent / module["detail"]["full"]
        config = module["config"]
        config = config["config"] if "condition" in config and "config" in config else config
        wanted = parsed(path)["parameters"]
        required = {name for name, one in wanted.items() if one["default"] is None}
        assert required <= set(config["params"]) <= set(wanted), path.name


# -- settings -------------------------------------------------------------------------------------


def test_every_setting_of_the_relay_can_be_given() -> None:
    named = {"DYNAMICS_URL", "DYNAMICS_BODY", "ENTRA_CLIENT_ID", "ENTRA_MANAGED_IDENTITY_CLIENT_ID"}
    assert set(parameters()["settings"]) | named | SECRETS >= relay_settings()


def test_a_setting_is_given_to_azd_by_its_own_name() -> None:
    for name, value in parameters()["settings"].items():
        assert value == f"${{{name}}}"
    assert parameters()["dynamicsUrl"] == "${DYNAMICS_URL}"
    assert parameters()["dynamicsBody"] == "${DYNAMICS_BODY}"
    assert parameters()["entraClientId"] == "${ENTRA_CLIENT_ID}"


def test_the_app_gets_only_settings_that_somebody_reads() -> None:
    platform = set(Evaluation(APP, {}).value("platform"))
    ours = set(app_settings()) - platform
    assert ours == {
        "DYNAMICS_URL",
        "DYNAMICS_BODY",
        "ENTRA_AUTHORITY",
        "ENTRA_CLIENT_ID",
        "ENTRA_MANAGED_IDENTITY_CLIENT_ID",
        "STATE_POLICY",
    }
    assert ours <= relay_settings()
    assert set(Evaluation(APP, {}).value("minted")) <= relay_settings()
    assert set(Evaluation(APP, {}).value("answered")) <= relay_settings()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_no_setting_is_misspelled_anywhere(path: Path) -> None:
    platform = {*Evaluation(APP, {}).value("platform"), "TLS1_2"}
    words = re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", path.read_text())
    outputs = set(parsed(path).get("outputs", {}))
    for word in set(words) - outputs - platform - given_to_azd():
        assert word in relay_settings(), f"{path.name}: {word}"


def test_no_secret_is_a_parameter_or_an_output() -> None:
    assert not SECRETS & set(parameters()["settings"])
    text = MAIN.read_text() + APP.read_text()
    assert "listKeys" not in text
    assert "primaryConnectionString" not in text
    for name in parsed(MAIN)["outputs"]:
        assert name not in SECRETS


def test_secrets_are_read_from_the_vault_by_the_name_under_which_they_are_written() -> None:
    text = APP.read_text()
    written = "toLower(replace(setting, '_', '-'))"
    assert f"'@Microsoft.KeyVault(SecretUri=${{vaultUri}}secrets/${{{written}}})'" in text
    assert (
        "union(platform, hostKeys, target, further, ofConnections, ofEnvironments, secrets)" in text
    )  # secrets win


def test_every_parameter_can_be_set_and_every_value_has_its_parameter() -> None:
    assert set(parameters()) == set(parsed(MAIN)["parameters"])


def test_parameters_that_must_be_given_are_asked_for_by_azd() -> None:
    required = [name for name, one in parsed(MAIN)["parameters"].items() if one["default"] is None]
    assert required == ["environmentName", "location", "dynamicsUrl"]


def test_no_two_parameters_listen_to_the_same_variable() -> None:
    text = (INFRA / "main.parameters.json").read_text()
    variables = given_to_azd()
    assert text.count("${") == len(variables)
    # azd writes what a deployment puts out into the same environment that parameters come from.
    fed_back = variables & set(parsed(MAIN)["outputs"])
    assert fed_back == {"AZURE_LOCATION"}


def as_azd(environ: dict[str, str]) -> dict[str, Any]:
    """Return the parameters that azd makes of main.parameters.json and an environment.

    It pastes values into JSON text, but for objects and lists that are one variable: those it reads
    as JSON. What is not set counts as not given. (loadParameters of azd's bicep_provider.go)
    """

    def pasted(text: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda match: environ.get(match[1], ""), text)

    result: dict[str, Any] = {}
    for name, value in parameters().items():
        kind = parsed(MAIN)["parameters"][name]["type"]
        if isinstance(value, str) and (kind == "object" or not isinstance(kind, str)):
            given = pasted(value)
            result |= {name: json.loads(given)} if given else {}
        else:
            given = json.loads(pasted(json.dumps(value)))
            result |= {name: given} if given != "" else {}
    return result


def test_nothing_but_the_target_has_to_be_given() -> None:
    given = as_azd({"AZURE_ENV_NAME": "prod", "AZURE_LOCATION": "x", "DYNAMICS_URL": "https://d"})
    assert set(given) == {"environmentName", "location", "dynamicsUrl", "settings"}
    assert set(given["settings"].values()) == {""}  # which the app counts as not given
    assert "!empty(setting.value)" in APP.read_text()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"settings": {"OUTBOX_QUEUE": "My_Queue"}}, "OUTBOX_QUEUE: 3 to 49 small letters"),
        ({"settings": {"OUTBOX_QUEUE": "a--b"}}, "OUTBOX_QUEUE"),
        ({"settings": {"OUTBOX_QUEUE": "-abc"}}, "OUTBOX_QUEUE"),
        ({"settings": {"OUTBOX_QUEUE": "q" * 50}}, "OUTBOX_QUEUE"),
        ({"environmentName": "my env"}, "The resource group cannot be called rg-relay-my env"),
        ({"resourceGroupName": "group."}, "The resource group cannot be called group."),
        ({"customDomain": "https://callback.contoso.com"}, "CUSTOM_DOMAIN: letters"),
        ({"vaultSettings": ["state-keys"]}, "VAULT_SETTINGS: names of settings"),
        ({"vaultSettings": ["ENTRA_CLIENT_SECRET"]}, "ENTRA_CLIENT_ID has to say whose"),
        ({"vaultSettings": ["ENTRA_CLIENT_CERTIFICATE"]}, "ENTRA_CLIENT_ID has to say whose"),
        ({"identityIsClient": True, "entraClientId": "id"}, "IDENTITY_IS_CLIENT: then there is no"),
        (
            {"identityIsClient": True, "vaultSettings": ["ENTRA_CLIENT_SECRET"]},
            "IDENTITY_IS_CLIENT: then there is no",
        ),
        ({"operatorsGroupId": "relay operators"}, "OPERATORS_GROUP_ID: the object id of a group"),
        ({"cloud": "AzureUSGovernment"}, "This cloud is not supported"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_deployed(
    given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Failed, match=re.escape(sentence)):
        # The tag of the resource group, which every module waits for.
        deployment(**given).value(resources(MAIN)["group"]["config"]["tags"])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"settings": {"OUTBOX_QUEUE": "a-b", "STATE_POLICY": "opaque"}},
        {"resourceGroupName": "RG_relay.(1)", "customDomain": "callback.contoso.com"},
        {
            "vaultSettings": ["ENTRA_CLIENT_SECRET", "CONNECTIONS__A1__STATE_KEYS"],
            "entraClientId": "i",
        },
        {"identityIsClient": True},
        {"vaultSettings": ["CONNECTIONS__XERO__ENTRA_CLIENT_SECRET"]},
    ],
)
def test_what_can_work_is_not_refused(given: dict[str, Any]) -> None:
    assert deployment(**given).value("tags") == {"azd-env-name": "prod"}


def test_only_regions_with_flex_consumption_are_offered() -> None:
    location = parsed(MAIN)["parameters"]["location"]
    kinds = {one["type"]: one for one in location["decorators"]}
    regions = kinds["allowed"]["argument"]
    assert {"westeurope", "eastus", "swedencentral"} <= set(regions)
    assert not {"switzerlandnorth", "polandcentral", "canadaeast"} & set(regions)
    assert "@metadata({ azd: { type: 'location' } })\nparam location" in MAIN.read_text()
    assert set(deployment().value("withoutZones")) <= set(regions)


def test_storage_has_zones_where_the_region_has_them() -> None:
    assert deployment().value("skuOfRegion") == "Standard_ZRS"
    assert deployment(location="westus").value("skuOfRegion") == "Standard_LRS"
    assert parsed(MAIN)["parameters"]["storageSku"]["default"] == ""
    assert MAIN.read_text().count("skuName: empty(storageSku) ? skuOfRegion : storageSku") == 2


def test_strangers_are_kept_out_unless_somebody_says_otherwise() -> None:
    assert app_settings(settings={})["STATE_POLICY"] == "signed"
    # What is given comes after it.
    assert "union(platform, hostKeys, target, further" in APP.read_text()
    assert "STATE_KEYS" in Evaluation(APP, {}).value("minted")


@pytest.mark.parametrize("kind", TARGETS, ids=lambda kind: kind.name)
def test_the_objects_of_this_project_get_the_body_that_they_take(kind: TargetKind) -> None:
    assert deployment(dynamicsUrl=kind.url).value("body") == kind.body
    assert deployment(dynamicsUrl=kind.url, dynamicsBody={"a": "{code}"}).value("body") == {
        "a": "{code}"
    }
    own = {
        "known": {"DYNAMICS_URL": kind.url},
        "bodied": {"DYNAMICS_URL": kind.url, "DYNAMICS_BODY": {"a": "{code}"}},
        "other": {"DYNAMICS_URL": "https://contoso.operations.dynamics.com/data/Mine"},
        "inherits": {"CODE_TTL": "60"},
    }
    found = deployment(connections=own).value("ownBodies")
    assert found == {"known": {"DYNAMICS_BODY": kind.body}}
    assert deployment(connections=own, dynamicsBody={"a": "{code}"}).value("ownBodies") == {}


def test_other_objects_get_the_relays_own_body() -> None:
    other = "https://contoso.operations.dynamics.com/data/Mine"
    assert deployment(dynamicsUrl=other).value("body") == {}
    assert "DYNAMICS_BODY" not in app_settings(dynamicsBody={})


def test_the_availability_test_asks_what_a_callback_needs() -> None:
    test = used(AVAILABILITY, "avm/res/insights/webtest", url="https://relay.example")
    # /health alone is answered without storage.
    assert test["request"]["RequestUrl"] == "https://relay.example/health?code=probe"
    assert test["validationRules"]["ExpectedHttpStatusCode"] == 200
    assert len(test["locations"]) == 5
    assert parsed(MAIN)["parameters"]["availabilityTest"]["default"] is False


def test_a_deleted_vault_is_taken_back_on_request() -> None:
    assert used(VAULT, KEY_VAULT, createMode="recover")["createMode"] == "recover"
    assert parsed(MAIN)["parameters"]["vaultCreateMode"]["default"] == "default"


def test_values_arrive_as_the_guide_gives_them() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text()
    given = dict(re.findall(r"^azd env set (\w+) (\S+)$", guide, re.MULTILINE))
    # azd reads the file as godotenv does: what stands between single quotes is taken as it is.
    given |= dict(re.findall(r"^([A-Z_]+)='(.+)'$", guide, re.MULTILINE))
    arrived = as_azd(given)
    assert arrived["dynamicsBody"]["State"] == "{state}"
    assert arrived["settings"]["STATE_PATTERN"] == r"^[A-Z]{3}\d{8}$"
    assert arrived["settings"]["CODE_TTL"] == "60"
    assert arrived["connections"]["xero"]["CODE_TTL"] == "300"
    assert list(arrived["environments"]) == ["uat"]
    vault = ["CONNECTIONS__XERO__STATE_KEYS", "ENVIRONMENTS__UAT__STATE_KEYS"]
    assert arrived["vaultSettings"] == vault
    assert arrived["alertEmails"] == ["operations@contoso.com"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_no_page_gives_json_to_azd_as_an_argument(page: Path) -> None:
    # PowerShell before 7.3 takes the quotes away, and no inline form is right in every shell.
    assert not re.findall(r"azd env set \w+ '?[\[{].*", page.read_text())


def test_an_identity_alone_is_the_default_credential() -> None:
    text = MAIN.read_text()
    assert parsed(MAIN)["parameters"]["vaultSettings"]["default"] == []
    assert "var federated = !hasOwnSecret && !identityIsClient" in text
    assert app_settings(useIdentity=False).get("ENTRA_MANAGED_IDENTITY_CLIENT_ID") is None
    assert "ENTRA_CLIENT_ID" not in app_settings(entraClientId="")


# -- the app --------------------------------------------------------------------------------------


def test_the_app_speaks_only_tls_and_takes_no_password() -> None:
    site = used(APP, SITE)
    assert site["httpsOnly"] is True
    assert site["siteConfig"]["minTlsVersion"] in ("1.2", "1.3")
    assert site["siteConfig"]["scmMinTlsVersion"] in ("1.2", "1.3")
    assert site["siteConfig"]["remoteDebuggingEnabled"] is False
    allowed = {one["name"]: one["allow"] for one in site["basicPublishingCredentialsPolicies"]}
    assert allowed == {"ftp": False, "scm": False}


def test_the_app_runs_the_python_that_is_packaged_and_developed_with() -> None:
    runtime = used(APP, SITE)["functionAppConfig"]["runtime"]
    assert runtime == {"name": "python", "version": (ROOT / ".python-version").read_text().strip()}
    assert f'RUNTIME = "{runtime["version"]}"' in (INFRA / "scripts" / "package.py").read_text()


def test_the_plan_is_flex_consumption() -> None:
    plan = used(APP, "avm/res/web/serverfarm")
    assert plan["skuName"] == "FC1"
    assert plan["reserved"] is True  # Linux


def test_nothing_logs_a_query_string() -> None:
    site = used(APP, SITE)
    assert site["siteConfig"]["httpLoggingEnabled"] is False
    # AppServiceHTTPLogs have CsUriQuery, a group such as allLogs has them; FunctionAppLogs repeat
    # the lines that Application Insights has, and are paid for again.
    assert "diagnosticSettings" not in site
    for path in FILES:
        assert "allLogs" not in path.read_text()
        assert "AppServiceHTTPLogs'" not in path.read_text()


def diagnostic_settings(node: Any) -> list[dict[str, Any]]:
    """Return all diagnostic settings below a node."""
    if isinstance(node, list):
        return [one for item in node for one in diagnostic_settings(item)]
    if not isinstance(node, dict):
        return []
    below = [one for item in node.values() for one in diagnostic_settings(item)]
    return [*node.get("diagnosticSettings", []), *below]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_every_diagnostic_setting_names_its_categories(path: Path) -> None:
    # Where none is named the verified modules send all logs, those with query strings too.
    for module in verified(path):
        for setting in diagnostic_settings(Evaluation(path, USUAL).value(module.params)):
            named = setting["logCategoriesAndGroups"]
            assert named
            assert all(set(one) == {"category"} for one in named)


def test_the_host_takes_no_more_than_the_relay_has_to_refuse_itself() -> None:
    limit = int(app_settings()["FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"])
    assert MAX_BODY < limit <= 4 * MAX_BODY


def test_the_host_reaches_its_storage_by_identity_alone() -> None:
    storage = {name: value for name, value in app_settings().items() if "Storage" in name}
    # With the addresses alone some hosts have no client for blobs (azure-functions-host#11787).
    assert set(storage) == {
        "AzureWebJobsStorage__accountName",
        "AzureWebJobsStorage__blobServiceUri",
        "AzureWebJobsStorage__queueServiceUri",
        "AzureWebJobsStorage__tableServiceUri",
        "AzureWebJobsStorage__credential",
        "AzureWebJobsStorage__clientId",
    }
    assert storage["AzureWebJobsStorage__credential"] == "managedidentity"
    package = used(APP, SITE)["functionAppConfig"]["deployment"]["storage"]
    assert package["authentication"]["type"] == "UserAssignedIdentity"


@pytest.mark.parametrize("path", [STORAGE, PACKAGE], ids=lambda path: path.stem)
def test_an_address_of_storage_is_never_empty(path: Path) -> None:
    """`primaryBlobEndpoint` of the verified module is empty where it makes no container."""
    addresses = re.findall(
        r"account\.outputs\.(serviceEndpoints\.\w+|\w+Endpoint)\b", path.read_text()
    )
    assert addresses
    assert [one for one in addresses if not one.startswith("serviceEndpoints.")] == []


def test_the_host_can_be_told_to_keep_its_keys_in_files() -> None:
    assert "AzureWebJobsSecretStorageType" not in app_settings()
    assert app_settings(hostKeysInFiles=True)["AzureWebJobsSecretStorageType"] == "files"
    assert parsed(MAIN)["parameters"]["hostKeysInFiles"]["default"] is False


def test_site_properties_that_flex_consumption_refuses_are_not_given() -> None:
    # Error 51021 names them. FTP is among them: there is none, and its password is switched off.
    refused = {
        "alwaysOn",
        "ftpsState",
        "functionAppScaleLimit",
        "functionsRuntimeScaleMonitoringEnabled",
        "linuxFxVersion",
        "minimumElasticInstanceCount",
        "netFrameworkVersion",
        "preWarmedInstanceCount",
        "pythonVersion",
        "use32BitWorkerProcess",
    }
    assert not refused & set(used(APP, SITE)["siteConfig"])


def test_settings_that_flex_consumption_refuses_are_not_given() -> None:
    refused = {
        "FUNCTIONS_WORKER_RUNTIME",
        "FUNCTIONS_EXTENSION_VERSION",
        "SCM_DO_BUILD_DURING_DEPLOYMENT",
        "ENABLE_ORYX_BUILD",
        "WEBSITE_RUN_FROM_PACKAGE",
        "WEBSITE_CONTENTSHARE",
        "FUNCTIONS_WORKER_PROCESS_COUNT",
    }
    assert not refused & set(app_settings())


def test_what_is_taken_away_from_the_settings_is_gone() -> None:
    (config,) = used(APP, SITE)["configs"]
    assert config["retainCurrentAppSettings"] is False


def test_running_callbacks_are_not_cut_off_by_a_deployment() -> None:
    strategy = parsed(MAIN)["parameters"]["updateStrategy"]["default"]
    assert strategy == "RollingUpdate"
    site = used(APP, SITE, updateStrategy=strategy)
    assert site["functionAppConfig"]["siteUpdateStrategy"] == {"type": "RollingUpdate"}


def test_scale_is_set_by_parameters() -> None:
    scale = used(
        APP,
        SITE,
        instanceMemoryMB=512,
        maximumInstanceCount=50,
        httpConcurrency=7,
        alwaysReadyHttp=1,
        alwaysReadyRedeliver=1,
    )["functionAppConfig"]["scaleAndConcurrency"]
    assert scale["instanceMemoryMB"] == 512
    assert scale["maximumInstanceCount"] == 50
    assert scale["triggers"] == {"http": {"perInstanceConcurrency": 7}}


def test_always_ready_instances_are_of_functions_that_exist() -> None:
    groups = re.findall(r"name: '(http|function:\w+)'", APP.read_text())
    assert groups == ["http", "function:redeliver"]
    assert bindings()["redeliver"]["message"]["type"] == "queueTrigger"


def test_only_our_front_door_may_call_the_app_where_there_is_one() -> None:
    closed = used(APP, SITE, frontDoorId="0f0f")["siteConfig"]
    assert closed["ipSecurityRestrictionsDefaultAction"] == "Deny"
    (rule,) = closed["ipSecurityRestrictions"]
    assert rule["action"] == "Allow"
    assert rule["tag"] == "ServiceTag"
    assert rule["ipAddress"] == "AzureFrontDoor.Backend"
    assert rule["headers"] == {"x-azure-fdid": ["0f0f"]}
    open_to_all = used(APP, SITE, frontDoorId="")["siteConfig"]
    assert open_to_all["ipSecurityRestrictionsDefaultAction"] == "Allow"
    assert open_to_all["ipSecurityRestrictions"] == []


# -- storage and keys -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [STORAGE, PACKAGE], ids=lambda path: path.stem)
def test_storage_has_no_shared_key_and_nothing_public(path: Path) -> None:
    account = used(path, ACCOUNT, endpointsSubnetId="")
    assert account["allowSharedKeyAccess"] is False
    assert account["defaultToOAuthAuthentication"] is True
    assert account["allowBlobPublicAccess"] is False
    assert account["minimumTlsVersion"] == "TLS1_2"
    assert account["supportsHttpsTrafficOnly"] is True


def test_the_app_reads_its_package_and_cannot_replace_it() -> None:
    given = {"deployerPrincipalId": "deployer", "appPrincipalId": "app"}
    (container,) = used(PACKAGE, ACCOUNT, **given)["blobServices"]["containers"]
    roles = [
        (one["principalId"], ROLES[one["roleDefinitionIdOrName"]])
        for one in container["roleAssignments"]
    ]
    assert roles == [
        ("deployer", "Storage Blob Data Contributor"),
        ("app", "Storage Blob Data Reader"),
    ]
    # The other account has the host's blobs, which the app's identity does write.
    assert "containers" not in used(STORAGE, ACCOUNT)["blobServices"]
    site = used(APP, SITE, identityId="app", deployerId="deployer", packageUrl="https://package")
    package = site["functionAppConfig"]["deployment"]["storage"]
    assert package["value"] == "https://package"
    assert package["authentication"]["userAssignedIdentityResourceId"] == "deployer"
    assert site["keyVaultAccessIdentityResourceId"] == "app"


def test_the_queues_are_those_of_the_functions() -> None:
    outbox = bindings()["redeliver"]["message"]["queueName"]
    assert bindings()["callback"]["outbox"]["queueName"] == outbox
    dead = bindings()["redeliver"]["dead"]["queueName"]
    account = used(STORAGE, ACCOUNT, outbox=outbox)
    names = [
        queue["name"].replace("${outbox}", outbox) for queue in account["queueServices"]["queues"]
    ]
    # The poison queue is the host's: it appends this to the name of the trigger's queue.
    doctor = [f"{outbox}-doctor", f"{outbox}-doctor-report"]
    assert names == [outbox, f"{outbox}-poison", dead, *doctor]
    assert f"? '{settings.AppSettings.model_validate({}).outbox_queue}' :" in MAIN.read_text()


def test_the_vault_cannot_be_emptied_for_good_and_knows_roles_only() -> None:
    vault = used(VAULT, KEY_VAULT, endpointsSubnetId="")
    assert vault["enablePurgeProtection"] is True
    assert vault["enableSoftDelete"] is True
    assert vault["softDeleteRetentionInDays"] == 90
    assert vault["enableRbacAuthorization"] is True
    assert vault["enableVaultForTemplateDeployment"] is False


@pytest.mark.parametrize(
    ("path", "module"), [(STORAGE, ACCOUNT), (PACKAGE, ACCOUNT), (VAULT, KEY_VAULT)]
)
def test_a_private_network_closes_the_public_door(path: Path, module: str) -> None:
    closed = used(path, module, endpointsSubnetId="/subnets/endpoints")
    assert closed["publicNetworkAccess"] == "Disabled"
    assert closed["networkAcls"]["defaultAction"] == "Deny"
    assert closed["networkAcls"]["bypass"] == "None"
    assert closed["privateEndpoints"] != []


def test_every_private_endpoint_has_the_zone_of_its_service() -> None:
    """The host wants blobs, queues and tables; a service without a zone has its public address."""
    text = NETWORK.read_text()
    zones = re.findall(r"^  'privatelink(?:\.(\w+)|\$\{replace)", text, re.MULTILINE)
    assert zones == ["blob", "queue", "table", ""]  # the last one is the vault's
    places = re.findall(r"output (\w+)ZoneId string = zone\[(\d)\]", text)
    assert places == [("blob", "0"), ("queue", "1"), ("table", "2"), ("vault", "3")]
    endpoints = re.findall(r"\{ service: '(\w+)', zone: (\w+)ZoneId \}", STORAGE.read_text())
    assert endpoints == [(name, name) for name in ("blob", "queue", "table")]
    for name, _ in places:
        assert f"{name}ZoneId: network.?outputs.{name}ZoneId ?? ''" in MAIN.read_text()


def test_the_private_network_delegates_the_apps_subnet_to_flex_consumption() -> None:
    app, endpoints = used(NETWORK, "avm/res/network/virtual-network")["subnets"]
    assert app["delegation"] == "Microsoft.App/environments"
    assert "delegation" not in endpoints


def test_roles_are_few_and_small() -> None:
    granted: list[tuple[str, str]] = []
    for path in FILES:
        for module in verified(path):
            worked_out = Evaluation(path, USUAL).value(module.params)
            for one in role_assignments(worked_out):
                granted.append((path.stem, ROLES[one["roleDefinitionIdOrName"]]))
                assert one["principalType"] == "ServicePrincipal"
    assert sorted(granted) == [
        ("monitoring", "Monitoring Metrics Publisher"),
        ("package", "Storage Blob Data Contributor"),
        ("package", "Storage Blob Data Reader"),
        ("storage", "Storage Blob Data Owner"),
        ("storage", "Storage Queue Data Contributor"),
        ("storage", "Storage Queue Data Contributor"),
        ("storage", "Storage Queue Data Message Sender"),
        ("storage", "Storage Queue Data Message Sender"),
        ("storage", "Storage Queue Data Message Sender"),
        ("storage", "Storage Queue Data Reader"),
        ("storage", "Storage Queue Data Reader"),
        ("storage", "Storage Table Data Contributor"),
        ("vault", "Key Vault Secrets User"),
    ]


def test_no_role_is_named_that_the_test_does_not_know() -> None:
    for path in FILES:
        for guid in re.findall(GUID, path.read_text()):
            assert guid in ROLES, f"{path.name}: {guid}"


def test_the_app_takes_messages_from_the_queues_that_it_is_triggered_by_and_no_others() -> None:
    queues = used(STORAGE, ACCOUNT, outbox="outbox")["queueServices"]["queues"]
    roles = {
        queue["name"]: {ROLES[one["roleDefinitionIdOrName"]] for one in queue["roleAssignments"]}
        for queue in queues
    }
    aside = {"Storage Queue Data Message Sender", "Storage Queue Data Reader"}
    assert roles == {
        # Contributor, because the host postpones a message with an update.
        "outbox": {"Storage Queue Data Contributor"},
        "outbox-poison": aside,
        "outbox-dead": aside,
        "outbox-doctor": {"Storage Queue Data Contributor"},
        "outbox-doctor-report": {"Storage Queue Data Message Sender"},
    }


def test_operators_get_the_rights_that_the_page_names_and_no_others() -> None:
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    table = page.partition("| you need | for |")[2].partition("\n\n")[0]
    told = {
        (queue, role)
        for role, queues in re.findall(r"^\| \*(.+?)\* on (.+?) \|", table, re.MULTILINE)
        for queue in re.findall(r"`<OUTBOX_QUEUE>(.+?)`", queues)
    }
    granted = Evaluation(OPERATORS, {"outbox": ""}).value("grants")
    assert len(told) == 5
    assert told == {(one["queue"], ROLES[one["role"]]) for one in granted}
    on_the_app = Evaluation(OPERATORS, {}).value("readsSettings")
    assert on_the_app == re.findall(r"`(Microsoft\.Web/[^`]+)`", table)
    # Who may write the outbox has the app write rows.
    assert "" not in {one["queue"] for one in granted}


def test_operators_get_their_roles_on_single_queues_and_on_the_app() -> None:
    scopes = {
        name: (one["config"].get("config") or one["config"])["scope"]
        for name, one in resources(OPERATORS).items()
        if one["type"].endswith("/roleAssignments")
    }
    assert set(scopes) == {"onQueues", "onApp"}
    assert scopes["onApp"] == "site"
    assert scopes["onQueues"]["operator"]["operands"]["operand_1"] == "queues"
    assert parsed(MAIN)["parameters"]["operatorsGroupId"]["default"] == ""


# -- logs -----------------------------------------------------------------------------------------


def test_nobody_writes_telemetry_with_a_key() -> None:
    insights = used(MONITORING, "avm/res/insights/component")
    assert insights["disableLocalAuth"] is True
    assert insights["disableIpMasking"] is False
    workspace = used(MONITORING, "avm/res/operational-insights/workspace")
    assert workspace["features"]["disableLocalAuth"] is True
    assert app_settings()["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"].endswith("Authorization=AAD")


# -- front door -----------------------------------------------------------------------------------


def test_front_door_scrubs_query_strings_from_its_log() -> None:
    scrubbing = resources(PROFILE)["profile"]["config"]["properties"]["logScrubbing"]
    assert scrubbing["state"] == "Enabled"
    (rule,) = scrubbing["scrubbingRules"]
    assert rule == {
        "matchVariable": "QueryStringArgNames",
        "selectorMatchOperator": "EqualsAny",
        "state": "Enabled",
    }


def test_the_firewall_scrubs_what_it_matches_too() -> None:
    firewall = used(ROUTE, FIREWALL)
    scrubbing = firewall["policySettings"]["logScrubbing"]
    assert scrubbing["state"] == "Enabled"
    assert {rule["matchVariable"] for rule in scrubbing["scrubbingRules"]} >= {
        "QueryStringArgNames",
        "RequestBodyPostArgNames",
        "RequestBodyJsonArgNames",
    }
    assert all(rule["state"] == "Enabled" for rule in scrubbing["scrubbingRules"])


def test_front_door_limits_how_often_one_address_may_ask() -> None:
    firewall = used(
        ROUTE, "avm/res/network/front-door-web-application-firewall-policy", rateLimit=42
    )
    assert firewall["policySettings"]["mode"] == "Prevention"
    (rule,) = firewall["customRules"]["rules"]
    assert rule["ruleType"] == "RateLimitRule"
    assert rule["rateLimitThreshold"] == 42
    assert rule["action"] == "Block"


def test_front_door_passes_on_every_route_of_the_app_and_caches_none() -> None:
    route = resources(ROUTE)["route"]["config"]["properties"]
    assert "cacheConfiguration" not in route
    assert route["forwardingProtocol"] == "HttpsOnly"
    assert route["httpsRedirect"] == "Enabled"
    patterns = route["patternsToMatch"]
    for function in bindings().values():
        for binding in function.values():
            # Other addresses get Front Door's own 404.
            if binding["type"] != "httpTrigger" or "*" in binding["route"]:
                continue
            full = "/" + re.sub(r"\{[^}]+\}", "x", binding["route"])
            shorter = full.removesuffix("/x") if "?}" in binding["route"] else full
            for path in (full, shorter):
                assert any(re.fullmatch(p.replace("*", ".+"), path) for p in patterns), path


def test_a_custom_domain_speaks_tls_1_2_and_brings_its_certificate() -> None:
    domain = resources(ROUTE)["domain"]["config"]
    properties = domain.get("config", domain)["properties"]
    assert properties["tlsSettings"]["minimumTlsVersion"] == "TLS12"
    assert properties["tlsSettings"]["certificateType"] == "ManagedCertificate"


# -- azure.yaml -----------------------------------------------------------------------------------


def azure_yaml() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "azure.yaml").read_text())
    assert isinstance(content, dict)
    return content


def test_azd_deploys_the_folder_that_the_script_makes_as_it_is() -> None:
    service = azure_yaml()["services"]["relay"]
    assert service["host"] == "function"
    assert service["language"] == "python"
    assert service["remoteBuild"] is False
    assert service["dist"] == "dist"
    assert 'HERE / "dist"' in (INFRA / "scripts" / "package.py").read_text()
    assert used(APP, SITE)["tags"]["azd-service-name"] == "relay"
    assert azure_yaml()["infra"] == {"path": "infra", "module": "main"}


def hooks() -> list[tuple[str, dict[str, Any]]]:
    content = azure_yaml()
    return [*content["hooks"].items(), *content["services"]["relay"]["hooks"].items()]


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: str(hook[0]))
def test_a_hook_is_python_on_every_system(hook: tuple[str, dict[str, Any]]) -> None:
    _, settings_of_hook = hook
    assert settings_of_hook["kind"] == "python"
    assert not {"windows", "posix", "shell"} & set(settings_of_hook)
    script = ROOT / settings_of_hook["run"]  # azd gives no arguments
    assert script.is_file()
    # azd takes the nearest of these files for the script's, and would install the whole project.
    assert not (script.parent / "pyproject.toml").exists()
    lines = (script.parent / "requirements.txt").read_text().splitlines()
    assert all(line.startswith("#") for line in lines)
    major, minor, patch = re.findall(r"\d+", azure_yaml()["requiredVersions"]["azd"])
    assert (int(major), int(minor), int(patch)) >= (1, 23, 15)  # since then


def test_every_step_of_azd_up_has_its_hook() -> None:
    runs = {name: one["run"] for name, one in hooks()}
    assert runs == {
        "prepackage": "infra/scripts/package.py",
        "preprovision": "infra/scripts/prepare.py",
        "postprovision": "infra/scripts/mint.py",
        "postup": "infra/scripts/checklist.py",
    }
    # Without it a hook has no terminal to ask at.
    assert dict(hooks())["preprovision"]["interactive"] is True


def test_there_is_no_script_for_one_kind_of_shell() -> None:
    assert not [path for path in INFRA.rglob("*") if path.suffix in (".ps1", ".sh", ".cmd", ".bat")]


def test_scripts_ask_for_outputs_that_the_deployment_has() -> None:
    outputs = set(parsed(MAIN)["outputs"])
    of_the_tools = {"AZURE_SUBSCRIPTION_ID", "AZURE_CONFIG_DIR"}  # of azd, and of az
    for script in (INFRA / "scripts").glob("*.py"):
        for name in re.findall(r"\b(?:RELAY|AZURE)_[A-Z_]+\b", script.read_text()):
            assert name in outputs | of_the_tools, f"{script.name}: {name}"


def test_the_workflow_is_told_only_what_the_deployment_puts_out() -> None:
    outputs = set(parsed(MAIN)["outputs"]) | {"AZURE_CLIENT_ID", "AZURE_SUBSCRIPTION_ID", "ATTEST"}
    text = (ROOT / ".github" / "workflows" / "deploy.yml").read_text()
    for name in re.findall(r"vars\.(\w+)", text):
        assert name in outputs, name


def test_what_is_only_known_after_deployment_is_not_guessed_here() -> None:
    assert app_settings()["APPLICATIONINSIGHTS_CONNECTION_STRING"] == UNKNOWN
