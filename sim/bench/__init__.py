"""Measurements. Every figure comes with the machine and the versions that gave it."""
