"""The provider's side: the authorization request, and the response to it."""
