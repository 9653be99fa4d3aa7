"""No cookies between the relay and the servers that it calls."""

from http.cookiejar import CookieJar, DefaultCookiePolicy


def none() -> CookieJar:
    """Return a jar that takes nothing.

    Every callback stands for itself: what a server sets is not carried to the next person's.
    """
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))
