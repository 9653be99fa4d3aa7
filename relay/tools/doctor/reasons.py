"""What each outcome and each `reason=` of the log means, what to run first, and what to do.

`dead-letters` prints it, and docs/operate.md is generated from it. The texts are for people and
decide nothing; names of settings, words and fields stand between backticks, and links are
Markdown's, from docs/.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from relay.entra import refusals
from relay.errors import Hint
from relay.outcome import Outcome

_PAGE = Hint(
    "a sign-in page answers, not the service",
    "Check DYNAMICS_URL and the authority; python -m relay doctor tells more.",
)
_AWAY = Hint(
    "Dynamics is not available just now",
    "Wait some minutes and run it again; look whether the environment is being serviced.",
)
_LATE = Hint(
    "Dynamics did not answer in time",
    "Run it again in some minutes; the record may have been stored all the same.",
)
_THROTTLED = Hint("Dynamics is throttling", "Wait some minutes and run it again.")
HINTS: Mapping[str, Hint] = {
    "dynamics_400": Hint(
        "Dynamics refuses the record: a wrong property, a value too long, or its own validation",
        "Run python -m relay doctor, which compares DYNAMICS_BODY with the entity.",
    ),
    "dynamics_401": Hint(
        "Dynamics does not take the token",
        "Run python -m relay doctor, which examines the token and the registration.",
    ),
    "dynamics_403": Hint(
        "the service user may not create records",
        "Give its role Create on the entity (Finance & Operations: a privilege on the data entity; "
        "Business Central: a permission set with insert; Dataverse: Create in a security role).",
    ),
    "dynamics_404": Hint(
        "there is nothing at DYNAMICS_URL",
        "Run python -m relay doctor, which looks for the nearest name.",
    ),
    "dynamics_405": Hint(
        "no records can be created there", "Let the API page insert: in AL, InsertAllowed = true."
    ),
    "dynamics_408": _LATE,
    "dynamics_429": _THROTTLED,
    "dynamics_500": Hint(
        "Dynamics fails",
        "Run it again in some minutes; if it stays so, an exception in X++, AL or a plug-in is the "
        "likely cause: debug the entity's insert.",
    ),
    "dynamics_502": _AWAY,
    "dynamics_503": _AWAY,
    "dynamics_504": _LATE,
    "dynamics_html": _PAGE,
    "dynamics_redirect": _PAGE,
    # Those of the targets' entries: the status alone would be final.
    "dynamics_administration": Hint(
        "the environment is in administration mode",
        "When the work is done, end that mode in the Power Platform admin center.",
    ),
    "dynamics_busy": Hint(
        "its database is busy: a lock, a deadlock, a time-out, or a change by somebody else",
        "Run it again in some minutes; if it stays so, look for a batch job that locks the table.",
    ),
    "dynamics_disabled": Hint(
        "the environment is switched off, is being migrated, or is not ready",
        "Look at its state in the Power Platform admin center, and switch it on.",
    ),
    "dynamics_publishing": Hint(
        "an extension or a solution is being published or imported",
        "Wait until that has ended and run it again.",
    ),
    "dynamics_starting": Hint(
        "the environment is starting or is being updated",
        "Wait some minutes and run it again; the admin center shows updates.",
    ),
    "dynamics_throttled": _THROTTLED,
}
"""What refusals of Dynamics mean, by reason. Other statuses of 4xx and 5xx are as 400 and 500."""


class Step(NamedTuple):
    """What an outcome means, and what to run or to look at first."""

    means: str
    first: str


class Reason(NamedTuple):
    """One row: words of the log, separated by blanks, why they occur, and the remedy.

    A part between angle brackets is any word: `<status>` an HTTP status, `<number>` Entra's error
    number, `<error>` an OAuth error, `<Kind>` the class of an error of the machine. `outcomes`: of
    a line with it; the group's where there are none.
    """

    words: str
    cause: str
    remedy: str
    outcomes: tuple[Outcome, ...] = ()


class Group(NamedTuple):
    """The reasons of one side, with a note on all of them."""

    outcome: Outcome
    title: str
    note: str
    reasons: tuple[Reason, ...]

    def outcomes(self, reason: Reason) -> tuple[Outcome, ...]:
        """Return the outcomes of a reason of this group."""
        return reason.outcomes or (self.outcome,)


_PLACES = {
    "<status>": r"\d+",
    "<number>": r"\d+",
    "<error>": r"[a-z]\w*",
    "<Kind>": r"[A-Z]\w*",
}
_PLACE = re.compile(r"<\w+>")

_STORY = "[story.kql](operate-monitoring.md#the-queries) with the reference"
_DOCTOR = "`python -m relay doctor --app NAME`"

STEPS: Mapping[Outcome, Step] = {
    Outcome.DELIVERED: Step("Dynamics stored it.", "nothing"),
    Outcome.DUPLICATE: Step(
        "Dynamics has a record with this key already: a double click, a reload, a link scanner; "
        "with `{state_jti}` also another flow of the same ticket. Many at once: does Dynamics use "
        "a state twice?",
        f"{_STORY}. Where no line has a `reason=` there is nothing to do",
    ),
    Outcome.HELD: Step(
        "Entra or Dynamics cannot be reached now. The callback is sealed in the outbox and [tried "
        "again](operate-outbox.md#redelivery).",
        f"{_DOCTOR}, if it lasts: the report says which of the two is down",
    ),
    Outcome.DECLINED: Step(
        "The provider sent an error. If that was the person's decision (`access_denied` and its "
        "like), the page says so; any other error is a fault, with the page “{fault}”. A response "
        "with a state and neither a code nor an error counts as `server_error`.",
        _STORY,
    ),
    Outcome.INVALID: Step(
        "The response or its state is wrong, old or not ours. Also 405, 411, 413, 415, and 503 for "
        "a prefetch. A few are normal: anybody can open the URL. “{ended}” is the page for a "
        "response with an `error` of a specification and no usable state, “{ticket}” the one for a "
        "ticket that `/authorize` refuses.",
        "[reasons.kql](operate-monitoring.md#the-queries): many of one reason have one cause",
    ),
    Outcome.UNKNOWN: Step(
        "The path names no connection.",
        f"{_DOCTOR}: the report begins with the connections; compare the redirect URI at the "
        "provider",
    ),
    Outcome.REJECTED: Step(
        "Entra or Dynamics refuses for good. 503: unreachable and there are no `OUTBOX_KEYS`, or "
        "the provider's keys cannot be had (page “{keys}”). The person starts again afterwards.",
        _DOCTOR,
    ),
    Outcome.MISCONFIGURED: Step(
        "Settings do not validate.", f"{_DOCTOR}; the log has a line `setting …` for each too"
    ),
}
"""By outcome. Names between braces are pages: their titles stand in relay/pages/texts.json."""

GROUPS: tuple[Group, ...] = (
    Group(
        Outcome.DUPLICATE,
        "Another code",
        "",
        (
            Reason(
                "state_used_with_another_code",
                "the state came before, with another code: a person who authorized twice from "
                "one page, or a code injection",
                "compare the account in Dynamics with the person's",
                (Outcome.DUPLICATE, Outcome.DELIVERED, Outcome.HELD),
            ),
        ),
    ),
    Group(
        Outcome.DECLINED,
        "The provider refused",
        "Where the error is for Dynamics too and is not delivered, the reason is that of the "
        "delivery.",
        (
            Reason(
                "<error>",
                "the provider's `error`, where it is a registered one: `access_denied` is the "
                "person's decision, unless its description names a fault of the set-up (AD FS, "
                "Entra, Okta and Meta do so; the page then says so); `invalid_scope`, "
                "`unauthorized_client` and the like are faults of the registration; `server_error` "
                "and `temporarily_unavailable` are the provider's own",
                "with `access_denied`, ask the person; else correct at the provider what it names",
            ),
            Reason(
                "other",
                "an `error` that no specification registers",
                "the page shows the error where the state is signed",
            ),
        ),
    ),
    Group(
        Outcome.INVALID,
        "The response",
        "The person starts again; more is to do only when it comes back.",
        (
            Reason(
                "bare",
                "somebody opened the URL without parameters; or the provider answers in the "
                "fragment, whose second request follows. Answered with 200, and logged at DEBUG "
                "alone",
                "nothing. Probe [`/health?code=probe`](operate-monitoring.md#health-probes)",
            ),
            Reason(
                "method",
                "neither GET nor POST",
                "nothing",
            ),
            Reason(
                "prefetch",
                "a browser loaded the page ahead; answered with 503, without side effect",
                "nothing: the real click follows",
            ),
            Reason(
                "code_and_error",
                "the response has a code and an error",
                "report it to the provider",
            ),
            Reason(
                "implicit",
                "an `access_token`, a `token`, or an `id_token` that the settings do not expect",
                "at the provider, choose the authorization code flow (`response_type=code`)",
            ),
            Reason(
                "duplicate",
                "a parameter occurs twice with a value",
                "an attack, or a proxy that rewrites URLs",
            ),
            Reason(
                "too_large",
                "more than 8 KiB of query, 32 KiB of body, 50 parameters (`&&` counts too), or a "
                "value that is too long",
                "use `form_post` if the provider has long codes",
            ),
            Reason(
                "length_required",
                "a POST without `Content-Length`",
                "the sender must not send in chunks",
            ),
            Reason(
                "media_type",
                "a POST that is neither a form nor JSON",
                "the sender's `Content-Type`",
            ),
            Reason(
                "encoding",
                "a name, or a value that the relay or the body asks for, is not UTF-8",
                "the provider, or a proxy",
            ),
            Reason(
                "json",
                "a JSON body that is no object of strings",
                "the sender",
            ),
            Reason(
                "code_characters state_characters error_characters",
                "characters that RFC 6749 does not allow",
                "is something decoded or encoded twice? For the state: mint only letters, "
                "digits, `-`, `_`, `.`",
            ),
            Reason(
                "iss_missing",
                "no `iss`, and `PROVIDER_ISS_REQUIRED` is set",
                "unset it unless the provider's metadata promise `iss`",
            ),
            Reason(
                "iss_mismatch",
                "another issuer than `PROVIDER_ISSUER`",
                "compare them exactly, the slash at the end too. If it is right: a mix-up "
                "attack, refused",
            ),
        ),
    ),
    Group(
        Outcome.INVALID,
        "The state and the ticket",
        "The person sees one page for all of them, because a detail would help a forger only. "
        "`python -m relay state --check STATE` says which rule a state breaks; "
        "[minting.md](minting.md), how to mint both.",
        (
            Reason(
                "state_missing ticket_missing",
                "there is none",
                "look in the URL that Dynamics opened: `state` at the provider, `ticket` at "
                "`/authorize`",
            ),
            Reason(
                "ticket_repeated",
                "the ticket occurs twice",
                "the link to `/authorize` in Dynamics",
            ),
            Reason(
                "state_mismatch",
                "the state does not match `STATE_PATTERN`",
                "compare the pattern with the states that Dynamics makes; a few are strangers'",
            ),
            Reason(
                "state_size ticket_size",
                "more than 1,024 characters",
                "mint it as [minting.md](minting.md#the-format) says",
            ),
            Reason(
                "state_malformed ticket_malformed",
                "no JWT, or not in base64url: padding, the other base64 alphabet, a part that "
                "was encoded twice, a JSON member that occurs twice",
                "mint it as [minting.md](minting.md#the-format) says",
            ),
            Reason(
                "state_algorithm state_type state_critical ticket_algorithm ticket_type "
                "ticket_critical",
                "`alg`, `typ` or `crit` of its header",
                "mint it as [minting.md](minting.md#the-format) says",
            ),
            Reason(
                "state_key ticket_key",
                "a `kid` that `STATE_KEYS` does not have",
                "compare the key ID in Dynamics with `STATE_KEYS`; after a rotation the old key "
                "went "
                "too early",
            ),
            Reason(
                "state_environment ticket_environment",
                "`env`, or the group `env` of `STATE_PATTERN`, names no "
                "[environment](settings.md#environments) of the connection; or there is none, "
                "and the connection names no `DYNAMICS_URL` of its own",
                "the name of the environment in Dynamics, and `ENVIRONMENTS__<ENV>__…`",
            ),
            Reason(
                "state_audience ticket_audience",
                "for another connection, or a ticket in place of a state",
                "the connection's name, and `callback:` or `authorize:` before it",
            ),
            Reason(
                "state_times ticket_times",
                "`exp` is missing or no whole number",
                "mint it as [minting.md](minting.md#the-format) says",
            ),
            Reason(
                "state_expired ticket_expired",
                "the person took too long, or the clocks differ by more than a minute",
                "the person starts again; if all fail, the clock of Dynamics",
            ),
            Reason(
                "state_lifetime ticket_lifetime",
                "`exp` is more than an hour ahead",
                "in Dynamics take UTC, not local time",
            ),
            Reason(
                "state_early ticket_early",
                "`nbf` or `iat` is in the future",
                "in Dynamics take UTC, not local time",
            ),
            Reason(
                "ticket_params",
                "the claim `params` is not an object of at most ten strings, or names a "
                "parameter that the relay, the endpoint's query or `PROVIDER_EXTRA` sets",
                "mint it as [minting.md](minting.md#the-format) says",
            ),
            Reason(
                "state_jti ticket_jti state_cookie ticket_cookie",
                "the characters or the length of that claim",
                "mint it as [minting.md](minting.md#the-format) says",
            ),
            Reason(
                "state_signature ticket_signature",
                "another key, or forged",
                "compare the key in Dynamics with `STATE_KEYS`; decode it from base64url before "
                "use; compare the text that is signed",
            ),
            Reason(
                "state_cookie_missing",
                "another browser than the one that began, more than ten minutes, or cookies are "
                "blocked; also a second click after the first has ended the flow, on another "
                "instance",
                "",
            ),
            Reason(
                "state_cookie_mismatch state_cookie_repeated",
                "the browser's cookie is not the flow's",
                "somebody may have tried to plant one",
            ),
        ),
    ),
    Group(
        Outcome.INVALID,
        "Signed responses (JARM)",
        "",
        (
            Reason(
                "jarm_unexpected",
                "a `response` came, and the settings say nothing of it",
                "`PROVIDER_RESPONSE_MODE` to the provider's mode, such as `query.jwt`",
            ),
            Reason(
                "jarm_missing",
                "no `response` came, and the settings say that it must",
                "is the mode set at the provider? An attempt to downgrade looks the same",
            ),
            Reason(
                "jarm_beside",
                "`code`, `state` or `error` beside the `response`",
                "as above",
            ),
            Reason(
                "jarm_encrypted",
                "the response is encrypted",
                "at the provider choose signing only",
            ),
            Reason(
                "jarm_algorithm",
                "not RS256, PS256, ES256, EdDSA or Ed25519",
                "at the provider choose one of these",
            ),
            Reason(
                "jarm_issuer jarm_audience",
                "`iss` or `aud` is not the one of the settings",
                "`PROVIDER_ISSUER`, `PROVIDER_CLIENT_ID`",
            ),
            Reason(
                "jarm_key",
                "no key of the provider fits it, or more than one",
                "`PROVIDER_JWKS_URI`; right after the provider's rotation a reload helps",
            ),
            Reason(
                "jarm_signature",
                "the signature is wrong",
                "nothing, unless all fail",
            ),
            Reason(
                "jarm_size jarm_malformed jarm_type jarm_critical jarm_times jarm_expired "
                "jarm_lifetime jarm_early",
                "as for the state",
                "the provider's clock",
            ),
        ),
    ),
    Group(
        Outcome.UNKNOWN,
        "The connection",
        "",
        (
            Reason(
                "connection",
                "no connection of that name; at `/authorize` also one that has not all that "
                "starting needs",
                "the path; `PROVIDER_CLIENT_ID`, `PROVIDER_AUTHORIZATION_ENDPOINT`, "
                "`PROVIDER_REDIRECT_URI`, `STATE_POLICY`",
            ),
        ),
    ),
    Group(
        Outcome.REJECTED,
        "The provider's keys (JARM)",
        "Answered with 503; the person reloads the page.",
        (
            Reason(
                "jwks_<status> jwks_<Kind>",
                "the provider's metadata or keys answer with that status, or not at all",
                "can the app reach the provider?",
            ),
            Reason(
                "jwks_pause",
                "they failed a moment ago, and are not asked for some seconds, a minute at most",
                "the line before it has the cause",
            ),
            Reason(
                "jwks_metadata",
                "no metadata at the issuer that name it and an https `jwks_uri`",
                "`PROVIDER_ISSUER`, or set `PROVIDER_JWKS_URI`",
            ),
            Reason(
                "jwks_json jwks_size",
                "no JSON, or too much",
                "the provider",
            ),
        ),
    ),
    Group(
        Outcome.REJECTED,
        "The relay",
        "",
        (
            Reason(
                "deadline",
                "Entra and Dynamics together took longer than 90 s",
                "`DYNAMICS_TIMEOUT`, and what slows the two down",
                (Outcome.HELD,),
            ),
            Reason(
                "unforeseen",
                "a mistake in the relay",
                "[report it](#to-report-a-mistake), with the line `unforeseen …`",
                (Outcome.REJECTED, Outcome.HELD),
            ),
        ),
    ),
    Group(
        Outcome.REJECTED,
        "Entra and the identity",
        "`held` when Entra cannot be reached, answers 408, 425, 429 or 5xx, or gives one of the "
        "[refusals that pass](#the-numbers-of-entra).",
        (
            Reason(
                "AADSTS<number>",
                "Entra's own number",
                "look it up in [the numbers of Entra](#the-numbers-of-entra)",
                (Outcome.REJECTED, Outcome.HELD),
            ),
            Reason(
                "entra_<error>",
                "an OAuth error without a number, mostly of AD FS: `entra_invalid_client`, "
                "`entra_invalid_resource`, `entra_unauthorized_client`",
                "the client id and secret; the resource; the permission of the application group",
                (Outcome.REJECTED, Outcome.HELD),
            ),
            Reason(
                "entra_<Kind> entra_no_token",
                "a proxy answers in place of Entra, or an answer without a token",
                "a proxy with a page of its own? `HTTPS_PROXY`, `CA_BUNDLE`",
                (Outcome.REJECTED, Outcome.HELD),
            ),
            Reason(
                "entra_connect entra_timeout entra_tls",
                "no connection, no token within 10 s, a certificate that is not trusted",
                "firewall, private network, `CA_BUNDLE` for an AD FS of your own",
                (Outcome.HELD,),
            ),
            Reason(
                "entra_size entra_encoding",
                "an answer of more than 1 MiB, or compressed in a way that the relay did not ask "
                "for",
                "a proxy answers in place of Entra: as above",
                (Outcome.REJECTED, Outcome.HELD),
            ),
            Reason("identity_missing", *refusals.hint("identity_missing")),
            Reason(
                "identity_<status>",
                "the platform's identity endpoint refuses: 400 for an identity that is not "
                "assigned, 500 for a resource that it does not know",
                "`ENTRA_MANAGED_IDENTITY_CLIENT_ID`, `DYNAMICS_SCOPE`",
                (Outcome.REJECTED, Outcome.HELD),
            ),
            Reason(
                "identity_connect identity_timeout identity_tls identity_size identity_encoding "
                "identity_<Kind>",
                "the endpoint does not answer as it should",
                "if it stays so, restart the app",
                (Outcome.REJECTED, Outcome.HELD),
            ),
            Reason("certificate_unreadable", *refusals.hint("certificate_unreadable")),
        ),
    ),
    Group(
        Outcome.REJECTED,
        "Dynamics",
        "",
        (
            Reason(
                "dynamics_401",
                "Dynamics does not know the relay, also with a fresh token",
                "the client id in Dynamics: [F&O](finance-operations.md#2-dynamics), [Business "
                "Central](business-central.md#2-business-central), "
                "[Dataverse](dataverse.md#2-dataverse)",
            ),
            Reason(
                "dynamics_<status>",
                "400: the body does not fit, or Dynamics' own check refuses. 403: the user may not "
                "create. 404: nothing at `DYNAMICS_URL`. `held` are 429 (throttled), 408, 425 and "
                "5xx (down, or an exception in X++, AL or a plug-in). More in [the statuses of "
                "Dynamics](#the-statuses-of-dynamics)",
                "`python -m relay doctor`, then the page of your target",
                (Outcome.REJECTED, Outcome.HELD),
            ),
            Reason(
                "dynamics_administration dynamics_busy dynamics_disabled dynamics_publishing "
                "dynamics_starting dynamics_throttled",
                "the answer says that the refusal passes, although its status is final: "
                "[refusals that pass](#refusals-that-pass)",
                "nothing, unless it stays so",
                (Outcome.HELD,),
            ),
            Reason(
                "dynamics_html",
                "a page answers: Finance & Operations is being serviced, a gateway, or a sign-in "
                "page",
                "if it stays so, `DYNAMICS_URL`",
                (Outcome.HELD,),
            ),
            Reason(
                "dynamics_redirect",
                "as above; `rejected` if it leads to `ENTRA_AUTHORITY`: Finance & Operations on "
                "premises does not take the token, also a fresh one",
                "`DYNAMICS_URL`; the client id in Finance & Operations, `ENTRA_AUTHORITY`",
                (Outcome.HELD, Outcome.REJECTED),
            ),
            Reason(
                "dynamics_timeout",
                "no answer within `DYNAMICS_TIMEOUT`. Dynamics may have stored the record all the "
                "same: the next attempt finds that out",
                "a slow environment; raise the setting",
                (Outcome.HELD,),
            ),
            Reason(
                "dynamics_pause",
                "Dynamics asked this connection to wait (`Retry-After`)",
                "nothing",
                (Outcome.HELD,),
            ),
            Reason(
                "dynamics_connect dynamics_connection dynamics_tls dynamics_proxy",
                "no connection, one that broke, a certificate that is not trusted, a proxy that "
                "refuses",
                "DNS, firewall, `CA_BUNDLE`, `HTTPS_PROXY`",
                (Outcome.HELD,),
            ),
            Reason(
                "dynamics_proxy_ipv6",
                "`DYNAMICS_URL` is an IPv6 address, and the environment names a proxy",
                "a host name in `DYNAMICS_URL`, or the address in `NO_PROXY`",
                (Outcome.HELD,),
            ),
            Reason(
                "dynamics_protocol dynamics_request",
                "the server does not speak HTTP, or the request cannot be written",
                "`DYNAMICS_URL`",
                (Outcome.HELD,),
            ),
        ),
    ),
    Group(
        Outcome.REJECTED,
        "The outbox",
        "`expired` and `error_unwanted` end as a dead letter. The last five are retried until "
        "they become [poison](operate-outbox.md#dead-letters-and-poison): an hour or more to put "
        "the settings or the version right. Their lines have no reference: the message was not "
        "opened, or has no way to Dynamics.",
        (
            Reason(
                "expired",
                "the code came to its end while it was held",
                "let the person start again",
            ),
            Reason(
                "error_unwanted",
                "an error was held, and `DYNAMICS_BODY` no longer names `{error}`",
                "nothing",
            ),
            Reason(
                "outbox_share",
                "the connection's share of the redelivery's slots is taken; the callback comes "
                "again",
                "nothing. If there are many: sign the states of that connection",
                (Outcome.HELD,),
            ),
            Reason(
                "outbox_limit",
                "five callbacks of that state are held already, or 1,000 of that connection, "
                "whose states are not signed; answered with 503",
                "if strangers did it, sign the states",
                (Outcome.REJECTED, Outcome.DECLINED),
            ),
            Reason(
                "outbox_keys",
                "there are messages, and no `OUTBOX_KEYS` any more",
                "put the keys back",
            ),
            Reason(
                "outbox_seal",
                "none of `OUTBOX_KEYS` opens the message",
                "put the old key back, behind the new one",
            ),
            Reason(
                "outbox_version",
                "a newer relay wrote the message",
                "deploy that version",
            ),
            Reason(
                "outbox_environment",
                "its [environment](settings.md#environments), or the connection's own target, is "
                "no longer in the settings",
                "put it back, or let the person start again",
            ),
            Reason(
                "outbox_environment_url",
                "its environment leads to another `DYNAMICS_URL` than when it was held",
                "put the URL back, or let the person start again",
            ),
        ),
    ),
    Group(
        Outcome.MISCONFIGURED,
        "The settings",
        "",
        (
            Reason(
                "settings",
                "a setting does not validate",
                "the line `setting …`, or the doctor",
            ),
        ),
    ),
)


def find(reason: str) -> Reason | None:
    """Return what is known of a word of the log: itself, or its family."""
    rows = [(word, row) for group in GROUPS for row in group.reasons for word in row.words.split()]
    for word, row in sorted(rows, key=lambda pair: "<" in pair[0]):  # itself first
        pattern = _PLACE.sub(lambda place: _PLACES[place[0]], word)
        # Any error of the provider would fit this one.
        if word != "<error>" and re.fullmatch(pattern, reason):
            return row
    return None


def hint(reason: str) -> Hint | None:
    """Return what a word of the log means and what to do, as the table of its refusal says it."""
    if known := HINTS.get(reason):
        return known
    if refused := refusals.find(reason):
        return Hint(refused.wrong, refused.fix)
    row = find(reason)
    return None if row is None else Hint(plain(row.cause), f"{plain(row.remedy)}.")


def plain(text: str) -> str:
    """Return a text for a terminal, where a link is the page's path."""
    text = re.sub(r"\[([^]]+)\]\(#[^)]+\)", r"\1 (docs/operate.md)", text)
    return re.sub(r"\[([^]]+)\]\(([^)#]+)[^)]*\)", r"\1 (docs/\2)", text).replace("`", "")
