"""A stand-in for a node's process: listens where its config says, echoes, says that it serves, leaves on
SIGTERM.

A file `mode` beside the config changes it:

- `crash`: exits with 7 after a last word
- `stubborn`: ignores SIGTERM
- `family`: has a child of its own; `orphans`: leaves it behind
- `mute`: never says that it serves
- `unsynced`: appends to a file without syncing it
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

config_path = Path(sys.argv[1])
config = tomllib.loads(config_path.read_text())
mode_path = config_path.with_name("mode")
mode = mode_path.read_text() if mode_path.exists() else ""


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


if mode == "crash":
    say("failed", reason="told to")
    print("last words", file=sys.stderr, flush=True)
    sys.exit(7)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if mode in ("family", "orphans"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    say("family", pid=child.pid)
    if mode == "orphans":
        os._exit(7)
if mode == "unsynced":
    from node.disk import Append, Create, Sync, SyncDirectory
    from node.io.disk import FileDisk

    disk = FileDisk(config_path.parent / config["data"], config_path.parent / config["storage"]["platter"])
    disk.perform([Create("extra.seg"), Append("extra.seg", b"s" * 4096), Sync("extra.seg"), SyncDirectory()])
    disk.perform([Append("extra.seg", b"u" * 100_000)])

listeners = []
for key in ("listen", "http"):
    host, port = config[key].rsplit(":", 1)
    listeners.append(socket.create_server((host, int(port))))
if mode != "mute":
    say("serving", node=config["node"], pid=os.getpid())
ends = list(listeners)
while True:
    for ready in select.select(ends, [], [])[0]:
        if ready in listeners:
            ends.append(ready.accept()[0])
            continue
        try:
            data = ready.recv(65536)
        except OSError:
            data = b""
        if data:
            ready.sendall(data)
        else:
            ends.remove(ready)
            ready.close()
