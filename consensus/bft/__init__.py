"""Jolteon: a Byzantine-fault-tolerant log (Gelashvili et al., "Jolteon and Ditto", FC 2022), for hybrid committees."""
