"""Oracles: they watch a run from outside and say when something happens that must never happen."""
