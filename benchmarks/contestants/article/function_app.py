"""What the article's C# function does, in Python: blocking calls, and JSON made by pasting.

ADAL keeps tokens in a cache that the whole process shares, unless it is given another one, and
.NET keeps the connections of its WebRequests: so do the variable and the session here. A `def`
function runs in the worker's threads, as a blocking C# function does in .NET's.
"""

import os
import time

import azure.functions as func
import requests

TOKEN_URL = os.environ["TOKEN_URL"]
DYNAMICS_URL = os.environ["DYNAMICS_URL"]
FORM = {
    "grant_type": "client_credentials",
    "client_id": os.environ["CLIENT_ID"],
    "client_secret": os.environ["CLIENT_SECRET"],
    "scope": os.environ["DYNAMICS_SCOPE"],
}

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
http = requests.Session()
token, renew_at = "", 0.0


def bearer() -> str:
    """Return the token, or fetch one when there is none that lives for five more minutes."""
    global token, renew_at  # noqa: PLW0603 - as such functions have it
    if time.monotonic() >= renew_at:
        answer = http.post(TOKEN_URL, data=FORM, timeout=30).json()
        token = answer["access_token"]
        renew_at = time.monotonic() + answer["expires_in"] - 300
    return token


@app.route("callback", methods=["GET"])
def callback(req: func.HttpRequest) -> func.HttpResponse:
    """Get the token, then post the code and the state to Dynamics."""
    code, state = req.params.get("code"), req.params.get("state")
    headers = {"Authorization": f"Bearer {bearer()}", "Content-Type": "application/json"}
    body = f'{{"code": "{code}", "state": "{state}"}}'
    answer = http.post(DYNAMICS_URL, data=body, headers=headers, timeout=30)
    return func.HttpResponse(answer.text, status_code=answer.status_code)
