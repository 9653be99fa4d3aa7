"""The redirect URI that Dynamics 365 does not have.

One callback, step by step; `flow.py` has the code:

1.  `function_app.callback` hands the raw request to `flow.Relay.receive`.
2.  `oauth.request` reads its parameters, within limits.
3.  `oauth.authorization.parse` makes an `AuthorizationResponse` of them, not verified yet.
4.  `oauth.state.verify` makes a `VerifiedResponse` of that.
5.  `oauth.authorization.check` applies RFC 6749 and RFC 9207.
6.  `delivery.single_flight` delivers once what a double click sends twice.
7.  `entra.tokens` returns a bearer token for Dynamics, mostly from its cache.
8.  `body.Template` renders the JSON body.
9.  `delivery.dynamics` posts the body and reads the answer; if Dynamics or Entra cannot be reached,
    `delivery.sealing` encrypts the callback for the outbox.
10. `log` writes one line, and `pages` render the answer.

Dynamics redeems the code; the relay never does.
"""

__version__ = "1.0.0"
