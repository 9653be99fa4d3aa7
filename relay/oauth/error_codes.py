"""The values of `error` in an authorization response, and which of them are a person's decision."""

REGISTERED = frozenset(
    {
        # RFC 6749 §4.1.2.1
        "access_denied",
        "invalid_request",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_response_type",
        # OpenID Connect Core §3.1.2.6
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "invalid_request_object",
        "invalid_request_uri",
        "login_required",
        "registration_not_supported",
        "request_not_supported",
        "request_uri_not_supported",
        # OpenID Connect Core Unmet Authentication Requirements, RFC 8707 §2, RFC 9396 §14.6
        "unmet_authentication_requirements",
        "invalid_target",
        "invalid_authorization_details",
    }
)
"""Errors of the authorization endpoint in IANA's registry "OAuth Extensions Error"."""

DECISIONS = frozenset(
    {
        "access_denied",  # Adobe sends ACCESS_DENIED
        "access-denied",  # Salesforce
        "user_cancelled",  # Tink
        "user_cancelled_authorize",  # Apple, LinkedIn
        "user_cancelled_login",  # LinkedIn
        "usercancelledsession",  # GoCardless Bank Account Data
    }
)
"""Errors by which a person has decided, in lower case."""
SET_UP = frozenset(
    {
        "aadsts65005",  # Entra: a permission of the app is not there
        "msis9605",  # AD FS: the client may not use the resource
        "permissions error",  # Meta: the app is in development
        "policy evaluation failed",  # Okta
        "user is not assigned to the client application",  # Okta
    }
)
"""Words of `error_description`, in lower case, by which these errors are no decision."""
CANCELLED = frozenset({("consent_required", "aadsts65004")})
"""Errors that are one with these words: an administrator has cancelled Entra's consent."""


def is_decision(error: str, description: str | None) -> bool:
    """Tell whether a person decided so; any other error is a fault that somebody has to mend."""
    error, words = error.lower(), (description or "").lower()
    if any(error == each and word in words for each, word in CANCELLED):
        return True
    return error in DECISIONS and not any(word in words for word in SET_UP)


def known(error: str) -> str:
    """Return the error if it is a registered one, else `other`: a word that may be logged."""
    return error if error in REGISTERED else "other"
