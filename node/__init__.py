"""What makes a core a node. Pure, but for `node.io`, the only place with trio, sockets and clocks."""
