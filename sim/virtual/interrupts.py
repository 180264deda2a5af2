"""Where signals get through to compiled code."""


def interruptible() -> None:
    """Let Python run the handlers of signals that have come. Entering an interpreted function does that, and compiled code never
    does it by itself: so this module must not be compiled."""
