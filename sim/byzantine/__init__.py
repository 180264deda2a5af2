"""Nodes that lie: strategies that wrap a node from outside, and harnesses that search for what liars could break."""
