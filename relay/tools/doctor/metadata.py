"""Read one collection from `$metadata` (OData CSDL 4.0), which can be tens of megabytes.

Finance & Operations describes thousands of entities in one document. It stays on disk and is parsed
as a stream: once for the name of the type, then for the type and its bases. A document type
declaration ends the parsing, because entities can be declared there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import IO
from xml.parsers import expat

MAX_SIZE = 512 * 1024 * 1024
"""Bytes; the largest known are a tenth of it."""
MAX_NAMES = 100_000
"""Collections whose names are kept, to find the nearest."""
MAX_BASES = 8
"""Types in one chain of inheritance."""
_INSERTABLE = "Org.OData.Capabilities.V1.InsertRestrictions"

type Attributes = dict[str, str]


class UnreadableError(Exception):
    """The document is no CSDL. The message quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Property:
    """One property: `type` as in `Edm.String`, `length` in characters where the document has it."""

    type: str
    length: int | None = None


@dataclass(slots=True)
class EntityType:
    """The type of a collection: its properties, navigation properties and key."""

    name: str
    properties: dict[str, Property] = field(default_factory=dict)
    navigation: set[str] = field(default_factory=set)
    key: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such collection. `entity_of`: the one whose entity has the given name.

    `nearest`: the one with the most similar name.
    """

    entity_of: str | None
    nearest: str | None


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection that exists. `insertable`: `False` where the document says so."""

    type: EntityType
    insertable: bool


def read(document: IO[bytes], name: str) -> Collection | Missing:
    """Find a collection in a document that is open for reading from its beginning.

    Raises `UnreadableError`.
    """
    sets = _Sets(name)
    _parse(document, sets)
    if name not in sets.types:
        return _missing(sets.types, name)
    merged = EntityType(sets.types[name].rpartition(".")[2])
    wanted: str | None = sets.types[name]
    for _ in range(MAX_BASES):
        if wanted is None:
            break
        found = _Type(wanted)
        document.seek(0)
        _parse(document, found)
        merged.properties |= found.type.properties
        merged.navigation |= found.type.navigation
        merged.key += found.type.key
        wanted = found.base
    return Collection(merged, sets.insertable)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name that was probably meant: the same in another case, or a similar one."""
    by_fold: dict[str, str] = {}
    for each in known:
        by_fold.setdefault(each.casefold(), each)
    near = get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.7)
    return by_fold[near[0]] if near else None


def _missing(types: Mapping[str, str], name: str) -> Missing:
    folded = name.casefold()
    entity_of = next(
        (each for each, kind in types.items() if kind.rpartition(".")[2].casefold() == folded), None
    )
    return Missing(entity_of, nearest(name, types))


class _Sets:
    """All collections with their types, and whether records can be added to the one named."""

    def __init__(self, name: str) -> None:
        self.types: dict[str, str] = {}
        self.insertable = True
        self._name = name
        self._about = ""
        """The collection that annotations apply to: the one around them, or their `Target`."""
        self._restricts = False

    def start(self, element: str, attributes: Attributes) -> None:
        match element:
            case "EntitySet" if len(self.types) < MAX_NAMES:
                self._about = attributes.get("Name", "")
                self.types[self._about] = attributes.get("EntityType", "")
            case "Annotations":
                self._about = attributes.get("Target", "").rpartition("/")[2]
            case "Annotation":
                self._restricts = attributes.get("Term") == _INSERTABLE
            case "PropertyValue" if self._restricts and self._about == self._name:
                if attributes.get("Property") == "Insertable":
                    self.insertable = attributes.get("Bool", "true").lower() != "false"

    def end(self, element: str) -> None:
        if element in ("EntitySet", "Annotations"):
            self._about = ""
        elif element == "Annotation":
            self._restricts = False


class _Type:
    """One type by its qualified name, which begins with the namespace or alias of its schema."""

    def __init__(self, qualified: str) -> None:
        self._space, _, name = qualified.rpartition(".")
        self.type = EntityType(name)
        self.base: str | None = None
        self._spaces: tuple[str | None, ...] = ()
        self._inside = False
        self._in_key = False

    def start(self, element: str, attributes: Attributes) -> None:
        name = attributes.get("Name", "")
        match element:
            case "Schema":
                self._spaces = (attributes.get("Namespace"), attributes.get("Alias"))
            case "EntityType":
                self._inside = name == self.type.name and self._space in self._spaces
                if self._inside:
                    self.base = attributes.get("BaseType")
            case _ if not self._inside:
                pass
            case "Property":
                self.type.properties[name] = Property(
                    attributes.get("Type", "Edm.String"), _length(attributes.get("MaxLength"))
                )
            case "NavigationProperty":
                self.type.navigation.add(name)
            case "Key":
                self._in_key = True
            case "PropertyRef" if self._in_key:
                self.type.key.append(name)

    def end(self, element: str) -> None:
        if element == "EntityType":
            self._inside = False
        elif element == "Key":
            self._in_key = False


def _length(text: str | None) -> int | None:
    # "max" (CSDL 4.0 §6.2.2) and no MaxLength both mean that the limit is unknown.
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def _parse(document: IO[bytes], reader: _Sets | _Type) -> None:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = lambda name, attributes: reader.start(_local(name), attributes)
    parser.EndElementHandler = lambda name: reader.end(_local(name))
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.ParseFile(document)
    except expat.ExpatError:
        raise UnreadableError from None


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _refuse(*_: object) -> None:
    """Refuse a document type declaration: it can declare entities, and OData has none."""
    raise UnreadableError
