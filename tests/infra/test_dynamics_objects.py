"""infra/dynamics and its pages: the objects fit together, and take what the relay sends.

Nothing here compiles X++, AL or C#. What can be told from the text is told: names that refer to
nothing, fields too short, rights too wide, secrets in messages, a state the relay would refuse.
"""

import base64
import dataclasses
import hashlib
import hmac
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relay import settings, settings_reader
from relay.body import Template
from relay.connections import Connection, Provider, StatePolicy
from relay.delivery import targets
from relay.delivery.callback import Callback
from relay.delivery.targets import TARGETS, TargetKind
from relay.oauth import state
from relay.oauth.authorization import MAX_CODE, MAX_DESCRIPTION, MAX_VALUE, VerifiedResponse
from relay.tools.doctor.target import CHECKS
from tests.helpers import connection, response

ROOT = Path(__file__).parents[2]
DYNAMICS = ROOT / "infra" / "dynamics"
MODEL = DYNAMICS / "finance-operations" / "OAuthCallback" / "OAuthCallback"
DESCRIPTOR = MODEL.parent / "Descriptor" / "OAuthCallback.xml"
AL = DYNAMICS / "business-central" / "src"
SOLUTION = DYNAMICS / "dataverse" / "solution" / "src"
PLUGIN = DYNAMICS / "dataverse" / "plugin" / "OAuthCallbackPlugins.cs"
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    for name in ("finance-operations", "custom-service", "business-central", "dataverse")
}
AL_SOURCES = {path: path.read_text("utf-8") for path in sorted(AL.glob("*.al"))}
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
KEY = bytes(range(32))
JTI = "AQIDBAUGBwgJCgsMDQ4PEA"
UNLIMITED = 1 << 20


def xml(path: Path) -> ET.Element:
    return ET.parse(path).getroot()  # noqa: S314 - a file of this repository


def tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def text(element: ET.Element, path: str) -> str:
    """Return the text at a path, whatever the namespaces; an empty one when there is none."""
    found = element.find("/".join(f"{{*}}{part}" for part in path.split("/")))
    return "" if found is None else (found.text or "")


def every(element: ET.Element, path: str) -> list[ET.Element]:
    return element.findall("/".join(f"{{*}}{part}" for part in path.split("/")))


# -- Finance & Operations: metadata ----------------------------------------------------------------

OBJECTS = {path: xml(path) for path in sorted(MODEL.rglob("*.xml"))}

# Children in the order in which published metadata has them; the platform reads no other.
SHAPES = {
    name: order.split()
    for name, order in {
        "AxClass": "Name SourceCode",
        "AxDataEntityView": "Name SourceCode Label DataManagementEnabled IsPublic PrimaryKey"
        " PublicCollectionName PublicEntityName DeleteActions FieldGroups Fields Keys Mappings"
        " Ranges Relations StateMachines ViewMetadata",
        "AxDataEntityViewField": "Name DataField DataSource",
        "AxDataEntityViewKey": "Name Fields",
        "AxDataEntityViewKeyField": "DataField",
        "AxEdt": "Name Extends Label ArrayElements Relations TableReferences StringSize",
        "AxEnum": "Name Label EnumValues",
        "AxEnumValue": "Name Label Value",
        "AxLabelFile": "Name LabelContentFileName LabelFileId RelativeUriInModelStore",
        "AxMenuElement": "Name MenuItemName MenuItemType",
        "AxMenuExtension": "Name Customizations Elements MenuElementModifications"
        " PropertyModifications",
        "AxMenuExtensionElement": "MenuElement",
        "AxMenuItemAction": "Name HelpText Label NeedsRecord Object ObjectType",
        "AxMenuItemDisplay": "Name HelpText Label Object",
        "AxQuerySimpleRootDataSource": "Name DynamicFields Table DataSources DerivedDataSources"
        " Fields Ranges GroupBy Having OrderBy",
        "AxSecurityDataEntityPermission": "Grant Name Fields Methods",
        "AxSecurityDuty": "Name Description Label Privileges",
        "AxSecurityDutyReference": "Name",
        "AxSecurityEntryPointReference": "Name Grant ObjectChildName ObjectName ObjectType Forms",
        "AxSecurityPrivilege": "Name Label DataEntityPermissions DirectAccessPermissions"
        " EntryPoints FormControlOverrides",
        "AxSecurityPrivilegeReference": "Name",
        "AxSecurityRole": "Name Description Label DirectAccessPermissions Duties Privileges"
        " SubRoles",
        "AxService": "Name Class Description ExternalName ServiceOperations",
        "AxServiceGroup": "Name AutoDeploy Description Services",
        "AxServiceGroupService": "Name Service",
        "AxServiceOperation": "Name Method",
        "AxTable": "Name SourceCode Label TableGroup TitleField1 TitleField2 CacheLookup"
        " ClusteredIndex CreatedBy CreatedDateTime ModifiedBy ModifiedDateTime PrimaryIndex"
        " ReplacementKey SaveDataPerCompany DeleteActions FieldGroups Fields FullTextIndexes"
        " Indexes Mappings Relations StateMachines",
        "AxTableField": "Name AllowEdit ExtendedDataType IgnoreEDTRelation Label Mandatory"
        " StringSize EnumType",
        "AxTableFieldGroup": "Name AutoPopulate Fields",
        "AxTableFieldGroupField": "DataField",
        "AxTableIndex": "Name AllowDuplicates AlternateKey Fields",
        "AxTableIndexField": "DataField",
        "Grant": "Correct Create Delete Invoke Read Update",
        "MenuElement": "Name Label Elements",
        "Method": "Name Source",
        "SourceCode": "Declaration Methods",
        "ViewMetadata": "Name SourceCode DataSources",
    }.items()
}
LISTS = {
    "DataEntityPermissions": "AxSecurityDataEntityPermission",
    "DataSources": "AxQuerySimpleRootDataSource",
    "Duties": "AxSecurityDutyReference",
    "EntryPoints": "AxSecurityEntryPointReference",
    "EnumValues": "AxEnumValue",
    "FieldGroups": "AxTableFieldGroup",
    "Indexes": "AxTableIndex",
    "Keys": "AxDataEntityViewKey",
    "Methods": "Method",
    "Privileges": "AxSecurityPrivilegeReference",
    "ServiceOperations": "AxServiceOperation",
    "Services": "AxServiceGroupService",
}
LISTS_OF_SEVERAL = ("Elements", "Fields")


def named(kind: str) -> dict[str, ET.Element]:
    """Return the objects of one kind by their name."""
    return {text(root, "Name"): root for root in OBJECTS.values() if tag(root) == kind}


def field_lengths(table: str) -> dict[str, int]:
    """Return how many characters each field of a table takes."""
    sizes = {
        name: UNLIMITED if text(edt, "Extends") == "Notes" else int(text(edt, "StringSize"))
        for name, edt in named("AxEdt").items()
    }
    fields = every(named("AxTable")[table], "Fields/AxTableField")
    return {
        text(field, "Name"): int(text(field, "StringSize") or 0)
        or sizes.get(text(field, "ExtendedDataType"), UNLIMITED)
        for field in fields
    }


def names(table: str) -> list[str]:
    return list(field_lengths(table))


def test_every_object_stands_in_the_file_and_folder_of_its_name() -> None:
    assert len(OBJECTS) > 40
    for path, root in OBJECTS.items():
        assert (path.parent.name, path.stem) == (tag(root), text(root, "Name"))


def test_every_element_has_the_children_and_the_order_of_published_metadata() -> None:
    for path, root in OBJECTS.items():
        if tag(root) == "AxForm":  # no shape at hand; it follows the pattern SimpleList
            continue
        for element in root.iter():
            children = [tag(child) for child in element]
            if not children:
                continue
            where = (path.name, tag(element), children)
            if tag(element) in LISTS:
                assert set(children) == {LISTS[tag(element)]}, where
            elif tag(element) not in LISTS_OF_SEVERAL:
                order = SHAPES[tag(element)]
                places = [order.index(child) for child in children]
                assert places == sorted(set(places)), where


def test_the_descriptor_names_the_model_and_the_folder_it_stands_in() -> None:
    root = xml(DESCRIPTOR)
    assert tag(root) == "AxModelInfo"
    assert text(root, "Name") == text(root, "ModelModule") == MODEL.name == MODEL.parent.name
    assert DESCRIPTOR.stem == text(root, "Name")
    # ISV and up only: Microsoft's own layers are not to be written to.
    assert int(text(root, "Layer")) >= 8
    used = {reference.text for reference in every(root, "ModuleReferences/string")}
    assert {"ApplicationPlatform", "ApplicationFoundation", "ApplicationSuite"} <= used


def labels() -> dict[str, str]:
    path = MODEL / "AxLabelFile" / "LabelResources" / "en-US" / "OAuthCb.en-US.label.txt"
    return dict(line.split("=", 1) for line in path.read_text("utf-8").splitlines())


def test_every_label_that_is_used_exists_and_the_other_way_round() -> None:
    sources = "".join(path.read_text("utf-8") for path in OBJECTS)
    assert set(re.findall(r"@OAuthCb:(\w+)", sources)) == set(labels())
    root = named("AxLabelFile")["OAuthCb_en-US"]
    relative = text(root, "RelativeUriInModelStore").replace("\\", "/")
    assert (MODEL.parent.parent / relative).is_file()
    assert relative.endswith("/" + text(root, "LabelContentFileName"))


def test_no_refusal_reads_like_the_duplicate_that_the_relay_takes_for_a_success() -> None:
    assert not [label for label in labels().values() if "already exists" in label.casefold()]


def test_every_field_has_a_type_that_exists() -> None:
    own = {*named("AxEdt"), *named("AxEnum")}
    standard = {"DataAreaId", "EncryptedField", "Name", "Notes", "NoYes", "NoYesId"}
    for table in named("AxTable").values():
        for field in every(table, "Fields/AxTableField"):
            used = {text(field, "ExtendedDataType"), text(field, "EnumType")} - {""}
            assert used <= own | standard, text(field, "Name")


def test_every_index_and_title_is_of_fields_that_exist() -> None:
    for name, table in named("AxTable").items():
        fields = set(names(name))
        assert {text(table, "TitleField1"), text(table, "TitleField2")} <= fields
        for index in every(table, "Indexes/AxTableIndex"):
            assert {
                text(f, "DataField") for f in every(index, "Fields/AxTableIndexField")
            } <= fields
        for group in every(table, "FieldGroups/AxTableFieldGroup"):
            assert {text(f, "DataField") for f in every(group, "Fields/*")} <= fields


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("OAuthCbInbox", "StateHash"),
        ("OAuthCbPendingState", "FlowName"),
        ("OAuthCbProvider", "ConnectionName"),
        ("OAuthCbToken", "ConnectionName"),
    ],
)
def test_a_unique_index_takes_each_key_once(table: str, key: str) -> None:
    root = named("AxTable")[table]
    primary = text(root, "PrimaryIndex")
    [index] = [i for i in every(root, "Indexes/AxTableIndex") if text(i, "Name") == primary]
    assert text(index, "AllowDuplicates") in ("", "No")
    assert text(index, "AlternateKey") == "Yes"
    assert [text(f, "DataField") for f in every(index, "Fields/AxTableIndexField")] == [key]
    assert text(root, "SaveDataPerCompany") == "No"  # once, and not once for each company
    assert field_lengths(table)[key] <= 64  # a memo cannot be indexed


def test_the_entity_is_public_and_has_the_fields_of_the_table_but_those_of_the_job() -> None:
    entity = named("AxDataEntityView")["OAuthCbEntity"]
    fields = every(entity, "Fields/AxDataEntityViewField")
    assert text(entity, "IsPublic") == "Yes"
    assert text(entity, "DataManagementEnabled") == "No"  # no export of codes
    assert not re.search(r"[_\d]", text(entity, "PublicEntityName") + "OAuthCallbacks")
    assert {text(field, "DataSource") for field in fields} == {"OAuthCbInbox"}
    assert [text(field, "Name") for field in fields] == [
        text(field, "DataField") for field in fields
    ]
    of_the_job = {"ClaimedAt", "HeldTokens", "Outcome", "Processed"}
    assert {text(field, "Name") for field in fields} == set(names("OAuthCbInbox")) - of_the_job
    keys = every(entity, "Keys/AxDataEntityViewKey/Fields/AxDataEntityViewKeyField")
    assert [text(key, "DataField") for key in keys] == ["StateHash"]
    assert text(entity, "PrimaryKey") == text(entity, "Keys/AxDataEntityViewKey/Name")


def test_tokens_are_encrypted_and_other_secrets_stand_in_no_table() -> None:
    tables = [
        every(named("AxTable")[name], "Fields/*") for name in ("OAuthCbToken", "OAuthCbInbox")
    ]
    encrypted = [f for t in tables for f in t if text(f, "ExtendedDataType") == "EncryptedField"]
    assert {text(f, "Name") for f in encrypted} == {"AccessToken", "RefreshToken", "HeldTokens"}
    kind = "{http://www.w3.org/2001/XMLSchema-instance}type"
    assert {f.get(kind) for f in encrypted} == {"AxTableFieldContainer"}
    # The model does not build with one name that the platform does not have.
    used = {name for _, _, source in SOURCES for name in re.findall(r"Global::(\w+)", bare(source))}
    assert used == {"editEncryptedField"}
    provider = [n for n in names("OAuthCbProvider") if re.search("Secret|Key", n)]
    assert set(provider) == {"ClientSecretName", "ClientSecretBasic", "KeyId", "StateKeyName"}


def rights(privilege: str) -> dict[str, set[str]]:
    """Return what a privilege grants, by object."""
    root = named("AxSecurityPrivilege")[privilege]
    granted = {
        text(p, "Name"): {tag(right) for right in every(p, "Grant/*")}
        for p in every(root, "DataEntityPermissions/AxSecurityDataEntityPermission")
    }
    for entry in every(root, "EntryPoints/AxSecurityEntryPointReference"):
        name = f"{text(entry, 'ObjectName')}.{text(entry, 'ObjectChildName')}"
        granted[name] = {tag(right) for right in every(entry, "Grant/*")}
    assert not every(root, "DirectAccessPermissions/*")
    return granted


def rights_of_role(role: str) -> list[dict[str, set[str]]]:
    root = named("AxSecurityRole")[role]
    assert not every(root, "Privileges/*")
    assert not every(root, "SubRoles/*")
    assert not every(root, "DirectAccessPermissions/*")
    duties = [text(duty, "Name") for duty in every(root, "Duties/AxSecurityDutyReference")]
    return [
        rights(text(privilege, "Name"))
        for duty in duties
        for privilege in every(
            named("AxSecurityDuty")[duty], "Privileges/AxSecurityPrivilegeReference"
        )
    ]


def test_the_role_of_the_relay_may_create_callbacks_and_reads_no_secret() -> None:
    # No published privilege of a data entity has Create without Read.
    assert rights_of_role("OAuthCbRelay") == [{"OAuthCbEntity": {"Create", "Read"}}]
    load = source_of("OAuthCbEntity", "postLoad")
    assert re.findall(r"this\.(\w+) = '';", load) == ["Code", "CodeVerifier"]
    assert rights_of_role("OAuthCbRelayByService") == [{"OAuthCallbackService.deliver": {"Invoke"}}]


def test_every_grant_is_one_that_allows() -> None:
    grants = [g for root in OBJECTS.values() for g in root.iter() if tag(g) == "Grant"]
    assert grants
    assert {right.text for grant in grants for right in grant} == {"Allow"}


def test_the_service_leads_to_a_method_that_exists() -> None:
    [service] = every(named("AxServiceGroup")["OAuthCallbackServices"], "Services/*")
    root = named("AxService")[text(service, "Service")]
    [operation] = every(root, "ServiceOperations/AxServiceOperation")
    assert text(operation, "Method") in METHODS[text(root, "Class")]
    assert text(operation, "Name") == text(operation, "Method")


def test_every_menu_item_and_form_leads_to_an_object_that_exists() -> None:
    actions, displays = named("AxMenuItemAction"), named("AxMenuItemDisplay")
    for item in actions.values():
        assert "main" in METHODS[text(item, "Object")]
    for item in displays.values():
        assert text(item, "Object") in named("AxForm")
    menu = named("AxMenuExtension")["SystemAdministration.OAuthCb"]
    entries = [text(e, "MenuItemName") for e in menu.iter() if tag(e) == "AxMenuElement"]
    buttons = [
        text(e, "MenuItemName")
        for form in named("AxForm").values()
        for e in form.iter()
        if tag(e) == "AxFormControl" and text(e, "MenuItemName")
    ]
    assert set(entries + buttons) == {*actions, *displays}
    pointed = [e for r in OBJECTS.values() for e in r.iter() if text(e, "ObjectType")]
    for entry in pointed:
        kind, target = text(entry, "ObjectType"), text(entry, "ObjectName") or text(entry, "Object")
        assert target in named(
            {"Class": "AxClass", "ServiceOperation": "AxService"}.get(kind, "Ax" + kind)
        )


def test_the_forms_show_fields_that_exist_and_no_secret() -> None:
    for name, form in named("AxForm").items():
        shown = {text(e, "DataField") for e in form.iter() if text(e, "DataField")}
        assert shown
        assert shown <= {*names(name), "CreatedBy", "CreatedDateTime"}
        assert not shown & {"Code", "CodeVerifier", "State", "HeldTokens"}


def test_every_form_has_the_controls_that_its_pattern_requires() -> None:
    for name, form in named("AxForm").items():
        assert text(form, "Design/Pattern") == "SimpleList"
        kinds = [text(c, "Type") for c in every(form, "Design/Controls/AxFormControl")]
        assert kinds == ["ActionPane", "Group", "Grid"], name


# -- Finance & Operations: X++ ---------------------------------------------------------------------


XPP_STRING = r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"


def bare(source: str) -> str:
    """Return X++ without comments and without what stands in strings."""
    kept = re.sub(
        rf"({XPP_STRING})|//[^\n]*|/\*.*?\*/",
        lambda found: "''" if found[1] else "",
        source,
        flags=re.DOTALL,
    )
    assert "'" not in kept.replace("''", "")
    assert '"' not in kept
    return kept


def balanced(source: str) -> bool:
    """Tell whether each bracket has its partner."""
    partners, opened = {")": "(", "]": "[", "}": "{"}, []
    for character in source:
        if character in partners.values():
            opened.append(character)
        elif character in partners and (not opened or opened.pop() != partners[character]):
            return False
    return not opened


def sources() -> Iterator[tuple[str, str, str]]:
    """Return object, method and source of all X++; a declaration has no method."""
    for root in OBJECTS.values():
        if tag(root) in ("AxClass", "AxTable", "AxDataEntityView"):
            name = text(root, "Name")
            yield name, "", text(root, "SourceCode/Declaration")
            for method in every(root, "SourceCode/Methods/Method"):
                yield name, text(method, "Name"), text(method, "Source")


SOURCES = list(sources())
IDS = [f"{owner}.{method}" for owner, method, _ in SOURCES]
METHODS = {
    name: {method for owner, method, _ in SOURCES if owner == name and method}
    for name, _, _ in SOURCES
}
BUFFER = {"RecId", "CreatedDateTime", "RowCount", "insert", "update"}


def source_of(owner: str, method: str) -> str:
    [source] = [s for o, m, s in SOURCES if (o, m) == (owner, method)]
    return source


def declared(source: str) -> str:
    """Return the name that the first declaration of a source has."""
    lines = [line.strip() for line in source.splitlines()]
    [first, *_] = [line for line in lines if line and not line.startswith(("///", "["))]
    found = re.search(r"(\w+)\(", first)
    return found[1] if found else first.split()[-1] if " extends " not in first else ""


@pytest.mark.parametrize(("owner", "method", "source"), SOURCES, ids=IDS)
def test_every_source_is_one_whole_piece_of_code(owner: str, method: str, source: str) -> None:
    code = bare(source)
    assert balanced(code)
    depth, ends = 0, 0
    for brace in re.findall("[{}]", code):
        depth += 1 if brace == "{" else -1
        ends += depth == 0
    assert ends == 1, "one declaration, or one method"
    if method:
        assert declared(source) == method
    else:
        assert re.search(rf"\bclass {owner}\b", code)


@pytest.mark.parametrize(("owner", "method", "source"), SOURCES, ids=IDS)
def test_no_source_has_what_x_plus_plus_has_not(owner: str, method: str, source: str) -> None:
    foreign = (
        r"\$'|=>|\?\?|\?\.|\b(foreach|async|await|string|bool|namespace|yield|out|ref)\b"
        r"|\bnew \w+\[\]|\bnull!|\bnameof\b|\breadonly\b"
    )
    assert not re.search(foreign, bare(source)), (owner, method)


def test_every_call_leads_to_a_method_that_exists() -> None:
    calls = [
        (owner, method, target, member)
        for owner, method, source in SOURCES
        for target, member in re.findall(r"\b(OAuth\w+)::(\w+)", bare(source))
    ]
    assert len(calls) > 40
    constants = {
        (owner, name)
        for owner, method, source in SOURCES
        if not method
        for name in re.findall(r"const \w+ (\w+) =", source)
    }
    values = {
        (name, text(value, "Name"))
        for name, root in named("AxEnum").items()
        for value in every(root, "EnumValues/AxEnumValue")
    }
    for owner, method, target, member in calls:
        known = member in METHODS.get(target, ()) or (target, member) in constants | values
        assert known, (owner, method, target, member)


def test_every_type_of_ours_exists() -> None:
    kinds = ("AxClass", "AxTable", "AxEdt", "AxEnum", "AxDataEntityView")
    known = {name for kind in kinds for name in named(kind)}
    for owner, method, source in SOURCES:
        assert set(re.findall(r"\bOAuth\w+\b", bare(source))) <= known, (owner, method)


def test_every_field_and_method_of_a_record_exists() -> None:
    seen = Counter[str]()
    tables = named("AxTable")
    for owner, method, source in SOURCES:
        code = bare(source)
        records = {
            name: table
            for table, name in re.findall(r"\b(OAuth\w+) (_?\w+)\s*[;,)=]", code)
            if table in tables
        }
        if owner in tables:
            records["this"] = owner
        if owner == "OAuthCbTokenClient":
            records["provider"] = "OAuthCbProvider"
        if owner == "OAuthCbEntity":
            records["this"] = "OAuthCbInbox"
        for name, table in records.items():
            for member in re.findall(rf"(?<![.\w]){name}\.(\w+)", code):
                known = {*names(table), *METHODS[table]} | BUFFER
                assert member in known, (owner, method, name, member)
                seen[table] += 1
    assert set(seen) == set(tables)


def test_every_method_that_is_called_on_an_object_exists() -> None:
    inherited = {"startOperation"}
    seen = 0
    for owner, method, source in SOURCES:
        code = bare(source)
        objects = {
            name: kind
            for kind, name in re.findall(r"\b(OAuth\w+) (_?\w+)\s*[;,)=]", code)
            if kind in named("AxClass")
        }
        if owner in named("AxClass"):
            objects["this"] = owner
        for name, kind in objects.items():
            for called in re.findall(rf"(?<![.\w]){name}\.(\w+)\(", code):
                assert called in METHODS[kind] | inherited, (owner, method, name, called)
                seen += 1
    assert seen > 30


def test_every_statement_of_a_transaction_has_its_end() -> None:
    for owner, method, source in SOURCES:
        code = bare(source)
        assert code.count("ttsbegin;") == code.count("ttscommit;"), (owner, method)


def messages(source: str) -> list[str]:
    """Return what a source shows, throws or logs."""
    return re.findall(r"\b(?:error|info|warning|checkFailed|strFmt)\(([^;]*)\);", source)


def test_no_message_has_more_than_a_label_and_a_name() -> None:
    shown = [(o, m, said) for o, m, source in SOURCES for said in messages(source)]
    assert len(shown) > 8
    label = r'"@OAuthCb:\w+"'
    allowed = (
        rf"{label}|strFmt\({label}, (_name|_connectionName)\)|Error::missingRecord\(funcName\(\)\)"
    )
    for owner, method, said in shown:
        assert re.fullmatch(allowed, said), (owner, method, said)


def test_forms_go_out_encoded_and_nothing_builds_json_but_the_minting() -> None:
    for owner, method, source in SOURCES:
        where = (owner, method)
        assert "HttpUtility" not in source, where
        joins = owner in ("OAuthCbAuthorizationUrl", "OAuthCbTokenClient")
        assert not re.search(r"'[^'\n]*\w=['&]", source) or joins, where
        if owner != "OAuthCbRelayToken":
            assert not re.search(r"""'\s*[{\[]\s*"|"\s*:\s*'|'[^'\n]*",\s*"[^'\n]*'""", source), (
                where
            )
    post = source_of("OAuthCbTokenClient", "send")
    assert "http.PostAsync(provider.TokenEndpoint, content)" in post
    assert "StringContent content = OAuthCbTokenClient::form(_parameters)" in post
    assert "handler.AllowAutoRedirect = false;" in post
    assert "http.Timeout = " in post
    form = source_of("OAuthCbTokenClient", "form")
    assert re.findall(r"EscapeDataString\((\w+)\)", form) == ["name", "value"]
    assert "'application/x-www-form-urlencoded'" in form
    # Name and value each alone, exactly once.
    add = source_of("OAuthCbAuthorizationUrl", "add")
    assert re.findall(r"EscapeDataString\((\w+)\)", add) == ["name", "value"]


def test_what_has_to_be_disposed_is() -> None:
    owned = r"new System\.Net\.Http\.HttpClient\(|SHA256::Create\(\)|PostAsync\(|::form\("
    for owner, method, source in SOURCES:
        for found in re.finditer(owned, source):
            before = source[: found.start()].rpartition(";")[2]
            assert "using (" in before, (owner, method, found[0])


def test_a_code_is_redeemed_with_the_redirect_uri_and_verifier_of_its_flow() -> None:
    redeem = source_of("OAuthCbTokenClient", "redeem")
    sent = re.findall(r"insert\('(\w+)', ([^;]+)\);", redeem)
    assert dict(sent) == {
        "grant_type": "'authorization_code'",
        "code": "_code",
        "redirect_uri": "_redirectUri != '' ? _redirectUri : provider.RedirectUri",
        "code_verifier": "_codeVerifier",
    }
    assert "this.CodeVerifier = pending.CodeVerifier;" in source_of("OAuthCbInbox", "insert")


def test_what_two_sessions_may_change_is_locked_first() -> None:
    for method in ("claim", "putBack", "hold", "note", "close"):
        code = bare(source_of("OAuthCbInbox", method))
        assert code.index("ttsbegin") < code.index("pessimisticlock") < code.index("ttscommit")
    for method in ("save", "prove", "lease", "endLease"):
        code = bare(source_of("OAuthCbTokenStore", method))
        locked = re.search(r"lockRow\(|lockFor\(", code)
        assert locked
        assert code.index("ttsbegin") < locked.start() < code.index("ttscommit")
    assert "pessimisticlock" in source_of("OAuthCbToken", "lockFor")


def test_no_request_is_sent_within_a_transaction() -> None:
    for owner, method, source in SOURCES:
        code = bare(source)
        for request in re.finditer(r"\.(?:redeem|refresh|PostAsync)\(", code):
            opened = code[: request.start()].count("ttsbegin") - code[: request.start()].count(
                "ttscommit"
            )
            assert opened == 0, (owner, method)


def test_whatever_a_row_throws_is_caught_outside_a_transaction() -> None:
    alone = bare(source_of("OAuthCbRedeemService", "advanceAlone"))
    assert re.search(r"catch\s*\{", alone)
    assert "tts" not in alone
    assert "this.advanceAlone(" in source_of("OAuthCbRedeemService", "process")
    job = AL_SOURCES[AL / "OAuthRedeemJob.Codeunit.al"]
    assert 'if not Codeunit.Run(Codeunit::"OAuth Redemption", Callback) then' in job


def test_entity_and_service_ask_the_same_check_and_the_service_lets_duplicates_through() -> None:
    assert "OAuthCbCheck::accepts(" in source_of("OAuthCbEntity", "validateWrite")
    deliver = bare(source_of("OAuthCbService", "deliver"))
    assert deliver.index("OAuthCbCheck::accepts(") < deliver.index("inbox.insert()")
    assert "catch" not in deliver


def test_a_repeated_delivery_reaches_the_unique_index() -> None:
    check = bare(source_of("OAuthCbCheck", "accepts"))
    order = [
        "OAuthCbState::hash(",
        "OAuthCbInbox::exist(",
        "Used ==",
        "StateHash &&",
        "LeewaySeconds",
    ]
    places = [check.index(piece) for piece in order]
    assert places == sorted(places)


KEYWORDS = frozenset(
    # https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/dev-ref/xpp-syntax#x-keywords
    """
    abstract anytype as asc at avg break breakpoint by byref case catch changecompany class client
    container continue count crosscompany date default delegate delete_from desc display div do edit
    else eventhandler exists extends false final firstfast firstonly firstonly10 firstonly100
    firstonly1000 flush for forceliterals forcenestedloop forceplaceholders forceselectorder
    forupdate from group if implements insert_recordset int int64 interface is join like maxof minof
    mod new next nofetch notexists null optimisticlock order outer pause pessimisticlock print
    private protected public real repeatableread retry return reverse select server setting static
    str sum super switch tablelock this throw true try ttsabort ttsbegin ttscommit update_recordset
    validtimestate void where while window
    """.split()  # noqa: SIM905 - a list of words as it is published
)
TYPES = frozenset(("anytype", "container", "date", "int", "int64", "real", "str", "void"))


def test_no_name_in_x_plus_plus_is_a_reserved_word() -> None:
    seen = set()
    for owner, method, source in SOURCES:
        code = bare(source)
        declared_ = re.findall(r"([\w.]+)(?:\[\])? (\w+)\s*(?=[=;,)(])", code)
        given = {n for kind, n in declared_ if kind.lower() not in KEYWORDS - TYPES}
        seen |= given
        assert not {name for name in given if name.lower() in KEYWORDS - {"new"}}, (owner, method)
    fields = {name for table in named("AxTable") for name in names(table)}
    assert not {name for name in fields if name.lower() in KEYWORDS}
    assert {"tokenClient", "token", "_pending", "verdict"} <= seen


def test_the_model_uses_no_generic_type_and_every_element_has_the_prefix() -> None:
    for owner, method, source in SOURCES:
        assert not re.search(r"<\w+(, ?\w+)*>", bare(source)), (owner, method)
    # The address of the custom service is public, and so are the names in it.
    public = {"OAuthCallbackService", "OAuthCallbackServices"}
    elements = {text(root, "Name") for root in OBJECTS.values()} - public
    assert all(
        name.removeprefix("SystemAdministration.").startswith("OAuthCb") for name in elements
    )


# -- one program in three languages ----------------------------------------------------------------

README = (DYNAMICS / "README.md").read_text("utf-8")
CSHARP = PLUGIN.read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the table under a heading of the README, without its head."""
    section = README.partition(f"### {heading}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_three_have_the_states_of_the_readme_in_its_order() -> None:
    states = [(row[0], row[1]) for row in rows("States")]
    assert len(states) == 10
    found = re.findall(r"internal const string (\w+) = \"([^\"]+)\";", CSHARP)
    assert [(shown, name) for name, shown in found] == states
    for enum in (
        [
            text(v, "Name")
            for v in every(named("AxEnum")["OAuthCbOutcome"], "EnumValues/AxEnumValue")
        ],
        re.findall(r"value\(\d+; (\w+)\)", AL_SOURCES[AL / "OAuthCallbackOutcome.Enum.al"]),
    ):
        assert enum == [name for _, name in states]


def after(source: str, start: str) -> str:
    found = source.partition(start)
    assert found[1], start
    return found[2]


ORDER = {
    "C#, a callback": (
        after(CSHARP, "class CheckCallback"),
        *(
            "stateHash != Hash(state)",
            "Lock(dataverse",
            "IsOfAnsweredTicket(",
            "stored != null",
            "RequireActiveKey(",
        ),
        *("Matches(pending", '"oacb_used") && !replaces', "expiresat", "dataverse.Delete(stored"),
        "Take(dataverse",
    ),
    "AL, a callback": (
        after((AL / "OAuthPendingStates.Codeunit.al").read_text("utf-8"), "procedure Take("),
        *(
            "<> State.Hash(",
            "UpdLock",
            'Callback."Flow Name"',
            "Stored.Get(",
            "exit;",
            "UnknownErr",
            "PendingState.Used and",
        ),
        *(
            "ExpiredErr",
            "Stored.Delete()",
            'PendingState."Code Verifier"',
            "PendingState.Used := true",
        ),
    ),
    "X++, a callback": (
        source_of("OAuthCbCheck", "accepts") + source_of("OAuthCbInbox", "insert"),
        *("OAuthCbState::hash(", "OAuthCbInbox::exist(", "StateUnknown", "StateExpired"),
        *(
            "lockFlow(",
            "::isAnswered(",
            "deleteDeclined(",
            "pending.CodeVerifier",
            "super()",
            "::take(",
        ),
    ),
    "C#, a job": (
        after(CSHARP, "private void Redeem(Entity"),
        *("this.Prepare()", "Outcome.NotSetUp", "this.Claim(", "this.Ask(", "this.Store("),
    ),
    "X++, a job": (
        source_of("OAuthCbRedeemService", "redeem"),
        *("OAuthCbTokenClient::ready(", "OAuthCbTokenStore::prove(", "OAuthCbOutcome::NotSetUp"),
        *("OAuthCbInbox::claim(", "tokenClient.redeem(", "this.store("),
    ),
    "AL, a job": (
        after((AL / "OAuthRedemption.Codeunit.al").read_text("utf-8"), "procedure Redeem("),
        *("Connection.Get(", "TokenClient.IsReady(", "::NotSetUp", "Claim(", "TokenClient.Redeem("),
        "Store(",
    ),
    "C#, to prepare": (
        after(CSHARP, "private Preparation Prepare()"),
        *("Uri.UriSchemeHttps", "vault.Get(", "IsNullOrEmpty(secret)", "vault.Set("),
    ),
    "X++, to prepare": (
        source_of("OAuthCbTokenClient", "ready") + source_of("OAuthCbTokenStore", "prove"),
        *("'https://'", "OAuthCbSecret::read(", "lockRow(", "accessTokenValue(true"),
    ),
    "AL, to prepare": (
        after((AL / "OAuthTokenClient.Codeunit.al").read_text("utf-8"), "procedure IsReady("),
        *("IsHttps(", "ClientSecretKind()) = ''", "Secrets.CanStore("),
    ),
}


@pytest.mark.parametrize("name", ORDER)
def test_the_three_keep_the_order_of_the_readme(name: str) -> None:
    source, *pieces = ORDER[name]
    place = 0
    for piece in pieces:
        found = source.find(piece, place)
        assert found >= 0, piece
        place = found


def test_a_claimed_callback_has_neither_code_nor_verifier() -> None:
    claim = after(CSHARP, "private void Claim(")
    assert claim.index('row["oacb_codeverifier"] = null') < claim.index("private ")
    xpp = source_of("OAuthCbInbox", "claim")
    al = after((AL / "OAuthRedemption.Codeunit.al").read_text("utf-8"), "procedure Claim(")
    for code, emptied in (
        (xpp, ("inbox.Code = '';", "inbox.CodeVerifier = '';", "inbox.update();")),
        (al, ('Clear(Claimed."Code")', 'Clear(Claimed."Code Verifier")', "Commit();")),
    ):
        places = [code.index(piece) for piece in emptied]
        assert places == sorted(places)


def judges() -> dict[str, list[tuple[str, str]]]:
    """Return each language's conditions in Python's words, and the verdict behind each."""
    csharp = after(CSHARP, "internal static TokenAnswer Of(int status, string body)")
    csharp = csharp.partition("internal static double")[0]
    found = re.findall(r"if \((.*?)\)\n\s+\{\s+return Of\(Verdict\.(\w+)\)", csharp, re.DOTALL)
    xpp = source_of("OAuthCbTokenResponse", "judge")
    xpp_found = re.findall(r"if \((.*)\)\n\s+\{\s+answerVerdict = OAuthCbVerdict::(\w+);", xpp)
    al = after((AL / "OAuthTokenClient.Codeunit.al").read_text("utf-8"), "procedure Judge(")
    al_found = re.findall(
        r"if (.*) then\n\s+exit\(\"OAuth Verdict\"::(\w+)\);", al.partition("end;")[0]
    )
    last = "access == ''"
    assert 'Json.Text(answer, "access_token").Length > 0' in csharp
    assert "accessToken != '' ? OAuthCbVerdict::Tokens : OAuthCbVerdict::Unreachable" in xpp
    return {
        "C#": [*found, (last, "Unreachable")],
        "X++": [*xpp_found, (last, "Unreachable")],
        "AL": al_found,
    }


def holds(condition: str, status: int, error: str, access: str) -> bool:
    """Evaluate a condition of one of the three languages."""
    words = (
        (r"\|\|", " or "),
        (r"&&", " and "),
        (r"<>", "!="),
        (r"\[(\d+) \.\. (\d+), (\d+)\]", r"[*range(\1, \2 + 1), \3]"),
        (r"error\.Length > 0", "error != ''"),
        (r"Member\(Answer, 'access_token'\) = ''", "access == ''"),
        (r"\b_?status\b|\bStatus\b", "status"),
        (r"\b(errorCode|ErrorCode)\b", "error"),
    )
    for old, new in words:
        condition = re.sub(old, new, condition)
    return bool(eval(condition, {"status": status, "error": error, "access": access}))  # noqa: S307


def samples() -> Iterator[tuple[int, str, str, str]]:
    """Return status, error, token and verdict for each row of the README; the first one counts."""
    seen = set()
    for statuses, errors, tokens, verdict in rows("Verdicts"):
        numbers = [
            number
            for part in statuses.split(", ")
            for number in ([0] if part == "none" else [int(n) for n in part.split("–")])  # noqa: RUF001 - as it is printed
        ]
        codes = {"any": ["", "invalid_grant", "invalid_client"], "none": [""]}.get(errors)
        for number in numbers:
            for error in codes or errors.split(", "):
                for access in {"any": ["", "at"], "none": [""]}.get(tokens, ["at"]):
                    if (number, error, access) not in seen:
                        seen.add((number, error, access))
                        yield number, error, access, verdict


@pytest.mark.parametrize("language", ["C#", "X++", "AL"])
def test_the_three_judge_an_answer_as_the_readme_does(language: str) -> None:
    conditions = judges()[language]
    assert len(conditions) == 5
    for status, error, access, verdict in samples():
        given = [v for c, v in conditions if holds(c, status, error, access)] + ["Tokens"]
        assert given[0] == verdict, (status, error, access)


def al(name: str) -> str:
    return (AL / f"{name}.al").read_text("utf-8")


def test_all_three_ask_for_json_over_https_and_send_no_secret_elsewhere() -> None:
    xpp = source_of("OAuthCbTokenClient", "authenticate") + source_of("OAuthCbTokenClient", "ready")
    assert "headers.Add('Accept', 'application/json');" in xpp
    assert "strStartsWith(strLwr(_provider.TokenEndpoint), 'https://')" in xpp
    client = al("OAuthTokenClient.Codeunit")
    assert "Add('Accept', 'application/json')" in client
    send = after(client, "local procedure Send(").partition("end;")[0]
    assert send.index("IsHttps(Connection)") < send.index("Authenticate(") < send.index("Post(")
    # The client of AL follows redirects: it is tried without a secret before anything is started.
    probe = after(client, "procedure AnswersAsTokenEndpoint(").partition("end;")[0]
    assert "Secret" not in probe
    assert "code'" not in probe.replace("'authorization_code'", "")
    start = after(al("OAuthFlow.Codeunit"), "procedure Start(")
    assert start.index("AnswersAsTokenEndpoint(Connection)") < start.index("Hyperlink(")


def test_secrets_are_read_in_the_company_of_the_connection() -> None:
    read = bare(source_of("OAuthCbSecret", "read"))
    block = read.partition("changecompany(_company)")[2]
    assert re.search(r"from parameter\s+where parameter\.Name == _name;", block)
    assert "getManualSecretValue(parameter.RecId)" in block
    for owner, method, source in SOURCES:
        for company in re.findall(r"OAuthCbSecret::read\((\w+\.\w+), ", source):
            assert company == "_provider.Company", (owner, method)


def test_a_secret_of_business_central_follows_its_record_and_is_read_in_one_piece() -> None:
    for path, source in AL_SOURCES.items():
        owners = re.findall(r"Secrets\.(?:Set|Get|DeleteAll|CanStore)\(([\w.]+)", source)
        assert all(o.endswith("SystemId") or o == "ConnectionId" for o in owners), path.name
    assert "Secrets.DeleteAll(Rec.SystemId);" in after(
        al("OAuthConnection.Table"), "trigger OnDelete()"
    )
    secrets = after(al("OAuthSecrets.Codeunit"), "procedure Set(").partition("end;\n\n")[0]
    places = [secrets.index(p) for p in ("PieceKey(", "SetEncrypted(Entry(", "DeletePieces(")]
    assert places == sorted(places), "new pieces, then the entry, then the old pieces go"


def test_whoever_uses_a_token_cannot_change_a_connection() -> None:
    granted = after(al("OAuthCBUse.PermissionSet"), "Permissions =")
    assert re.findall(r'tabledata "([^"]+)" = (\w+)', granted) == [("OAuth Connection", "rm")]
    assert "page " not in granted
    for name in ("OAuthTokens.Codeunit", "OAuthTokenSaver.Codeunit"):
        assert 'Permissions = tabledata "OAuth Connection" = rm;' in al(name)


def test_a_lifetime_overflows_nowhere_and_is_not_invented() -> None:
    xpp = source_of("OAuthCbTokenResponse", "expiresAt")
    assert xpp.index("return utcDateTimeNull();") < xpp.index("str2Num(lifetime)")
    assert "max(min(seconds, OAuthCbTokenResponse::LongestSeconds), 0.0)" in xpp
    expires = after(al("OAuthTokenClient.Codeunit"), "procedure ExpiresAt(").partition(
        "\n    end;"
    )[0]
    assert "Milliseconds: BigInteger;" in expires
    assert "Seconds * 1000" not in expires
    assert expires.count("exit(0DT);") == 4
    for due in (
        source_of("OAuthCbTokenStore", "isDue"),
        after(al("OAuthTokens.Codeunit"), "IsDue("),
    ):
        assert re.search(r"utcDateTimeNull\(\)|= 0DT", due)


def test_a_renewal_is_sent_between_two_transactions() -> None:
    renew = bare(source_of("OAuthCbTokenStore", "renew"))
    order = ["::lease(", ".refresh(", "::save("]
    assert [renew.index(piece) for piece in order] == sorted(renew.index(piece) for piece in order)
    tokens = after(al("OAuthTokens.Codeunit"), "local procedure Renew(")
    order = ["Commit();", "Lease(", "TokenClient.Refresh(", "TokenSaver.Run()", "EndLease("]
    assert [tokens.index(piece) for piece in order] == sorted(tokens.index(p) for p in order)
    lease = after(al("OAuthTokens.Codeunit"), "local procedure Lease(").partition("\n    end;")[0]
    assert lease.index("UpdLock") < lease.index("Connection.Modify()") < lease.index("Commit()")


# -- what the X++ and the AL mint, the relay takes -------------------------------------------------


def unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def signed(name: str = "xero") -> Connection:
    return dataclasses.replace(
        connection(name=name, provider=Provider(redirect_uri="https://relay.example/callback")),
        state_policy=StatePolicy.SIGNED,
        state_keys={"k1": KEY},
    )


def joined(expression: str, values: Mapping[str, str]) -> str:
    """Return what an X++ expression of joined strings is."""
    pieces = re.findall(r"'([^']*)'|int642Str\((\w+)\)|(\w+)", expression)
    return "".join(
        values[inner or name] if inner or name else literal for literal, inner, name in pieces
    )


def replaced(source: str, given: str) -> str:
    """Do the strReplace calls of an X++ source, the innermost first."""
    for old, new in re.findall(r"'(.)', '(.?)'\)", source):
        given = given.replace(old, new)
    return given


def minted_by_xpp(use: str, jti: str, exp: int, env: str = "") -> str:
    """Follow OAuthCbRelayToken step by step; what its source says is done, not what we know."""
    prefix = re.search(r"mint\('(\w+:)' \+", source_of("OAuthCbRelayToken", use))
    mint = source_of("OAuthCbRelayToken", "mint")
    lines = dict(re.findall(r"str (header|claims) = (.*);", mint))
    encode = source_of("OAuthCbRelayToken", "toBase64Url")
    decode = source_of("OAuthCbRelayToken", "fromBase64Url")
    assert prefix
    values = {"_kid": "k1", "_aud": f"{prefix[1]}xero", "_exp": str(exp), "_jti": jti}
    named_ = re.search(r"str env = _env == '' \? '' : (.*);", mint)
    assert named_
    values["env"] = joined(named_[1], {"_env": env}) if env else ""

    def to_base64_url(raw: bytes) -> str:
        return replaced(encode, base64.b64encode(raw).decode())

    text_ = ".".join(
        to_base64_url(joined(lines[part], values).encode()) for part in ("header", "claims")
    )
    key = base64.b64decode(replaced(decode, unpadded(KEY)) + "=", validate=True)
    return f"{text_}.{to_base64_url(hmac.digest(key, text_.encode(), 'sha256'))}"


def minted_by_al(use: str, jti: str, exp: int, env: str = "") -> str:
    """Follow codeunit OAuth State step by step."""
    source = (AL / "OAuthState.Codeunit.al").read_text("utf-8")
    prefix = re.search(rf"procedure Mint{use}.*?Mint\('(\w+:)'", source, re.DOTALL)
    assert prefix
    values: dict[str, Any] = {
        'Connection."Key ID"': "k1",
        "Audience": f"{prefix[1]}xero",
        "UnixTimestamp.CreateTimestampSeconds() + Seconds": exp,
        "FlowName": jti,
        'LowerCase(Connection."Environment Name")': env,
    }
    assert "if Connection.\"Environment Name\" <> '' then\n            Claims.Add('env'" in source
    parts = []
    for part in ("Header", "Claims"):
        added = re.findall(rf"{part}\.Add\('(\w+)', (.+)\);", source)
        members = {
            name: value.strip("'") if "'" in value else values[value] for name, value in added
        }
        members = {name: value for name, value in members.items() if value}
        parts.append(json.dumps(members, separators=(",", ":")).encode())
    [alphabet] = re.findall(r"ConvertStr\(DelChr\(Base64, '=', '='\), '(..)', '(..)'\)", source)

    def to_url_alphabet(raw: bytes) -> str:
        return base64.b64encode(raw).decode().replace("=", "").translate(str.maketrans(*alphabet))

    text_ = ".".join(map(to_url_alphabet, parts))
    assert (
        "GenerateBase64KeyedHashAsBase64String(Signed, StateKey, HashAlgorithm::HMACSHA256)"
        in source
    )
    return f"{text_}.{to_url_alphabet(hmac.digest(KEY, text_.encode(), 'sha256'))}"


EXP = int((NOW + timedelta(minutes=10)).timestamp())
STATES: Mapping[str, Callable[[], str]] = {
    "X++": lambda: minted_by_xpp("state", JTI, EXP),
    "AL": lambda: minted_by_al("State", "0123456789abcdef" * 2, EXP),
    "the relay": lambda: state.mint(signed(), JTI, NOW, timedelta(minutes=10), "cookie"),
}


@pytest.mark.parametrize("minter", ["X++", "AL"])
def test_a_state_that_dynamics_mints_is_believed(minter: str) -> None:
    mint = {"X++": minted_by_xpp, "AL": minted_by_al}[minter]
    # Of so many signatures some have each character that differs between the two alphabets.
    many = [mint("state" if minter == "X++" else "State", JTI, EXP + s) for s in range(40)]
    assert {"-", "_"} <= set("".join(minted.split(".")[2] for minted in many))
    for minted in many:
        assert state.verify(response(state=minted), signed(), "", NOW).state == minted


@pytest.mark.parametrize("minter", ["X++", "AL"])
def test_a_state_names_the_environment_that_the_connection_names(minter: str) -> None:
    mint, use = {"X++": (minted_by_xpp, "state"), "AL": (minted_by_al, "State")}[minter]
    payload = mint(use, JTI, EXP, "uat-2").split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims == {"aud": "callback:xero", "exp": EXP, "jti": JTI, "env": "uat-2"}


def test_nothing_is_minted_in_a_copy_of_another_environment() -> None:
    main = bare(source_of("OAuthCbConnect", "main"))
    assert main.index("OAuthCbEnvironment::requireSame(provider)") < main.index("startHere(")
    flow = AL_SOURCES[AL / "OAuthFlow.Codeunit.al"]
    assert flow.index("Connection.TestEnvironment();") < flow.index("StartAtRelay(Connection)")


def test_the_browser_is_sent_away_by_the_documented_method() -> None:
    """`navigate(str downloadUrl, [boolean openInNewTab], [boolean showExitWarning])`.

    https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/dev-ref/system-classes/xbrowser-class
    """
    uses = [
        use.removeprefix("browser.")
        for owner, method, source in SOURCES
        for use in re.findall(r"(?:Browser browser = .*|browser\..*)(?=;)", bare(source))
    ]
    assert uses == ["Browser browser = new Browser()", "navigate(url, true)"]


def test_a_ticket_that_dynamics_mints_is_believed() -> None:
    ticket = minted_by_xpp("ticket", JTI, EXP)
    assert state.verify_ticket(ticket, signed(), NOW).jti == JTI
    ticket = minted_by_al("Ticket", JTI, EXP)
    assert state.verify_ticket(ticket, signed(), NOW).jti == JTI


def test_the_minting_class_is_the_one_of_the_minting_page() -> None:
    page = (ROOT / "docs" / "minting.md").read_text("utf-8")
    documented = [
        code for code in re.findall(r"```xpp\n(.*?)```", page, re.DOTALL) if "class" in code
    ]
    declaration, *methods = [s for owner, _, s in SOURCES if owner == "OAuthCbRelayToken"]
    whole = [declaration.strip().removesuffix("}"), *methods, "}"]
    assert ["".join("".join(whole).split())] == ["".join(code.split()) for code in documented]


FLOW_NAME = r"\(\?<=(?P<before>.*?)\)(?P<name>\[.*?\]\{\d+,\d+\})\(\?=(?P<after>.*?)\)"


@pytest.mark.parametrize("minter", STATES)
@pytest.mark.parametrize("language", ["X++", "C#"])
def test_the_name_of_the_flow_is_found_in_every_state(minter: str, language: str) -> None:
    source = (
        source_of("OAuthCbState", "flowName") if language == "X++" else PLUGIN.read_text("utf-8")
    )
    found = re.search(FLOW_NAME, source)
    assert found
    # Python has no look-behind of several lengths; a group does the same.
    before, after = (found[part].replace('\\"', '"') for part in ("before", "after"))
    payload = STATES[minter]().split(".")[1]
    claims = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
    name = re.search(f"{before}({found['name']}){after}", claims)
    assert name
    assert name[1] == json.loads(claims)["jti"]


def test_dynamics_and_the_relay_hash_a_state_alike() -> None:
    source = source_of("OAuthCbState", "hash")
    assert (
        "hash = System.BitConverter::ToString(sha256.ComputeHash(utf8.GetBytes(_state)));" in source
    )
    lowered = re.search(r"return strLwr\((strReplace\(hash, .*\))\);", source)
    assert lowered
    # BitConverter writes AB-CD-EF.
    digest = hashlib.sha256(str(sent()["state"]).encode()).hexdigest().upper()
    hashed = replaced(lowered[1], "-".join(re.findall("..", digest))).lower()
    assert hashed == sent()["state_hash"]


def test_the_challenge_is_the_one_of_rfc_7636() -> None:
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    digest = base64.b64encode(hashlib.sha256(verifier.encode()).digest()).decode()
    challenge = replaced(source_of("OAuthCbPkce", "challenge"), digest)
    assert challenge == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert challenge == state.fingerprint(verifier)


# -- the pages: what the relay sends, the objects take ---------------------------------------------


def blocks(page: str) -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGES[page], re.DOTALL)]


def app_settings(page: str) -> dict[str, str]:
    [rows] = [block for block in blocks(page) if isinstance(block, list)]
    assert all(set(row) == {"name", "value", "slotSetting"} for row in rows)
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row["value"] for row in rows}


def resolved(page: str) -> dict[str, str]:
    """Return a page's settings as the app sees them: references to Key Vault have their values."""
    given = app_settings(page)
    secrets = {
        "ENTRA_CLIENT_SECRET": "secret",
        "STATE_KEYS": f"k1:{unpadded(KEY)}",
        "OUTBOX_KEYS": unpadded(KEY) + "=",
    }
    for name, value in given.items():
        assert value.startswith("@Microsoft.KeyVault(") == (name in secrets), name
    return {name: secrets.get(name, value) for name, value in given.items()}


def members(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Return the leaves of a body with their names."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from members(value, name)
    else:
        yield path, node


def sent() -> dict[str, str | None]:
    """Return the longest values that the relay sends."""
    answer = VerifiedResponse(
        code="c" * MAX_CODE,
        state="s" * state.MAX_SIZE,
        error="e" * MAX_VALUE,
        error_description="d" * MAX_DESCRIPTION,
        error_uri=None,
        iss="i" * MAX_VALUE,
        session_state=None,
        code_verifier="v" * 43,
        redirect_uri="https://relay.example/callback/" + "x" * 969,
        implicit=False,
        extra={},
    )
    flow = dataclasses.replace(signed("n" * 50), code_ttl=timedelta(minutes=4))
    return Callback.received(flow, answer, "0" * 16, NOW).values()


def al_lengths() -> dict[str, int]:
    """Return how many characters each property of the API page takes."""
    page = (AL / "OAuthCallbackAPI.Page.al").read_text("utf-8")
    lengths = {
        name.strip('"'): int(length)
        for name, length in re.findall(
            r"field\(\d+; (\"[^\"]+\"|\w+); Text\[(\d+)\]\)",
            (AL / "OAuthCallback.Table.al").read_text("utf-8"),
        )
    }
    variables = dict(re.findall(r"^        (\w+): (Text(?:\[\d+\])?);", page, re.MULTILINE))
    taken = {}
    for name, value in re.findall(r"field\((\"?\w+\"?); ([^)]+)\)", page):
        if value.startswith("Rec."):
            taken[name.strip('"')] = lengths.get(value.removeprefix("Rec.").strip('"'), UNLIMITED)
        else:
            limit = re.search(r"\d+", variables[value])
            taken[name.strip('"')] = int(limit[0]) if limit else UNLIMITED
    return taken


def columns(table: str) -> dict[str, int]:
    """Return how many characters each column of a Dataverse table takes."""
    root = xml(SOLUTION / "Entities" / table / "Entity.xml")
    return {
        text(attribute, "LogicalName"): int(text(attribute, "MaxLength") or UNLIMITED)
        for attribute in every(root, "EntityInfo/entity/attributes/attribute")
    }


def contract_members() -> dict[str, int]:
    """Return how many characters each member of the service's contract takes."""
    contract = [(m, s) for o, m, s in SOURCES if o == "OAuthCbContract" and m]
    found = [re.search(r"\[DataMemberAttribute\('(\w+)'\)\]", source) for _, source in contract]
    given = {hit[1] for hit in found if hit}
    assert {method.removeprefix("parm") for method, _ in contract} == given
    return {name: field_lengths("OAuthCbInbox")[name] for name in given}


TAKEN: Mapping[str, Callable[[], dict[str, int]]] = {
    "finance-operations": lambda: field_lengths("OAuthCbInbox"),
    "custom-service": contract_members,
    "business-central": al_lengths,
    "dataverse": lambda: columns("oacb_OAuthCallback"),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_body_names_properties_that_exist_and_are_long_enough(page: str) -> None:
    template = app_settings(page)["DYNAMICS_BODY"]
    taken = TAKEN[page]()
    body = json.loads(Template(template).render(sent()))
    filled = list(members(body))
    assert len(filled) == 13
    for name, value in filled:
        assert name in taken, name
        assert len(str(value)) <= taken[name], name


@pytest.mark.parametrize("page", PAGES)
def test_the_body_says_what_each_placeholder_is_for(page: str) -> None:
    [readable] = [block for block in blocks(page) if isinstance(block, dict)]
    template = app_settings(page)["DYNAMICS_BODY"]
    assert json.loads(template) == readable
    # With {error} every accepted callback ends in Dynamics, as a code or as an error.
    assert Template(template).names == {
        *("code", "state", "state_hash", "error", "error_description", "iss", "connection"),
        *("code_verifier", "redirect_uri", "delivery_id", "reference", "received_at", "expires_at"),
    }


@pytest.mark.parametrize("page", PAGES)
def test_the_settings_of_the_page_are_right_as_they_stand(page: str) -> None:
    read = settings_reader.read(resolved(page))
    assert read.connections.problems == ()
    found = read.connections.get("default")
    assert found.state_policy is StatePolicy.SIGNED
    assert found.code_ttl <= timedelta(minutes=4)  # the batch job has its minute


@pytest.mark.parametrize("page", PAGES)
def test_the_page_names_settings_that_exist(page: str) -> None:
    known = {row["setting"] for row in settings.table()}
    prefixes = "ENTRA|DYNAMICS|STATE|CODE_TTL|PROVIDER|OUTBOX|CA_BUNDLE|CONNECTIONS"
    told = set(re.findall(rf"\b(?:{prefixes})[A-Z_]*\b", PAGES[page])) - {"CODE"}
    assert len(told) > 8
    assert told <= known


def test_every_kind_of_target_has_a_page_and_a_check_of_the_doctor() -> None:
    assert {kind.name for kind in TARGETS} == set(PAGES)
    assert set(CHECKS) == set(TARGETS)


@pytest.mark.parametrize("kind", TARGETS, ids=lambda kind: kind.name)
def test_the_page_of_a_target_shows_its_url_and_its_body(kind: TargetKind) -> None:
    given = app_settings(kind.name)
    assert given["DYNAMICS_URL"] == kind.url
    assert json.loads(given["DYNAMICS_BODY"]) == kind.body


@pytest.mark.parametrize("kind", TARGETS, ids=lambda kind: kind.name)
def test_a_target_is_recognised_by_its_url(kind: TargetKind) -> None:
    found = targets.find(kind.url)
    assert found is not None
    assert found[0] is kind
    # The doctor shows this shape where a URL is of no kind.
    assert re.search(re.sub(r"<\w+>", "[^/]+", re.escape(kind.shape)) + "$", kind.url)


@pytest.mark.parametrize(
    ("path", "kind", "root", "names"),
    [
        ("/data/A%20B/", targets.FINANCE_OPERATIONS, "/data", ("A B",)),
        ("/namespaces/AXSF/DATA/A", targets.FINANCE_OPERATIONS, "/namespaces/AXSF/DATA", ("A",)),
        ("/api/services/G/data/O", targets.CUSTOM_SERVICE, "/api/services", ("G", "data", "O")),
        ("/api/data/v9.2/a", targets.DATAVERSE, "/api/data/v9.2", ("a",)),
        ("/x/api/v2.0/companies(1)/a", targets.BUSINESS_CENTRAL, "/x/api", ("v2.0", "1", "a")),
    ],
)
def test_a_url_is_taken_apart(
    path: str, kind: TargetKind, root: str, names: tuple[str, ...]
) -> None:
    host = "https://host.example"
    assert targets.find(host + path) == (kind, (host + root, names))


@pytest.mark.parametrize("path", ["", "/data", "/data/a/b", "/other/a"])
def test_a_url_of_no_kind_is_told_apart(path: str) -> None:
    assert targets.find(f"https://host.example{path}") is None


def test_the_addresses_of_the_pages_are_those_of_the_objects() -> None:
    url = {page: app_settings(page)["DYNAMICS_URL"] for page in PAGES}
    entity = named("AxDataEntityView")["OAuthCbEntity"]
    assert url["finance-operations"].endswith(f"/data/{text(entity, 'PublicCollectionName')}")
    group = named("AxServiceGroup")["OAuthCallbackServices"]
    [service] = every(group, "Services/AxServiceGroupService")
    [operation] = every(named("AxService")[text(service, "Service")], "ServiceOperations/*")
    assert url["custom-service"].endswith(
        f"/api/services/{text(group, 'Name')}/{text(service, 'Name')}/{text(operation, 'Name')}"
    )
    # What the class says of itself is the same.
    [shown] = re.findall(r"POST (/api/\S+)", source_of("OAuthCbService", ""))
    assert url["custom-service"].endswith(shown)
    api = properties(AL / "OAuthCallbackAPI.Page.al")
    path = f"/api/{api['APIPublisher']}/{api['APIGroup']}/{api['APIVersion']}/companies("
    assert path.replace("'", "") in url["business-central"]
    assert url["business-central"].endswith(f"/{api['EntitySetName']}".replace("'", ""))
    table = xml(SOLUTION / "Entities" / "oacb_OAuthCallback" / "Entity.xml")
    assert url["dataverse"].endswith("/" + text(table, "EntityInfo/entity/EntitySetName"))


def test_the_parameter_of_the_service_is_the_wrapper_of_the_body() -> None:
    [name] = json.loads(app_settings("custom-service")["DYNAMICS_BODY"])
    assert f"deliver(OAuthCbContract {name})" in source_of("OAuthCbService", "deliver")


@pytest.mark.parametrize("page", PAGES)
def test_the_page_goes_from_entra_to_what_may_fail(page: str) -> None:
    headings = re.findall(r"^## (\d)\. (.+)$", PAGES[page], re.MULTILINE)
    assert [number for number, _ in headings] == list("123456")
    assert headings[0][1] == "Entra"
    assert [title for _, title in headings[2:]] == [
        "The provider",
        "The relay's settings",
        "Test each step",
        "When it fails",
    ]
    _, _, failures = PAGES[page].partition("## 6. ")
    for status in ("401", "403", "404"):
        assert f"**{status}**" in failures
    assert re.search(r"^\*Not (compiled|imported)", failures, re.MULTILINE)
    assert "Please report" in failures


@pytest.mark.parametrize(
    ("page", "source"),
    [
        ("finance-operations", "\n".join(labels().values())),
        ("custom-service", "\n".join(labels().values())),
        ("business-central", "\n".join(p.read_text("utf-8") for p in sorted(AL.glob("*.al")))),
        ("dataverse", PLUGIN.read_text("utf-8")),
    ],
    ids=list(PAGES),
)
def test_the_page_quotes_the_words_that_the_objects_say(page: str, source: str) -> None:
    quoted = re.findall(
        r"“((?:The hash|\w+(?: Central)? does not wait|The callback came|RedeemCallback)[^”]*)”",
        PAGES[page],
    )
    assert quoted
    for words in quoted:
        assert words in source
    shown = re.findall(r"\*(Refused by [^*]+|Token endpoint [^*]+|Being [^*]+)\*", PAGES[page])
    for words in shown:
        assert words in source


# -- Business Central ------------------------------------------------------------------------------

AL_OBJECT = re.compile(
    r"^(table|page|codeunit|enum|permissionset) (\d+) \"?([^\"\n]+)\"?$", re.MULTILINE
)


def al_code(source: str) -> str:
    """Return AL without comments and without what stands in strings; quoted names stay."""
    return re.sub(
        r"('(?:''|[^'\n])*')|(\"[^\"\n]*\")|//[^\n]*",
        lambda found: "''" if found[1] else found[2] or "",
        source,
    )


def properties(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^    (\w+) = (.+);$", AL_SOURCES[path], re.MULTILINE))


def procedures(name: str) -> set[str]:
    [source] = [s for s in AL_SOURCES.values() if AL_OBJECT.search(s) and object_of(s)[2] == name]
    return set(re.findall(r"procedure (\w+)\(", source))


def object_of(source: str) -> tuple[str, int, str]:
    [found] = AL_OBJECT.findall(source)
    return found[0], int(found[1]), found[2]


def al_fields(name: str) -> set[str]:
    [source] = [s for s in AL_SOURCES.values() if object_of(s)[::2] == ("table", name)]
    return {field.strip('"') for field in re.findall(r"field\(\d+; (\"[^\"]+\"|\w+);", source)}


def test_the_manifest_has_what_business_central_asks_for() -> None:
    manifest = json.loads((AL.parent / "app.json").read_text("utf-8"))
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", manifest["id"])
    for version in ("version", "platform", "application"):
        assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", manifest[version])
    # Runtime n.0 came with version n + 11.
    runtime, application = (
        float(manifest[n].partition(".")[0]) for n in ("runtime", "application")
    )
    assert runtime + 11 == application
    assert manifest["target"] == "Cloud"
    assert manifest["resourceExposurePolicy"]["allowDebugging"] is False
    assert all(manifest[name] for name in ("name", "publisher", "brief", "description"))


def test_every_al_object_has_its_file_its_number_and_its_name() -> None:
    [ids] = json.loads((AL.parent / "app.json").read_text("utf-8"))["idRanges"]
    found = {path: object_of(source) for path, source in AL_SOURCES.items()}
    numbers = [(kind, number) for kind, number, _ in found.values()]
    assert len(set(numbers)) == len(numbers) > 15
    for path, (kind, number, name) in found.items():
        assert ids["from"] <= number <= ids["to"]
        assert path.name.split(".")[1].lower() == kind
        assert len(name) <= (20 if kind == "permissionset" else 30)


@pytest.mark.parametrize("path", AL_SOURCES, ids=lambda path: path.name)
def test_every_al_source_is_whole(path: Path) -> None:
    code = al_code(AL_SOURCES[path])
    assert balanced(re.sub(r'"[^"]*"', "", code))
    words = Counter(re.findall(r"\b(begin|case|end|repeat|until)\b", code))
    assert words["begin"] + words["case"] == words["end"]
    assert words["repeat"] == words["until"]


@pytest.mark.parametrize("path", AL_SOURCES, ids=lambda path: path.name)
def test_global_variables_stand_before_the_first_procedure(path: Path) -> None:
    """As everywhere in Microsoft's own apps. A procedure's own variables follow its head."""
    first = re.search(r"^    (?:local |internal )?procedure ", AL_SOURCES[path], re.MULTILINE)
    variables = [match.start() for match in re.finditer(r"\n\n    var\n", AL_SOURCES[path])]
    assert len(variables) <= 1
    assert not first or all(at < first.start() for at in variables)


def test_every_al_reference_leads_somewhere() -> None:
    kinds: dict[str, set[str]] = {}
    for source in AL_SOURCES.values():
        kind, _, name = object_of(source)
        kinds.setdefault(kind, set()).add(name)
    standard = {"Base64 Convert", "Cryptography Management", "Unix Timestamp"}
    seen = 0
    for path, source in AL_SOURCES.items():
        code = al_code(source)
        for kind, name in re.findall(
            r"\b(Record|Codeunit|Enum|codeunit|page|table|tabledata) \"([^\"]+)\"", code
        ):
            known = {"Record": "table", "tabledata": "table"}.get(kind, kind.lower())
            assert name in kinds[known] | standard, (path.name, kind, name)
            seen += 1
        variables = dict(re.findall(r"(\w+): (?:Codeunit|Record) \"(OAuth [^\"]+)\"", code))
        for variable, target in variables.items():
            if target in kinds["codeunit"]:
                for called in re.findall(rf"(?<![.\w]){variable}\.(\w+)\(", code):
                    assert called in procedures(target) | {"Run"}, (path.name, variable, called)
            elif target in kinds["table"]:
                for field in re.findall(rf"(?<![.\w]){variable}\.\"([^\"]+)\"", code):
                    assert field in al_fields(target), (path.name, variable, field)
    assert seen > 40


def test_the_api_page_inserts_and_does_nothing_else() -> None:
    api = properties(AL / "OAuthCallbackAPI.Page.al")
    assert api["PageType"] == "API"
    assert api["ODataKeyFields"] == "SystemId"
    assert api["InsertAllowed"] == api["DelayedInsert"] == "true"
    assert api["ModifyAllowed"] == api["DeleteAllowed"] == api["Extensible"] == "false"
    for name in ("APIPublisher", "APIGroup", "EntityName", "EntitySetName"):
        assert re.fullmatch(r"'[a-z][A-Za-z0-9]*'", api[name])
    assert re.fullmatch(r"'v\d+\.\d+'", api["APIVersion"])


def test_the_api_page_gives_no_code_and_no_verifier_back() -> None:
    source = AL_SOURCES[AL / "OAuthCallbackAPI.Page.al"]
    assert 'field("code"; CodeText)' in source
    assert "field(codeVerifier; CodeVerifierText)" in source
    _, _, insert = source.partition("Rec.Insert(true);")
    for trigger in (insert, source.partition("trigger OnAfterGetRecord()")[2]):
        body = trigger.partition("end;")[0]
        assert "Clear(CodeText);" in body
        assert "Clear(CodeVerifierText);" in body


def test_a_callback_without_a_code_has_an_empty_blob() -> None:
    puts = after(al("OAuthCallback.Table"), "procedure SetCode(").partition("end;")[0]
    assert re.search(
        r"Clear\(Rec\.\"Code\"\);.*if Value = '' then\s+exit;.*WriteText", puts, re.DOTALL
    )


def test_the_keys_of_business_central_fit_into_900_bytes() -> None:
    table = AL_SOURCES[AL / "OAuthCallback.Table.al"]
    keys = re.findall(r"key\(\w+; (\"[^\"]+\"|\w+)\)\s*\{([^}]*)\}", table)
    assert keys[0][0] == '"State Hash"'
    assert "Clustered = true;" in keys[0][1]
    length = re.search(r"field\(1; \"State Hash\"; Text\[(\d+)\]\)", table)
    assert length
    assert int(length[1]) * 2 <= 900


def test_the_permission_set_of_the_relay_inserts_and_reads_through_the_page_only() -> None:
    granted = re.search(
        r"Permissions =\s*(.*?);", AL_SOURCES[AL / "OAuthCBRelay.PermissionSet.al"], re.DOTALL
    )
    assert granted
    assert [" ".join(one.split()) for one in granted[1].split(",")] == [
        'tabledata "OAuth Callback" = ri',
        'page "OAuth Callback API" = X',
    ]


def test_business_central_shows_no_secret_and_stores_none_in_clear() -> None:
    for path, source in AL_SOURCES.items():
        for said in re.findall(r"\b(?:Error|Message|Confirm|LogMessage)\(([^)]*)\);", source):
            assert re.fullmatch(r"\w+Err(, Connection(Name|\.Name))?", said), (path.name, said)
        assert "IsolatedStorage.Set(" not in source
        assert "GetLastErrorText" not in source
    secret = r"\([^)]*(?:Form: Dictionary|RefreshToken: Text|CodeText: Text)"
    touching = re.findall(
        rf"(\[NonDebuggable\]\s+)?(?:local |internal )?procedure (\w+){secret}",
        "".join(AL_SOURCES.values()),
    )
    assert len(touching) > 4
    assert all(marked for marked, _ in touching)


def test_business_central_encodes_every_name_and_value_of_a_form_alone() -> None:
    source = AL_SOURCES[AL / "OAuthTokenClient.Codeunit.al"]
    encode = source.partition("procedure Encode(")[2]
    assert re.findall(r"EscapeDataString\((Name|Form\.Get\(Name\))\)", encode) == [
        "Name",
        "Form.Get(Name)",
    ]
    assert "'application/x-www-form-urlencoded'" in source
    assert not re.search(r"'[^'\n]*\w=[&%']", source)


# -- Dataverse -------------------------------------------------------------------------------------

TABLES = ("oacb_OAuthCallback", "oacb_OAuthPendingState")


@pytest.mark.parametrize(
    ("table", "key"), [(TABLES[0], "oacb_statehash"), (TABLES[1], "oacb_flowname")]
)
def test_a_table_of_dataverse_has_its_alternate_key(table: str, key: str) -> None:
    root = xml(SOLUTION / "Entities" / table / "Entity.xml")
    entity = every(root, "EntityInfo/entity")[0]
    assert text(root, "Name") == entity.get("Name") == table
    assert text(entity, "EntitySetName") == table.lower() + "s"
    assert text(entity, "OwnershipTypeMask") == "OrgOwned"
    [alternate] = every(entity, "EntityKeys/EntityKey")
    assert [a.text for a in every(alternate, "EntityKeyAttributes/AttributeName")] == [key]
    assert columns(table)[key] * 2 <= 900
    attributes = every(entity, "attributes/attribute")
    [key_attribute] = [a for a in attributes if text(a, "LogicalName") == key]
    assert text(key_attribute, "Type") == "nvarchar"
    assert Counter(text(a, "Type") for a in attributes)["primarykey"] == 1
    assert sum("PrimaryName" in text(a, "DisplayMask") for a in attributes) == 1
    for attribute in attributes:
        assert text(attribute, "Name") == text(attribute, "LogicalName")
        assert (attribute.get("PhysicalName") or "").lower() == text(attribute, "LogicalName")
        assert text(attribute, "IsAuditEnabled") == "0"  # a copy would outlive the code


def test_codes_of_dataverse_are_memos() -> None:
    root = xml(SOLUTION / "Entities" / "oacb_OAuthCallback" / "Entity.xml")
    kinds = {
        text(a, "LogicalName"): text(a, "Type")
        for a in every(root, "EntityInfo/entity/attributes/*")
    }
    assert kinds["oacb_code"] == kinds["oacb_state"] == "ntext"


def test_the_role_of_the_relay_creates_callbacks_in_the_whole_organisation_and_nothing_else() -> (
    None
):
    role = xml(SOLUTION / "Roles" / "OAuth Callback Relay.xml")
    granted = [(p.get("name"), p.get("level")) for p in every(role, "RolePrivileges/RolePrivilege")]
    assert granted == [("prvCreateoacb_OAuthCallback", "Global")]


def test_the_solution_has_the_components_that_its_folder_has() -> None:
    manifest = xml(SOLUTION / "Other" / "Solution.xml")
    components = every(manifest, "SolutionManifest/RootComponents/RootComponent")
    assert {c.get("schemaName") for c in components if c.get("type") == "1"} == {
        folder.name.lower() for folder in (SOLUTION / "Entities").iterdir()
    }
    roles = {path: xml(path) for path in (SOLUTION / "Roles").iterdir()}
    assert {c.get("id") for c in components if c.get("type") == "20"} == {
        role.get("id") for role in roles.values()
    }
    assert all(path.stem == role.get("name") for path, role in roles.items())
    prefix = text(manifest, "SolutionManifest/Publisher/CustomizationPrefix")
    assert all(name.startswith(prefix + "_") for table in TABLES for name in columns(table))
    privileges = {
        p.get("name") or "" for role in roles.values() for p in role.iter() if p.get("level")
    }
    assert {re.sub("prv[A-Z][a-z]+?(?=oacb)", "", name) for name in privileges} == set(TABLES)


def test_the_plugin_names_columns_and_keys_that_exist() -> None:
    source = PLUGIN.read_text("utf-8")
    known = {name for table in TABLES for name in (table.lower(), *columns(table))}
    known |= {
        text(key, "LogicalName")
        for table in TABLES
        for key in every(
            xml(SOLUTION / "Entities" / table / "Entity.xml"),
            "EntityInfo/entity/EntityKeys/EntityKey",
        )
    }
    assert set(re.findall(r'"(oacb_\w+)"', source)) <= known


def test_the_plugins_configuration_is_the_one_of_the_page() -> None:
    [configuration] = re.findall(r"`(\{\"connectionName\".*?\})`", PAGES["dataverse"])
    source = PLUGIN.read_text("utf-8")
    _, _, declared_ = source.partition("class Settings")
    names_ = re.findall(r"DataMember\(Name = \"(\w+)\", IsRequired = true\)", declared_)
    assert list(json.loads(configuration)) == names_
    # What is secret is named here, and not given.
    secret = [name for name in names_ if re.search("secret|tokens", name, re.IGNORECASE)]
    assert secret == ["clientSecretName", "tokensName"]


def test_the_plugin_is_whole_and_its_messages_hold_no_value() -> None:
    source = PLUGIN.read_text("utf-8")
    code = re.sub(
        r"(\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])')|//[^\n]*",
        lambda f: "''" if f[1] else "",
        source,
    )
    assert balanced(code)
    assert re.findall(r"new InvalidPluginExecutionException\((?!\"[^\"+{]*\"\);)", source) == []
    assert source.count("Trace(") == 1
    assert re.search(r"Trace\(\s*\"[^\"+{]*\"\)", source)
    assert "FormUrlEncodedContent(form)" in source
    assert "AllowAutoRedirect = false" in source
