"""The commands for operators. No module that serves a callback imports them."""
