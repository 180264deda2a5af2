"""What a run that goes nowhere says of itself: who is doing what, and who waits for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World


def explain(world: World) -> str:
    """A line for every node and every client."""
    lines = [of_host(host) for host in world.hosts.values()]
    return "\n".join(lines + [client.explain() for client in world.clients])


def of_host(host: Host) -> str:
    """What a node is doing, and what keeps it."""
    if host.lost:
        return f"{host.name}: lost: {host.lost}"
    world = host.world
    if host.replica is None:
        dark = not world.power.powered(host.name)
        return f"{host.name}: {'without power' if dark else host.crashed or 'not running'}"
    view = host.replica.core.observe()
    words = [
        f"{host.name}: {view.role}, term {view.term}, vote {view.voted_for}, leader {view.leader}",
        f"log {view.first_index}..{view.last_index}, durable {view.durable_index}, commit {view.commit_index}",
        f"applied {host.replica.state.applied_index}",
    ]
    now = world.timeline.now
    if host.paused_until > now:
        words.append(f"paused for another {host.paused_until - now} us")
    if view.storage_stalled or host.stall is not None:
        words.append("its disk is stalled")
    if host.replica.quarantined:
        words.append(host.replica.quarantined)
    deaf = [link.source for link in world.network.peer_links() if link.dest == host.name and link.cuts]
    if deaf:
        words.append(f"hears nothing of {', '.join(deaf)}")
    return "; ".join(words)
