"""Measures, one file each: `python3 dev.py bench` runs them all."""
