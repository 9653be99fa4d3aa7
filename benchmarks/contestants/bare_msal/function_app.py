"""The same with MSAL for the token: its client at module level, its cache as it comes.

MSAL blocks, so it runs in a thread, as its documentation and Azure's say.
"""

import asyncio
import os

import azure.functions as func
import httpx
import msal

DYNAMICS_URL = os.environ["DYNAMICS_URL"]
SCOPES = [os.environ["DYNAMICS_SCOPE"]]

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
http = httpx.AsyncClient(timeout=30)
entra = msal.ConfidentialClientApplication(
    os.environ["CLIENT_ID"],
    authority=os.environ["AUTHORITY"],
    client_credential=os.environ["CLIENT_SECRET"],
    # At the real Entra it asks nobody either: login.microsoftonline.com is known to it.
    instance_discovery=False,
)


@app.route("callback", methods=["GET"])
async def callback(req: func.HttpRequest) -> func.HttpResponse:
    """Post the code and the state to Dynamics."""
    code, state = req.params.get("code"), req.params.get("state")
    if not code or not state:
        return func.HttpResponse("code and state are required", status_code=400)
    result = await asyncio.to_thread(entra.acquire_token_for_client, SCOPES)
    if "access_token" not in result:
        return func.HttpResponse("no token", status_code=502)
    answer = await http.post(
        DYNAMICS_URL,
        json={"code": code, "state": state},
        headers={"Authorization": f"Bearer {result['access_token']}", "Prefer": "return=minimal"},
    )
    if answer.is_error:
        return func.HttpResponse("Dynamics did not take it", status_code=502)
    return func.HttpResponse('{"outcome": "delivered"}', mimetype="application/json")
