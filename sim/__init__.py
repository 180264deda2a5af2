"""Experiments on the cluster: virtual and real worlds, faults, checks, reports."""
