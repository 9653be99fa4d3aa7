"""Dynamics' side: a verified callback, its delivery, and the outbox."""
