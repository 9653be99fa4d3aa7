"""Microsoft Entra and AD FS: the token for Dynamics."""
