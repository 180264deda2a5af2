"""Streams of interactions to learn from, and the measure of what was learned."""
