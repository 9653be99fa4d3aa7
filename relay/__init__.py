"""The redirect URI that Dynamics 365 does not have.

One callback walks like this:

1.  `function_app.callback` hands the raw request to `flow.Relay.receive`.
2.  `authorization.parse` turns it into an `AuthorizationResponse`, or refuses it.
3.  `state.verify` makes a `VerifiedResponse` of it: from here on it is believed.
4.  `authorization.check` holds it against RFC 6749 and RFC 9207.
5.  `tokens.TokenCache` has a bearer token from Entra for Dynamics, mostly at once.
6.  `body.Template` writes the JSON that Dynamics wants.
7.  `dynamics.DynamicsClient` posts it, once, and reads the answer.
8.  `once.Once` makes one delivery of a double click.
9.  `log` writes one line, and `pages` tell the person the truth.
10. Dynamics redeems the code; the relay never does.
"""

__version__ = "1.0.0"
