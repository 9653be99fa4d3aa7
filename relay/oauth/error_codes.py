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

_DECISIONS = frozenset(
    {
        "access_denied",
        "user_cancelled",  # Tink
        "user_cancelled_authorize",  # Apple, LinkedIn
        "user_cancelled_login",  # LinkedIn
        "usercancelledsession",  # GoCardless Bank Account Data
    }
)


def is_decision(error: str) -> bool:
    """Tell whether a person decided so; any other error is a fault that somebody has to mend."""
    return error.lower() in _DECISIONS  # Adobe sends ACCESS_DENIED


def known(error: str) -> str:
    """Return the error if it is a registered one, else `other`: a word that may be logged."""
    return error if error in REGISTERED else "other"
