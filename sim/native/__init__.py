"""The simulator's hot modules, compiled by mypyc: the same sources, the same runs, about twice as fast.

`python -m sim.native build` makes them; `use()`, called before any of them is imported, has this process take them. What is
compiled stands outside the packages, under a name that depends on the sources: an edited source is never shadowed.
"""

from sim.native.finder import active, use

__all__ = ["active", "use"]
