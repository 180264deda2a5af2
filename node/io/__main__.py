"""`python -m node.io --config FILE`: run one node. See `node.io.command`."""

import gc
import os
import signal

if __name__ == "__main__":
    # Loading makes some hundred thousand objects and no garbage: walking through them would be an eighth of the start.
    # `command.settle` puts an end to this.
    gc.disable()
    # Until the node serves nothing has been promised in this life of it, so there is nothing to finish.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))

    from node.io.command import main

    main(prog_name="python -m node.io")
