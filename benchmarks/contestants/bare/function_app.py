"""The function that one writes first: HTTPX as it comes, the token in a variable.

One client for the life of the process, one request for a token at a time. No check of the state,
nothing kept when Dynamics is down, no page for a person.
"""

import asyncio
import os
import time

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

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
http = httpx.AsyncClient(timeout=30)
lock = asyncio.Lock()
token, renew_at = "", 0.0


async def bearer() -> str:
    """Return the token, or fetch one when there is none that lives for five more minutes."""
    global token, renew_at  # noqa: PLW0603 - as such functions have it
    async with lock:
        if time.monotonic() >= renew_at:
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
    answer = await http.post(
        DYNAMICS_URL,
        json={"code": code, "state": state},
        headers={"Authorization": f"Bearer {await bearer()}", "Prefer": "return=minimal"},
    )
    if answer.is_error:
        return func.HttpResponse("Dynamics did not take it", status_code=502)
    return func.HttpResponse('{"outcome": "delivered"}', mimetype="application/json")
