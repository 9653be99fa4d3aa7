"""Checks of the body template against the properties in Dynamics: names, types, lengths.

RFC 6749 sets no limit for a code. Short ones have 40 characters, many have some hundred, and those
that are tokens themselves (such as Entra's) have more than a thousand.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from relay.body import Member
from relay.connections import Connection, StatePolicy
from relay.delivery.callback import EXPIRED, iso
from relay.oauth.authorization import MAX_DESCRIPTION
from relay.tools import smoke_record
from relay.tools.doctor.finding import Finding, fail, ok, warn
from relay.tools.doctor.metadata import Property, nearest

BODY = "DYNAMICS_BODY"
STRING = "Edm.String"
TIMES = {"received_at": "Edm.DateTimeOffset", "expires_at": "Edm.DateTimeOffset"}
"""Placeholders that also fit properties of these types (OData JSON Format 4.0 §7.1)."""


class Need(NamedTuple):
    """Characters: with fewer than `least` deliveries fail, with fewer than `better` they may."""

    least: int
    better: int


_CODE = Need(512, 2048)
_STATE = Need(0, 22)
"""Of a state that the relay does not mint: RFC 6749 §10.10 asks for 128 bits, 22 characters."""
_ERROR = Need(len(EXPIRED), 64)
"""The relay's own error, and those of providers: OpenID's longest has 33 characters."""
_DESCRIPTION = Need(128, MAX_DESCRIPTION)
"""The relay's own has 64 characters; a provider's is cut to `MAX_DESCRIPTION`."""


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a target for messages: "entity" and "property", "table" and "column".

    `lengthen` says where a field is made longer.
    """

    collection: str
    property: str
    lengthen: str


def examine(
    connection: Connection, properties: Mapping[str, Property], further: Iterable[str], words: Words
) -> Generator[Finding, None, bool]:
    """Compare the body template with properties, by name, type and length.

    `further` are navigation properties, of which only the names count. Out: whether all members
    fit; if not, further checks would judge by misspelt names.
    """
    known = {*properties, *further}
    members = [
        each
        for each in connection.target.body.members()
        if not each.path[0].startswith("@")  # control information, such as `@odata.type`
    ]
    wrong = False
    # `new_account@odata.bind` sets the property before the sign (OData JSON Format 4.0 §8.5).
    for name in dict.fromkeys(each.path[0].partition("@")[0] for each in members):
        if name not in known:
            wrong = True
            yield _unknown(name, known, words)
    for each in members:
        held = properties.get(each.path[0]) if len(each.path) == 1 else None
        misfit = None if held is None else _misfit(each, held.type, words)
        if misfit is not None:
            wrong = True
            yield misfit
    if wrong:
        return False
    count = len({each.path[0] for each in members})
    yield ok("properties", f"the {words.collection} has all {count} members of {BODY}")
    yield from _lengths(connection, members, properties, words)
    return True


def _unknown(name: str, known: Iterable[str], words: Words) -> Finding:
    near = nearest(name, known)
    what = f"the {words.collection} has no {words.property} {name}"
    if near is None:
        return fail(
            "properties", what, f"Correct {BODY}, or add the {words.property} and publish it."
        )
    if near.casefold() == name.casefold():
        what += f": it is {near}, and upper and lower case count"
    else:
        what += f"; the nearest is {near}"
    return fail("properties", what, f"Put {near} into {BODY} if that is the one.")


def _misfit(member: Member, kind: str, words: Words) -> Finding | None:
    name = member.path[0]
    if member.names:
        is_time = member.constant == "" and all(TIMES.get(each) == kind for each in member.names)
        if kind == STRING or is_time:
            return None
        return fail(
            "properties",
            f"{name} is no text in the {words.collection} ({kind})",
            f"Make the {words.property} a string, or put the value into another one.",
        )
    if kind != STRING or member.constant is None or isinstance(member.constant, str):
        return None
    return fail(
        "properties",
        f"{name} is a text in the {words.collection}, and none in {BODY}",
        "Put the constant into quotation marks.",
    )


def _lengths(
    connection: Connection,
    members: Iterable[Member],
    properties: Mapping[str, Property],
    words: Words,
) -> Iterator[Finding]:
    known = short = 0
    for each in members:
        held = properties.get(each.path[0]) if len(each.path) == 1 else None
        if held is None or held.length is None or not isinstance(each.constant, str):
            continue
        known += 1
        need = _need(each, connection)
        if held.length < need.better:
            short += 1
            yield _too_short(each, held.length, need, words)
    if known and not short:
        yield ok("length", "every value fits, as far as lengths are known")
    elif not known:
        yield ok("length", "the metadata have no lengths; a code needs up to 2048 characters")


def _too_short(member: Member, length: int, need: Need, words: Words) -> Finding:
    name, held = member.path[0], " and ".join(f"{{{name}}}" for name in member.names)
    holds = f", for {held}," if held else ""
    if length < need.least:
        return fail(
            "length",
            f"{name}{holds} has {length} characters, and needs {need.least} at least",
            f"{words.lengthen}: give {name} {need.better} characters"
            + (", or send {state_hash} (64) in its place." if member.names == ("state",) else "."),
        )
    return warn(
        "length",
        f"{name}{holds} has {length} characters, which may be too short",
        f"{words.lengthen}: give {name} {need.better} characters, unless you know the provider's "
        "values to be shorter.",
    )


def _need(member: Member, connection: Connection) -> Need:
    needs = [_of(name, connection) for name in member.names]
    literal = len(str(member.constant))
    return Need(
        literal + sum(need.least for need in needs), literal + sum(need.better for need in needs)
    )


def _of(name: str, connection: Connection) -> Need:
    """Return how long the value of a placeholder is, or can get."""
    provider = connection.provider
    time, issuer = len(iso(datetime.now(UTC))), len(provider.issuer or "")
    exact = {
        "state_hash": 64,
        "state_jti": 64,
        "delivery_id": 32,
        "reference": 16,
        "code_verifier": 43,
        "connection": len(connection.name),
        "received_at": time,
        "expires_at": time,
        "redirect_uri": len(provider.redirect_uri or ""),
    }
    others = {
        "code": _CODE,
        "state": _state(connection),
        "error": _ERROR,
        "error_description": _DESCRIPTION,
        "error_uri": Need(0, 255),
        "iss": Need(issuer, issuer or 255),
        "session_state": Need(0, 128),
    }
    # Nothing is known about further parameters of a provider.
    length = exact.get(name, 0)
    return others.get(name, Need(length, length))


def _state(connection: Connection) -> Need:
    """Return how long a state is: a signed one is measured on one that the relay mints."""
    if connection.state_policy is not StatePolicy.SIGNED:
        return _STATE
    length = len(smoke_record.callback(connection, datetime.now(UTC)).response.state)
    return Need(length, length)
