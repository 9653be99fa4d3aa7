"""The bare function, with one HTTPX transport for each connection to Dynamics.

HTTPX's pool looks through all of its connections and requests at every request. Here each
transport holds one connection, and a free one is taken from a stack.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import azure.functions as func
import httpx

TOKEN_URL = os.environ["TOKEN_URL"]
DYNAMICS_URL = os.environ["DYNAMICS_URL"]
CREDENTIALS = {
    "grant_type": "client_credentials",
    "client_id": os.environ["CLIENT_ID"],
    "client_secret": os.environ["CLIENT_SECRET"],
    "scope": os.environ["DYNAMICS_SCOPE"],
}
MOST = 100
ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1)

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
context = httpx.create_ssl_context()
free: list[httpx.AsyncClient] = []
slots = asyncio.Semaphore(MOST)
lock = asyncio.Lock()
token, renew_at = "", 0.0


@asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Lend the client that was used last, or a new one."""
    async with slots:
        http = free.pop() if free else httpx.AsyncClient(verify=context, limits=ONE, timeout=30)
        try:
            yield http
        finally:
            free.append(http)


async def bearer() -> str:
    """Return the token, or fetch one when there is none that lives for five more minutes."""
    global token, renew_at  # noqa: PLW0603 - as such functions have it
    async with lock:
        if time.monotonic() >= renew_at:
            async with httpx.AsyncClient(verify=context, timeout=30) as http:
                answer = (await http.post(TOKEN_URL, data=CREDENTIALS)).raise_for_status().json()
            token = answer["access_token"]
            renew_at = time.monotonic() + answer["expires_in"] - 300
    return token


@app.route("callback", methods=["GET"])
async def callback(req: func.HttpRequest) -> func.HttpResponse:
    """Post the code and the state to Dynamics."""
    code, state = req.params.get("code"), req.params.get("state")
    if not code or not state:
        return func.HttpResponse("code and state are required", status_code=400)
    headers = {"Authorization": f"Bearer {await bearer()}", "Prefer": "return=minimal"}
    async with client() as http:
        answer = await http.post(DYNAMICS_URL, json={"code": code, "state": state}, headers=headers)
    if answer.is_error:
        return func.HttpResponse("Dynamics did not take it", status_code=502)
    return func.HttpResponse('{"outcome": "delivered"}', mimetype="application/json")
