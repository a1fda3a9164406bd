"""Classes for nas-osr, each the smallest of its kind, used by their dotted paths: `--rule osr_extras.Margin`."""

from osr_extras.objectives import Prototypes as Prototypes
from osr_extras.operations import Patches as Patches
from osr_extras.operations import Separable as Separable
from osr_extras.rules import Margin as Margin
from osr_extras.sources import Rings as Rings
from osr_extras.strategies import Climb as Climb
