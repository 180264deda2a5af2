"""Campaigns over seeds, replay of one of them, and the shrinking of what failed."""
