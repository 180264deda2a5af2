"""Clusters of real processes on this machine: their folder, the relay that their links pass, the power
switch."""
