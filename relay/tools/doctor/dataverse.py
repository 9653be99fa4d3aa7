"""Dataverse: a table, its columns, its alternate key, and the right to create rows.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from relay.body import Member
from relay.delivery.targets import Address
from relay.tools.doctor import entity, fields
from relay.tools.doctor.finding import Finding, Verdict, fail, ok, warn
from relay.tools.doctor.metadata import Property, nearest
from relay.tools.doctor.probe import Probe, ProbeResponse, names_in

NAME = "Dataverse"
SPACE = "Microsoft.Dynamics.CRM"
NO_MEMBER = "0x80072560"
"""https://learn.microsoft.com/power-apps/developer/data-platform/authenticate-oauth"""
_WORDS = fields.Words("table", "column", "In Power Apps, in the column's advanced options")
_PUBLISH = "Create the table in this environment (import the solution), and publish it."
_UNIQUE = "In Power Apps, Tables > Keys: add a key over the column with {state} or {state_hash}."
_USERS = "In the Power Platform admin center, Settings > Application users"
_TEXTS = ("String", "Memo")
"""Attribute types with a `MaxLength` (StringAttributeMetadata, MemoAttributeMetadata)."""
_TYPES = {"String": "Edm.String", "Memo": "Edm.String", "DateTime": "Edm.DateTimeOffset"}
_ACTIVE, _COMING = "Active", ("Pending", "InProgress")
"""https://learn.microsoft.com/power-apps/developer/data-platform/define-alternate-keys-entity"""


def examine(probe: Probe, address: Address) -> Iterator[Finding]:
    """Examine one table: the URL up to the version, and the entity set."""
    root, (name,) = address
    answer = yield from probe.reach(NAME, f"{root}/WhoAmI")
    if answer is None:
        return
    access = _access(probe, answer)
    yield access
    if access.verdict is Verdict.FAIL:
        return
    table = yield from _table(probe, root, name)
    if table is None:
        return
    logical, schema = table
    definition = f"{root}/EntityDefinitions(LogicalName='{quote(logical)}')"
    if not (yield from _columns(probe, definition)):
        return
    yield _key(probe, definition)
    user = str(answer.document.get("UserId"))
    yield _privilege(probe, f"{root}/systemusers({quote(user)})", schema)


def _access(probe: Probe, answer: ProbeResponse) -> Finding:
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return fail(
            "access",
            "it does not take the token: it is for another environment or of another tenant",
            "Leave DYNAMICS_SCOPE out, or set it to the environment's own address and /.default; "
            "python -m relay discover with DYNAMICS_URL tells the tenant.",
        )
    if answer.status == HTTPStatus.FORBIDDEN and answer.code.lower() == NO_MEMBER:
        return fail(
            "access",
            "the token is right, but the application is no user of this environment",
            f"{_USERS}: add an application user with the client id {probe.client_id}, and give it "
            "a security role.",
        )
    if answer.status == HTTPStatus.FORBIDDEN:
        return fail(
            "access",
            "the application user may not use this environment",
            f"{_USERS}: activate the user with the client id {probe.client_id}, and give it a "
            "security role.",
        )
    if not answer.is_success:
        return fail(
            "access",
            f"it does not answer who the relay is (HTTP {answer.status})",
            "Check the path of DYNAMICS_URL: /api/data/v9.2/ and the table's entity set name.",
        )
    return ok("access", "it knows the application")


def _table(probe: Probe, root: str, name: str) -> Generator[Finding, None, tuple[str, str] | None]:
    """Return the table's logical name and its schema name."""
    answer = probe.ask(f"{root}/EntityDefinitions?$select=LogicalName,SchemaName,EntitySetName")
    if answer is None:
        yield warn(
            "entity",
            "the application user may not read which tables there are",
            "Give it a role with read on Entity (customizations), such as Basic User, to have the "
            "table examined.",
        )
        return None
    for table in answer.values:
        if table.get("EntitySetName") == name:
            yield ok("entity", f"{name} is there")
            return str(table.get("LogicalName")), str(table.get("SchemaName"))
    folded = name.casefold()
    named = [
        each.get("EntitySetName") for each in answer.values if each.get("LogicalName") == folded
    ]
    entity_of = str(named[0]) if named else None
    near = nearest(name, names_in(answer.values, "EntitySetName"))
    yield entity.misnamed(name, entity_of, near, _PUBLISH)
    return None


def _columns(probe: Probe, definition: str) -> Generator[Finding, None, bool]:
    answer = probe.ask(f"{definition}/Attributes?$select=LogicalName,AttributeType")
    if answer is None:
        yield _unreadable("properties", "columns")
        return True
    kinds = {str(each.get("LogicalName")): str(each.get("AttributeType")) for each in answer.values}
    lengths: dict[str, int] = {}
    used = {each.path[0] for each in probe.connection.target.body.members()}
    for kind in _TEXTS:
        if kind in {kinds.get(name) for name in used}:
            lengths |= _lengths(probe, definition, kind)
    properties = {
        name: Property(_TYPES.get(kind, kind), lengths.get(name)) for name, kind in kinds.items()
    }
    return (yield from fields.examine(probe.connection, properties, (), _WORDS))


def _lengths(probe: Probe, definition: str, kind: str) -> dict[str, int]:
    select = "$select=LogicalName,MaxLength"
    answer = probe.ask(f"{definition}/Attributes/{SPACE}.{kind}AttributeMetadata?{select}")
    return {
        str(each.get("LogicalName")): each["MaxLength"]
        for each in (answer.values if answer else ())
        if isinstance(each.get("MaxLength"), int)
    }


def _key(probe: Probe, definition: str) -> Finding:
    answer = probe.ask(f"{definition}/Keys?$select=KeyAttributes,EntityKeyIndexStatus")
    if answer is None:
        return _unreadable("key", "keys")
    members = list(probe.connection.target.body.members())
    judged = [(_judge(key, members), key) for key in answer.values]
    good: dict[str, Finding] = {
        str(key.get("EntityKeyIndexStatus")): finding
        for finding, key in reversed(judged)
        if finding.verdict is Verdict.OK
    }
    if not good:
        return judged[0][0] if judged else entity.key((), members, _UNIQUE)
    if _ACTIVE in good:
        return good[_ACTIVE]
    if not good.keys().isdisjoint(_COMING):
        return warn(
            "key",
            "the alternate key over the state is still being built, and not active yet",
            "Wait until its status under Tables > Keys is Active, and run the doctor again.",
        )
    return warn(
        "key",
        "the alternate key over the state is not active: the same callback would be stored twice",
        "In Power Apps, Tables > Keys: remove rows with the same state, and reactivate the key.",
    )


def _judge(key: Mapping[str, Any], members: Iterable[Member]) -> Finding:
    attributes = key.get("KeyAttributes")
    names = [str(each) for each in attributes] if isinstance(attributes, list) else []
    return entity.key(names, members, _UNIQUE)


def _privilege(probe: Probe, user: str, schema: str) -> Finding:
    """https://learn.microsoft.com/power-apps/developer/data-platform/webapi/reference/retrieveusersetofprivilegesbynames."""
    name = f"prvCreate{schema}"
    function = f"{SPACE}.RetrieveUserSetOfPrivilegesByNames(PrivilegeNames=@p)"
    answer = probe.ask(f"{user}/{function}?@p={quote(json.dumps([name]))}")
    if answer is None:
        return _unreadable("permission", "privileges")
    if name in names_in(answer.listed("RolePrivileges"), "PrivilegeName"):
        return ok("permission", "the application user may create rows")
    return fail(
        "permission",
        "the application user may not create rows in the table",
        f"Give its security role Create on the table ({name}), in the Power Platform admin center.",
    )


def _unreadable(check: str, what: str) -> Finding:
    return warn(
        check,
        f"the application user may not read the table's {what}",
        "Give it a role with read on customizations, such as Basic User; --write tries it.",
    )
