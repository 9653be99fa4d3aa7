"""The OAuth client in Dynamics, in Python instead of X++: start a flow, redeem its code, refresh.

RFC 6749 sections 4.1 and 6, with PKCE (RFC 7636).
"""

import base64
import hashlib
import secrets
import ssl
from typing import Any
from urllib.parse import urlencode

import httpx

from sandbox.dynamics import Dynamics
from sandbox.provider import Registration

TIMEOUT = httpx.Timeout(10)


class ConsumerError(Exception):
    """The state was not issued here, was used already or has no row; or the flow was declined."""


class Consumer:
    """The OAuth client inside `dynamics`, registered at the provider as `registration`.

    `provider_url` is the provider's issuer, `redirect_uri` the relay's callback, `tls` what to
    trust. Failed calls raise `httpx.HTTPStatusError`.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        provider_url: str,
        registration: Registration,
        redirect_uri: str,
        tls: ssl.SSLContext,
    ) -> None:
        self.dynamics = dynamics
        self.provider_url = provider_url
        self.registration = registration
        self.redirect_uri = redirect_uri
        self.tls = tls
        self.pending: dict[str, str] = {}
        """The `code_verifier` of every unfinished flow, by its state."""

    def start(self, *, response_mode: str | None = None, state: str | None = None) -> str:
        """Mint a state; return the URL to send the person to (RFC 6749, 4.1.1; RFC 7636, 4.3).

        `state`: one that was minted already.
        """
        state, verifier = state or secrets.token_urlsafe(24), secrets.token_urlsafe(32)
        self.pending[state] = verifier
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        parameters = {
            "response_type": "code",
            "client_id": self.registration.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.registration.scope,
            "state": state,
            "code_challenge": challenge.decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        if response_mode:
            parameters["response_mode"] = response_mode
        return f"{self.provider_url}/authorize?{urlencode(parameters)}"

    def redeem(self, state: str) -> dict[str, Any]:
        """Exchange the code in the row of `state` for tokens, once (RFC 6749, 4.1.3)."""
        if state not in self.pending:
            raise ConsumerError("This state was not issued here, or was used already.")
        names, row = self.dynamics.names, self.dynamics.rows.get(state)
        if row is None:
            raise ConsumerError("Nothing has arrived for this state yet.")
        verifier = self.pending.pop(state)
        if row.get(names.error):
            raise ConsumerError(f"The provider answered {row[names.error]}.")
        return self._ask_for_tokens(
            {
                "grant_type": "authorization_code",
                "code": row[names.code],
                "redirect_uri": self.redirect_uri,
                "code_verifier": verifier,
            }
        )

    def refresh(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """Exchange the refresh token for new tokens (RFC 6749, 6)."""
        return self._ask_for_tokens(
            {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        )

    def call(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """Call the provider's API for the person who consented; return its JSON."""
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        with self._client() as client:
            return _json(client.get("/api/me", headers=headers))

    def _ask_for_tokens(self, form: dict[str, str]) -> dict[str, Any]:
        credentials = {
            "client_id": self.registration.client_id,
            "client_secret": self.registration.client_secret,
        }
        with self._client() as client:
            return _json(client.post("/token", data={**form, **credentials}))

    def _client(self) -> httpx.Client:
        # No trust_env: loopback needs no proxy.
        return httpx.Client(
            base_url=self.provider_url, verify=self.tls, timeout=TIMEOUT, trust_env=False
        )


def _json(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body
