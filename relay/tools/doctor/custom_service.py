"""A custom service of Finance & Operations: group, service and operation, and X++ parameters.

https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/custom-services. A GET
describes what is there:
http://dev.goshoom.net/2017/07/discovery-of-json-based-custom-services-in-ax-7/.
"""

from collections.abc import Iterator

from relay.delivery.targets import Address
from relay.tools.doctor import finance_operations
from relay.tools.doctor.finding import Finding, fail, ok, warn
from relay.tools.doctor.metadata import nearest
from relay.tools.doctor.probe import Probe, names_in

_LEVELS = {"ServiceGroups": "service group", "Services": "service", "Operations": "operation"}
_BUILD = "Check the service group in Visual Studio, build, and deploy it."


def examine(probe: Probe, address: Address) -> Iterator[Finding]:
    """Examine one operation: the URL of `/api/services`; group, service and operation."""
    root, names = address
    answer = yield from finance_operations.admit(probe, root)
    if answer is None:
        return
    if "ServiceGroups" not in answer.document:
        yield warn(
            "entity",
            f"which services there are cannot be read (HTTP {answer.status})",
            "Check group, service and operation in DYNAMICS_URL yourself; --write tries them.",
        )
        return
    # An unknown operation may be any error: what is listed decides.
    described = probe.ask("/".join((root, *names)))
    missing = _missing(probe, root, names) if described is None else None
    if missing is not None:
        yield missing
        return
    yield ok("entity", f"the operation {names[-1]} is there")
    if described is not None and "Parameters" in described.document:
        yield from _parameters(probe, names_in(described.listed("Parameters"), "Name"))
    yield ok(
        "key",
        "services do not describe it: the table needs a unique index over the state, and X++ must "
        "let DuplicateKeyException through; --write tries it",
    )


def _missing(probe: Probe, root: str, names: tuple[str, ...]) -> Finding | None:
    """Return which of the names is wrong; `None` if all of them are listed."""
    url = root
    for name, (listed, level) in zip(names, _LEVELS.items(), strict=True):
        answer = probe.ask(url)
        if answer is None or listed not in answer.document:
            return fail("entity", f"there is no {level} {name}, as far as can be read", _BUILD)
        known = names_in(answer.listed(listed), "Name")
        if name.casefold() not in [each.casefold() for each in known]:
            near = nearest(name, known)
            if near is None:
                return fail("entity", f"there is no {level} {name}", _BUILD)
            return fail(
                "entity",
                f"there is no {level} {name}; the nearest is {near}",
                f"Put {near} into DYNAMICS_URL if that is the one.",
            )
        url = f"{url}/{name}"
    return None


def _parameters(probe: Probe, parameters: list[str]) -> Iterator[Finding]:
    given = list(dict.fromkeys(each.path[0] for each in probe.connection.target.body.members()))
    wrong = False
    for name in parameters:
        if name not in given:
            wrong = True
            near = nearest(name, [each for each in given if each not in parameters])
            meant = f"; {near} is probably meant" if near else ""
            yield fail(
                "properties",
                f"DYNAMICS_BODY has no {name}, which the operation takes{meant}",
                f"Call the member {name}, to the letter: it is the X++ parameter's name.",
            )
    strays = [name for name in given if name not in parameters]
    if strays and not wrong:
        wrong = True
        yield warn(
            "properties",
            f"the operation takes no {strays[0]}",
            f"Take {strays[0]} out of DYNAMICS_BODY, or add the parameter to the operation.",
        )
    if not wrong:
        yield ok(
            "properties",
            f"the operation takes {', '.join(given)}; what a data contract takes it does not tell",
        )
