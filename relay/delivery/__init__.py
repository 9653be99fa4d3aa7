"""Dynamics' side: a verified callback, and the way there."""
