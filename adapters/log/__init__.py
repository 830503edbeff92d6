"""The log. `PERSISTENCE_MODULE=adapters.log` gives an `eventsourcing` application our recorders."""

from adapters.log.recorder import Factory

__all__ = ["Factory"]
