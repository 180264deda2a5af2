"""Histories as others write them, read for the general checker; see `load`."""

from sim.check.formats.events import MODELS, Event, FormatError, Loaded, pair
from sim.check.formats.own import convert
from sim.check.formats.readers import FORMATS, detect, load

__all__ = ["FORMATS", "MODELS", "Event", "FormatError", "Loaded", "convert", "detect", "load", "pair"]
