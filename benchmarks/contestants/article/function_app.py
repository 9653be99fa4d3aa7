"""The algorithm of the article's C# function, in Python.

A new token for each callback, by a request written by hand; new connections each time; the body
made by pasting the values into JSON text. The TLS context is made once: loading the trusted CAs
for each client is a cost of Python's, which .NET does not have.
"""

import os

import azure.functions as func
import httpx

TOKEN_URL = os.environ["TOKEN_URL"]
DYNAMICS_URL = os.environ["DYNAMICS_URL"]
CONTEXT = httpx.create_ssl_context()

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


@app.route("callback", methods=["GET"])
async def callback(req: func.HttpRequest) -> func.HttpResponse:
    """Get a token, then post the code and the state to Dynamics."""
    code, state = req.params.get("code"), req.params.get("state")
    form = {
        "grant_type": "client_credentials",
        "client_id": os.environ["CLIENT_ID"],
        "client_secret": os.environ["CLIENT_SECRET"],
        "scope": os.environ["DYNAMICS_SCOPE"],
    }
    async with httpx.AsyncClient(verify=CONTEXT, timeout=30) as http:
        token = (await http.post(TOKEN_URL, data=form)).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = f'{{"code": "{code}", "state": "{state}"}}'
    async with httpx.AsyncClient(verify=CONTEXT, timeout=30) as http:
        answer = await http.post(DYNAMICS_URL, content=body, headers=headers)
    return func.HttpResponse(answer.text, status_code=answer.status_code)
