"""The log. `PERSISTENCE_MODULE=adapters.log` gives our recorders to `eventsourcing` applications."""

from adapters.log.recorder import Factory

__all__ = ["Factory"]
