"""Checks of what a run left behind: client history, node folders, claims; and the verdict made of them."""
