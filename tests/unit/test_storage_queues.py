"""The relay's own client of Azure Queue Storage, against Azurite and against Microsoft's client."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count

import httpx
import pytest
from azure.storage.queue import QueueClient, QueueServiceClient
from azure.storage.queue import generate_account_sas as account_sas
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.connections import ManagedIdentity
from relay.errors import CredentialRefused
from relay.tools.storage_queues import (
    EMULATOR,
    EMULATOR_KEY,
    PEEK,
    SCOPE,
    Account,
    QueueMissing,
    Queues,
    StorageRefused,
    StorageUnusable,
    account,
)
from sandbox.azurite import Azurite
from sandbox.entra import Entra
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.serving import Server
from sandbox.tls import Authority

NUMBERS = count(1)
KEY = base64.b64encode(b"canary-key").decode()
CANARY = "canary"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=30) as http:
        yield http


@pytest.fixture
def name() -> str:
    return f"queue-{next(NUMBERS)}"


def opened(connection_string: str, http: httpx.Client) -> Queues:
    return Queues(account({"AzureWebJobsStorage": connection_string}), http)


@pytest.fixture
def queues(azurite: Azurite, http: httpx.Client) -> Queues:
    return opened(azurite.connection_string, http)


@pytest.fixture
def sdk(azurite: Azurite, name: str) -> Iterator[QueueClient]:
    """Microsoft's own client of the same queue, which it has made."""
    with QueueClient.from_connection_string(
        azurite.connection_string, name, api_version="2021-12-02", retry_total=0
    ) as client:
        client.create_queue()
        yield client


# -- the service ---------------------------------------------------------------------------------


def test_a_queue_that_nobody_made_is_missing_and_nothing_worse(queues: Queues, name: str) -> None:
    with pytest.raises(QueueMissing):
        queues.count(name)
    with pytest.raises(QueueMissing):
        queues.peek(name)


def test_what_microsofts_client_wrote_is_read_with_its_times(
    queues: Queues, sdk: QueueClient, name: str
) -> None:
    sdk.send_message('{"a": "<&>"}', time_to_live=3600)
    (message,) = queues.peek(name)
    assert message.text == '{"a": "<&>"}'
    assert abs(message.inserted - datetime.now(UTC)) < timedelta(minutes=1)
    assert message.expires - message.inserted == timedelta(hours=1)
    assert queues.count(name) == 1


def test_a_message_that_never_expires_is_read_too(
    queues: Queues, sdk: QueueClient, name: str
) -> None:
    sdk.send_message("for ever", time_to_live=-1)
    (message,) = queues.peek(name)
    assert message.expires.year == 9999


def test_peeking_changes_nothing(queues: Queues, sdk: QueueClient, name: str) -> None:
    sdk.send_message("seen")
    queues.peek(name)
    queues.peek(name)
    (message,) = sdk.receive_messages()
    assert message.dequeue_count == 1


def test_one_request_shows_the_first_messages_and_the_count_tells_of_all(
    queues: Queues, sdk: QueueClient, name: str
) -> None:
    for number in range(PEEK + 3):
        sdk.send_message(str(number))
    assert [message.text for message in queues.peek(name)] == [str(each) for each in range(PEEK)]
    assert queues.count(name) == PEEK + 3


def test_a_hidden_message_is_counted_and_not_shown(
    queues: Queues, sdk: QueueClient, name: str
) -> None:
    sdk.send_message("aGlkZGVu", visibility_timeout=600)
    assert queues.peek(name) == []
    assert queues.count(name) == 1


@pytest.mark.parametrize("text", ["eyJhIjogMX0=", '{"a": 1}'])
def test_a_body_is_read_whether_or_not_the_host_encodes(
    queues: Queues, sdk: QueueClient, name: str, text: str
) -> None:
    sdk.send_message(text)
    assert queues.peek(name)[0].body == b'{"a": 1}'


def test_a_wrong_key_is_refused_and_stands_in_no_error(
    azurite: Azurite, http: httpx.Client, name: str
) -> None:
    wrong = azurite.connection_string.replace(EMULATOR_KEY, KEY)
    with pytest.raises(StorageRefused) as refused:
        opened(wrong, http).count(name)
    assert refused.value.status == 403
    assert refused.value.code == "AuthenticationFailed"
    assert KEY not in repr(refused.value)


@pytest.mark.parametrize("question_mark", ["", "?"])
def test_a_shared_access_signature_opens_the_queues(
    azurite: Azurite, sdk: QueueClient, http: httpx.Client, name: str, question_mark: str
) -> None:
    sdk.send_message("signed")
    queues = opened(signed(azurite, "rwdlacup", question_mark), http)
    assert queues.peek(name)[0].text == "signed"
    assert queues.count(name) == 1


def test_a_signature_without_the_permission_is_refused(
    azurite: Azurite, sdk: QueueClient, http: httpx.Client, name: str
) -> None:
    with pytest.raises(StorageRefused) as refused:
        opened(signed(azurite, "w"), http).peek(name)
    assert refused.value.code == "AuthorizationPermissionMismatch"


def signed(azurite: Azurite, permission: str, before: str = "") -> str:
    with QueueServiceClient.from_connection_string(azurite.connection_string) as service:
        signature = account_sas(
            EMULATOR,
            EMULATOR_KEY,
            "sco",
            permission,
            datetime.now(UTC) + timedelta(hours=1),
            protocol="http,https",
        )
        return f"QueueEndpoint={service.url.rstrip('/')};SharedAccessSignature={before}{signature}"


def test_a_storage_that_is_down_is_an_error_of_the_network(http: httpx.Client, name: str) -> None:
    with pytest.raises(httpx.ConnectError):
        opened(f"AccountName=a;AccountKey={KEY};QueueEndpoint=http://127.0.0.1:1/a", http).count(
            name
        )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"<QueueMessagesList><QueueMessage/></QueueMessagesList>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><QueueMessagesList>&a;</QueueMessagesList>',
        (
            b"<QueueMessagesList><QueueMessage><MessageId>1</MessageId><InsertionTime>then"
            b"</InsertionTime><ExpirationTime>later</ExpirationTime></QueueMessage></QueueMessagesList>"
        ),
        b'<?xml version="1.0" encoding="nonsense"?><QueueMessagesList/>',
    ],
)
def test_what_is_no_list_of_messages_is_a_refusal(http: httpx.Client, body: bytes) -> None:
    async def answer(_: Request) -> Response:
        return Response(body, headers={"x-ms-error-code": "a sentence, not a word"})

    with Server(Starlette(routes=[Route("/{path:path}", answer)])) as server:
        queues = Queues(Account(server.url, "key", "name", b"key"), http)
        with pytest.raises(StorageRefused):
            queues.peek("queue")
        with pytest.raises(StorageRefused) as refused:
            queues.count("queue")
        assert refused.value.code == ""


def test_a_refusal_keeps_the_storages_word_and_none_of_its_sentences(http: httpx.Client) -> None:
    words = {"/one": "AuthorizationFailure", "/two": "a canary sentence", "/three": ""}

    async def refuse(request: Request) -> Response:
        return Response("canary", 403, {"x-ms-error-code": words[request.url.path]})

    with Server(Starlette(routes=[Route("/{path:path}", refuse)])) as server:
        queues = Queues(Account(server.url, "key", "name", b"key"), http)
        for queue, word in (("one", "AuthorizationFailure"), ("two", ""), ("three", "")):
            with pytest.raises(StorageRefused) as refused:
                queues.count(queue)
            assert refused.value.code == word
            assert CANARY not in str(refused.value)


def test_each_request_says_when_it_was_signed(http: httpx.Client) -> None:
    """Azure refuses what is older than a quarter of an hour; Azurite takes anything."""
    signed: list[str] = []

    async def listen(request: Request) -> Response:
        signed.append(request.headers["x-ms-date"])
        return Response(headers={"x-ms-approximate-messages-count": "0"})

    with Server(Starlette(routes=[Route("/queue", listen)])) as server:
        Queues(Account(server.url, "key", "name", b"key"), http).count("queue")
    (date,) = signed
    assert date.endswith(" GMT")
    assert abs(parsedate_to_datetime(date) - datetime.now(UTC)) < timedelta(minutes=1)


# -- an identity ---------------------------------------------------------------------------------


class Door:
    """A queue service that lets in whoever has a token of the sandbox's Entra for storage."""

    def __init__(self, entra: Entra) -> None:
        self.entra = entra
        self.tokens: list[str] = []
        self.app = Starlette(routes=[Route("/{path:path}", self._serve)])

    async def _serve(self, request: Request) -> Response:
        kind, _, token = request.headers["authorization"].partition(" ")
        assert kind == "Bearer"
        self.entra.verify(token, "https://storage.azure.com/")
        self.tokens.append(token)
        return Response(headers={"x-ms-approximate-messages-count": "3"})


def test_an_identity_opens_the_queues_with_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity("11111111-2222-3333-4444-555555555555", "principal")
    with Authority() as authority:
        tls = authority.server_context()
        entra = Entra(clients={}, resources=["https://storage.azure.com/"])
        door = Door(entra)
        endpoint = IdentityEndpoint(entra, [identity])
        with (
            Server(entra.app, tls=tls),
            Server(door.app, tls=tls) as storage,
            Server(endpoint.app) as platform,
            httpx.Client(verify=authority.client_context(), trust_env=False) as http,
        ):
            for setting, value in endpoint.environment(platform.url).items():
                monkeypatch.setenv(setting, value)
            queues = Queues(
                account(
                    {
                        "AzureWebJobsStorage__queueServiceUri": f"{storage.url}/",
                        "AzureWebJobsStorage__credential": "managedidentity",
                        "AzureWebJobsStorage__clientId": identity.client_id,
                    }
                ),
                http,
            )
            assert [queues.count("a"), queues.count("b")] == [3, 3]
        assert len(set(door.tokens)) == endpoint.requests == 1


def test_an_identity_that_this_machine_does_not_have_is_named(
    monkeypatch: pytest.MonkeyPatch, http: httpx.Client
) -> None:
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
    with pytest.raises(CredentialRefused) as refused:
        Queues(account({"AzureWebJobsStorage__accountName": "contoso"}), http).count("queue")
    assert refused.value.reason == "identity_missing"


def test_the_scope_is_the_resource_with_its_slash() -> None:
    assert SCOPE.removesuffix("/.default") == "https://storage.azure.com/"


# -- the settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url", "kind"),
    [
        (
            (
                f"DefaultEndpointsProtocol=https;AccountName=contoso;AccountKey={KEY};"
                "EndpointSuffix=core.windows.net"
            ),
            "https://contoso.queue.core.windows.net",
            "key",
        ),
        (f"AccountName=contoso;AccountKey={KEY}", "https://contoso.queue.core.windows.net", "key"),
        (
            f" AccountName = contoso ; accountkey = {KEY} ; EndpointSuffix=core.chinacloudapi.cn;",
            "https://contoso.queue.core.chinacloudapi.cn",
            "key",
        ),
        (
            "QueueEndpoint=https://contoso.queue.core.windows.net/;SharedAccessSignature=sv=1&sig=a",
            "https://contoso.queue.core.windows.net",
            "sas",
        ),
        ("UseDevelopmentStorage=true", f"http://127.0.0.1:10001/{EMULATOR}", "key"),
        (
            "UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://azurite",
            f"http://azurite:10001/{EMULATOR}",
            "key",
        ),
    ],
)
def test_a_connection_string_leads_to_its_queues(text: str, url: str, kind: str) -> None:
    found = account({"AZUREWEBJOBSSTORAGE": text})
    assert (found.url, found.kind) == (url, kind)
    assert KEY not in repr(found)


def test_an_identity_leads_to_the_queues_of_its_account() -> None:
    found = account({"AzureWebJobsStorage__accountName": "contoso", "AzureWebJobsStorage": "  "})
    assert found.url == "https://contoso.queue.core.windows.net"
    assert found.identity == ManagedIdentity(None)


def test_an_identity_may_be_named_for_all_of_the_app() -> None:
    environ = {"AzureWebJobsStorage__accountName": "contoso", "AZURE_CLIENT_ID": "one"}
    assert account(environ).identity == ManagedIdentity("one")
    environ["AzureWebJobsStorage__clientId"] = "another"
    assert account(environ).identity == ManagedIdentity("another")


def test_the_whole_setting_counts_before_its_parts() -> None:
    found = account(
        {
            "AzureWebJobsStorage__accountName": "contoso",
            "AzureWebJobsStorage": "UseDevelopmentStorage=true",
        }
    )
    assert found.is_emulator


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "is not set"),
        ({"": f"{CANARY}"}, "no connection string"),
        ({"": f"AccountName={CANARY}"}, "no connection string"),
        ({"": f"AccountKey={KEY}"}, "no connection string"),
        ({"": f"AccountName=a;AccountKey={CANARY}"}, "not whole"),
        ({"": f"AccountName=a;AccountKey={CANARY}!!=="}, "not whole"),
        ({"": f"AccountName=a;AccountKey={KEY};QueueEndpoint=ftp://{CANARY}"}, "no connection"),
        ({"": f"AccountName=a;AccountKey={KEY};QueueEndpoint=http://a:{CANARY}"}, "no connection"),
        ({"": f"AccountName=a;AccountKey={KEY};QueueEndpoint=http://[{CANARY}"}, "no connection"),
        ({"": f"QueueEndpoint=http://a.example;SharedAccessSignature={CANARY}"}, "in the open"),
        ({"": f"@Microsoft.KeyVault(SecretUri=https://{CANARY})"}, "Key Vault reference"),
        ({"__credential": "managedidentity"}, "is not set"),
        ({"__accountName": f"{CANARY}.example/"}, "no name of a storage account"),
        ({"__queueServiceUri": f"http://{CANARY}.example"}, "no https URL"),
        ({"__accountName": "a1b", "__clientSecret": CANARY}, "only the host can use"),
    ],
)
def test_what_leads_nowhere_is_named_without_its_value(
    settings: dict[str, str], expected: str
) -> None:
    environ = {f"AzureWebJobsStorage{name}": value for name, value in settings.items()}
    with pytest.raises(StorageUnusable, match=expected) as unusable:
        account(environ)
    assert CANARY not in str(unusable.value)
    assert unusable.value.__cause__ is None
