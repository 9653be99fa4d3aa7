"""What an operator runs. Nothing that serves a callback imports it."""
