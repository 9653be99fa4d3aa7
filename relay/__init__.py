"""The redirect URI that Dynamics 365 does not have.

One callback, step by step; `flow.py` tells it in full:

1.  `function_app.callback` hands the raw request to `flow.Relay.receive`.
2.  `oauth.request` reads its parameters, within limits.
3.  `oauth.authorization.parse` makes an `AuthorizationResponse` of them, not believed yet.
4.  `oauth.state.verify` makes a `VerifiedResponse` of that.
5.  `oauth.authorization.check` holds it against RFC 6749 and RFC 9207.
6.  `delivery.single_flight` makes one delivery of a double click.
7.  `entra.tokens` has a bearer token for Dynamics, mostly at once.
8.  `body.Template` writes the JSON that Dynamics wants.
9.  `delivery.dynamics` posts it and reads the answer, or `delivery.sealing` seals it to be held.
10. `log` writes one line, and `pages` tell the person what happened.

Dynamics redeems the code; the relay never does.
"""

__version__ = "1.0.0"
