"""The virtual world: time, network, disks and power as plain objects."""
