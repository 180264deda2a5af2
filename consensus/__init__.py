"""Protocol cores: pure state machines. No clock, no I/O, no randomness but what is handed in."""
