"""Checks of one collection in `$metadata`, and of the key that makes records unique.

A callback can be delivered twice, by two processes or after an outage: only a unique key prevents a
second record.
"""

from collections.abc import Collection as Names
from collections.abc import Generator, Iterable
from typing import IO

from relay.body import Member
from relay.connections import Connection
from relay.tools.doctor import fields, metadata
from relay.tools.doctor.fields import Words
from relay.tools.doctor.finding import Finding, fail, ok, warn
from relay.tools.doctor.metadata import EntityType

_VARYING = {"reference", "received_at", "expires_at"}
"""Placeholders whose values differ between deliveries of the same callback."""
_STATES = {"state", "state_hash", "state_jti"}
_STORED = "the same callback would be stored"


def examine(
    connection: Connection, document: IO[bytes], name: str, publish: str, words: Words
) -> Generator[Finding, None, EntityType | None]:
    """Compare the body template with a collection in `$metadata`.

    Out: the type of its entities, if it takes new records with these members. `publish`: how a
    collection gets there.
    """
    document.seek(0)
    try:
        found = metadata.read(document, name)
    except metadata.UnreadableError:
        yield fail(
            "entity",
            "the metadata cannot be read",
            "Check DYNAMICS_URL, and that no proxy on the way changes what Dynamics answers.",
        )
        return None
    if isinstance(found, metadata.Missing):
        yield misnamed(name, found.entity_of, found.nearest, publish)
        return None
    if not found.insertable:
        yield fail(
            "entity",
            f"{name} takes no new records",
            "Let the page or entity insert: in AL, InsertAllowed = true and Editable = true.",
        )
        return None
    yield ok("entity", f"{name} is there")
    kind = found.type
    fitting = yield from fields.examine(connection, kind.properties, kind.navigation, words)
    return kind if fitting else None


def misnamed(name: str, entity_of: str | None, nearest: str | None, publish: str) -> Finding:
    """Return that no collection has this name, and which one was probably meant."""
    url = "at the end of DYNAMICS_URL"
    if entity_of is not None:
        return fail(
            "entity",
            f"{name} is the name of one entity; its collection is {entity_of}",
            f"Put {entity_of} {url}.",
        )
    if nearest is None:
        return fail("entity", f"there is no public {name}", publish)
    if nearest.casefold() == name.casefold():
        return fail(
            "entity",
            f"there is no {name}: it is {nearest}, and upper and lower case count",
            f"Put {nearest} {url}.",
        )
    return fail(
        "entity",
        f"there is no public {name}; the nearest is {nearest}",
        f"Put {nearest} {url} if that is the one. If not: {publish}",
    )


def key(key: Names[str], members: Iterable[Member], unique: str, note: str = "") -> Finding:
    """Judge one key by what the body template puts into it.

    `unique`: how to make the right key. `note`: what else to know about duplicates.
    """
    held = {member.path[0]: set(member.names) for member in members if member.path[0] in key}
    names = set[str]().union(*held.values())
    if varying := names & _VARYING:
        return warn(
            "key", f"it holds {{{min(varying)}}}, which is new each time: {_STORED} twice", unique
        )
    if not names & _STATES:
        twice = "one state could be used" if "delivery_id" in names else _STORED
        return warn("key", f"the state is no key: {twice} twice", unique)
    if absent := [name for name in key if name not in held and name != "dataAreaId"]:
        return fail(
            "key",
            f"{absent[0]} is part of the key, and DYNAMICS_BODY does not have it",
            f"Add {absent[0]} to DYNAMICS_BODY, or take it out of the key.",
        )
    of = next(name for name in key if held.get(name, set()) & _STATES)
    return ok("key", f"{of} makes a record unique{note}")
