"""The shell of a node and its client: the only place with trio, sockets, TLS, files and clocks."""
