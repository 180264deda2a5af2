"""What is asked of a seed: the options from which its plan is drawn, what was brought along, and one run of it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace

from sim.faults import catalogue
from sim.faults.kind import FaultError, Kind
from sim.faults.swarm import Options, draw
from sim.virtual import subjects
from sim.virtual.plan import Plan
from sim.virtual.subjects import SubjectError
from sim.virtual.trace import Trace
from sim.virtual.world import CRASH, Result, World

SCRIPT = "python scripts/partition.py"
HARNESS = "harness"
"""In `Result.oracle`: the exception came from the harness itself, not from a node."""


@dataclass(slots=True, frozen=True)
class Request:
    """Everything but the seed. It crosses process borders and, with the code, determines every plan and every run."""

    options: Options = field(default_factory=Options)
    plugins: tuple[str, ...] = ()
    """Modules that are imported before anything runs."""
    faults: tuple[str, ...] = ()
    """Kinds of faults brought along, as `module:name` of a `sim.faults.kind.Kind`."""
    on_crash: str = "stop"
    """See `sim.virtual.world.World`."""

    def plan(self, seed: int) -> Plan:
        """The plan of a seed. Raises FaultError for a kind that does not exist."""
        return draw(seed, self.options)

    def modules(self) -> tuple[str, ...]:
        """Modules outside this project's packages that decide what a run does."""
        options = self.options
        specs = (*self.faults, *options.oracles, options.protocol, options.machine)
        found = [*self.plugins, *(spec.partition(":")[0] for spec in specs if ":" in spec)]
        return tuple(dict.fromkeys(found))

    def drawing(self) -> list[str]:
        """The command-line options that decide what is drawn from a seed, where they differ from the defaults."""
        options, usual = self.options, Options()
        words: list[str] = []
        for name in ("protocol", "machine", "nodes", "clients"):
            value = getattr(options, name)
            if value and value != getattr(usual, name):
                words += [f"--{name}", str(value)]
        for flag, values in (
            ("--fault", options.kinds),
            ("--without", options.without),
            ("--oracle", options.oracles),
        ):
            for value in values:
                words += [flag, value]
        if options.over_budget:
            words.append("--over-budget")
        return words + self.bringing()

    def bringing(self) -> list[str]:
        """The command-line options that a saved plan needs as well."""
        words: list[str] = []
        for spec in self.faults:
            words += ["--plugin-fault", spec]
        for module in self.plugins:
            words += ["--plugin", module]
        if self.on_crash != "stop":
            words += ["--on-crash", self.on_crash.replace("_", "-")]
        return words


_prepared: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()


def prepare(request: Request) -> None:
    """Import what was brought along and make its faults known, once in a process. Raises SubjectError, FaultError."""
    key = (request.plugins, request.faults)
    if key in _prepared:
        return
    for name in request.plugins:
        subjects.bring(name, f"--plugin {name}".rstrip())
    for spec in request.faults:
        kind = subjects.load(spec, "fault")
        if not isinstance(kind, Kind):
            raise SubjectError(
                f"--plugin-fault {spec}: expected a sim.faults.kind.Kind, found a {type(kind).__name__}"
            )
        catalogue.enter(kind)
    _prepared.add(key)


def check(request: Request) -> None:
    """Raise SubjectError or FaultError, with a text for whoever asked, unless runs of this request can be made."""
    prepare(request)
    options = request.options
    if options.nodes < 0 or options.clients < 1:
        raise FaultError("a run needs at least one node and one client")
    known = [name for name in (options.kinds or catalogue.KINDS) if name not in options.without]
    if options.kinds and not known:
        raise FaultError("--without takes away every fault that --fault asks for")
    possible(request, request.plan(0))


def possible(request: Request, plan: Plan) -> None:
    """Raise SubjectError or FaultError unless a world of the plan can be made."""
    least = subjects.protocol(plan.protocol).least
    if plan.nodes < least:
        raise SubjectError(f"nodes: {plan.protocol} takes at least {least} nodes, not {plan.nodes}")
    try:
        World(plan)
    except (SubjectError, FaultError):
        raise
    except Exception as error:
        brought = [
            *request.modules(),
            *(spec for spec in (plan.protocol, plan.machine) if ":" in spec),
            *plan.oracles,
        ]
        if not brought:
            raise
        raise SubjectError(
            f"no world can be made with what was brought along ({', '.join(dict.fromkeys(brought))}): "
            f"{type(error).__name__}: {error}"
        ) from error


def play(request: Request, plan: Plan, trace: Trace | None = None) -> tuple[Result, World | None]:
    """One run. An exception of the harness is a result of its own, and then there may be no world. Raises SubjectError,
    FaultError for a plan that cannot be carried out."""
    prepare(request)
    world = None
    try:
        world = World(plan, trace, request.on_crash)
        result = world.run()
    except (SubjectError, FaultError):
        raise
    except Exception as error:
        # The run ends here, as with a verdict, but the fault is ours: what is known of it is the exception.
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        text = f"{type(error).__name__}: {error}\n{where}".rstrip()
        result = Result(plan, CRASH, HARNESS, text, at=world.timeline.now if world else 0)
    return result, world


def with_seed(plan: Plan, seed: int) -> Plan:
    """The same plan, its streams drawn from another seed; the schedule stays what it is."""
    return replace(plan, seed=seed)
