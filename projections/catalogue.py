"""All projections that are fed from the log, by name. What is not listed here is not maintained."""

from projections.audit import AUDIT
from projections.tables import Projection
from projections.usage import USAGE

PROJECTIONS: tuple[Projection, ...] = (AUDIT, USAGE)
