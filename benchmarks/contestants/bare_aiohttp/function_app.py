"""The bare function with aiohttp instead of HTTPX."""

import asyncio
import os
import time

import aiohttp
import azure.functions as func

TOKEN_URL = os.environ["TOKEN_URL"]
DYNAMICS_URL = os.environ["DYNAMICS_URL"]
CREDENTIALS = {
    "grant_type": "client_credentials",
    "client_id": os.environ["CLIENT_ID"],
    "client_secret": os.environ["CLIENT_SECRET"],
    "scope": os.environ["DYNAMICS_SCOPE"],
}

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
lock = asyncio.Lock()
session: aiohttp.ClientSession | None = None
token, renew_at = "", 0.0


def client() -> aiohttp.ClientSession:
    """Return the session of this process; aiohttp makes one inside a running event loop only."""
    global session  # noqa: PLW0603 - as such functions have it
    if session is None:
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
    return session


async def bearer() -> str:
    """Return the token, or fetch one when there is none that lives for five more minutes."""
    global token, renew_at  # noqa: PLW0603 - as such functions have it
    async with lock:
        if time.monotonic() >= renew_at:
            async with client().post(TOKEN_URL, data=CREDENTIALS) as response:
                response.raise_for_status()
                answer = await response.json()
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
    row = {"code": code, "state": state}
    async with client().post(DYNAMICS_URL, json=row, headers=headers) as answer:
        await answer.read()
    if not answer.ok:
        return func.HttpResponse("Dynamics did not take it", status_code=502)
    return func.HttpResponse('{"outcome": "delivered"}', mimetype="application/json")
