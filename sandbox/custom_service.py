"""A custom service of Dynamics 365 Finance & Operations.

It has one X++ operation that stores a callback, called with JSON. Its address:
https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/custom-services. Error
bodies were captured, with Microsoft's spelling ("occured"); like OData's they repeat the values
sent. The descriptions of services that GET returns follow
http://dev.goshoom.net/2017/07/discovery-of-json-based-custom-services-in-ax-7/.
"""

from collections.abc import Mapping
from typing import Any, Unpack
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.dynamics import Environment
from sandbox.entra import Entra
from sandbox.target import Adfs, Common, Flaw, Names, RefusedError

GROUP, SERVICE, OPERATION = "OAuthCallbackServices", "OAuthCallbackService", "receive"
PATH = f"/api/services/{GROUP}/{SERVICE}/{OPERATION}"
CONTRACT_NAMES = Names("Code", "State", "Error", "ErrorDescription")
PARAMETER_NAMES = Names("_code", "_state", "_error", "_errorDescription")
DESERIALIZATION = "XppServicesDeserializationException"


class CustomService(Environment):
    """An F&O environment with the operation `PATH`; serve `app`.

    The body is an object of X++ parameters by name. `parameter` is the name of a data contract's
    (`{"_contract": {"Code": …, "State": …}}`), or `None` for an operation with plain values
    (`{"_code": …, "_state": …}`). `names` are the contract's members, or the parameters. The rest
    is as in `Dynamics`.
    """

    def __init__(
        self,
        entra: Entra | Adfs,
        *,
        parameter: str | None = "_contract",
        names: Names | None = None,
        lengths: Mapping[str, int] | None = None,
        on_premises: bool = False,
        **common: Unpack[Common],
    ) -> None:
        names = names or (CONTRACT_NAMES if parameter else PARAMETER_NAMES)
        super().__init__(
            entra,
            names=names,
            lengths={names.state: 255, **(lengths or {})},
            **common,
        )
        self.parameter = parameter
        self.on_premises = on_premises
        self.misfit_status = 400
        """Status for a body that does not fit the X++ parameters; 400 is a guess."""

    def _is_api(self, path: str) -> bool:
        return path.startswith(f"{self.root}/api/services")

    def _serve_path(self, request: Request, path: list[str], body: bytes) -> Response | None:
        match request.method, path:
            case "GET", ["api", "services", *names]:
                self._check_token(request)
                return self._describe(names)
            case "POST", ["api", "services", group, service, operation]:
                self._check_token(request)
                if (group, service, operation) == (GROUP, SERVICE, OPERATION):
                    return self._receive(request, body)
        return None

    def _describe(self, names: list[str]) -> Response | None:
        """Return what a service group, service or operation contains; `None` if it is unknown."""
        match names:
            case [] | [""]:
                return JSONResponse({"ServiceGroups": [{"Name": GROUP}]})
            case [group] if group == GROUP:
                return JSONResponse({"Services": [{"Name": SERVICE}]})
            case [group, service] if (group, service) == (GROUP, SERVICE):
                return JSONResponse({"Operations": [{"Name": OPERATION}]})
            case [*all_three] if all_three == [GROUP, SERVICE, OPERATION]:
                parameters = [{"Name": name, "Type": kind} for name, kind in self._parameters()]
                returned = {"Name": "return", "Type": "OAuthCallbackResponse"}
                return JSONResponse({"Parameters": parameters, "Return": returned})
        return None

    def _parameters(self) -> list[tuple[str, str]]:
        """Return the operation's X++ parameters and their types."""
        if self.parameter:
            return [(self.parameter, "OAuthCallbackContract")]
        return [(name, "String") for name in self.names]

    def _receive(self, request: Request, body: bytes) -> Response:
        if not self.permitted:
            raise RefusedError(self._forbidden())
        row = self._arguments(self._object(request, body))
        self._store(request, row)
        return JSONResponse({"$id": "1", "Success": True, "State": row[self.names.state]})

    def _arguments(self, members: dict[str, Any]) -> dict[str, Any]:
        """Return the values, by the names of `names`.

        Every X++ parameter is required. Unknown members of a contract are ignored, as JSON.NET
        does, so that a misspelt `state` becomes an empty one. X++ strings are never null.
        """
        if self.parameter:
            if self.parameter not in members:
                raise RefusedError(self._flawed(Flaw.UNKNOWN, self.parameter))
            members = members[self.parameter]
            if not isinstance(members, dict):
                raise RefusedError(self._flawed(Flaw.NOT_OBJECT))
        else:
            for name in (self.names.code, self.names.state):
                if name not in members:
                    raise RefusedError(self._flawed(Flaw.UNKNOWN, name))
        row = {name: members[name] for name in self.names if name in members}
        for name, value in row.items():
            self._check_string(name, value)
        return {name: value for name, value in row.items() if value is not None}

    def _flawed(self, flaw: Flaw, name: str = "") -> Response:
        match flaw:
            case Flaw.MEDIA_TYPE:
                text = "The request entity's media type is not supported for this resource."
                return JSONResponse({"Message": text}, 415)
            case Flaw.NO_KEY:
                return _thrown("ErrorException", f"Field '{name}' must be filled in.")
            case Flaw.TOO_LONG:
                length = self.lengths[name]
                return _thrown("ErrorException", f"Field '{name}' is longer than {length}.")
        text = MISFITS[flaw].format(name)
        return _exception(self.misfit_status, DESERIALIZATION, text)

    def _duplicate(self, request: Request, row: Mapping[str, Any]) -> Response:  # noqa: ARG002 - a hook
        key = f"State: {row[self.names.state]}, {row.get(self.names.code, '')}"
        text = self._exists("OAuth callback", "OAuthCallbackInbox", key)
        return _thrown("DuplicateKeyException", text)

    def _invalid(self) -> Response:
        return _thrown("ErrorException", "The state was not issued here.")

    def _server_error(self) -> Response:
        text = "Object reference not set to an instance of an object."
        return _thrown("NullReferenceException", text)


MISFITS = {
    Flaw.NOT_JSON: "The request content body is no valid JSON.",
    Flaw.NOT_OBJECT: "The request content body holds no object where one is expected.",
    Flaw.UNKNOWN: "Parameter '{0}' is not found within the request content body.",
    Flaw.NOT_STRING: "Could not convert the value of '{0}' to string.",
}


def _thrown(kind: str, message: str) -> Response:
    """Return the response of F&O to an exception in X++."""
    return _exception(500, kind, f"An exception occured when invoking the operation - {message}")


def _exception(status: int, kind: str, message: str) -> Response:
    body = {"Message": message, "ExceptionType": kind, "ActivityId": str(uuid4())}
    return JSONResponse(body, status)
