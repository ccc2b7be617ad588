"""The networks we ship, and the way to any other.

network = models.build(Architecture("resnet20", shape=(3, 32, 32), classes=10, width=32), seed=0)
"""

from models.architecture import Architecture
from models.build import FAMILIES, Family, build, head_name, size_bytes
from models.errors import ModelError
from models.example import example_inputs, not_taken

__all__ = [
    "FAMILIES",
    "Architecture",
    "Family",
    "ModelError",
    "build",
    "example_inputs",
    "head_name",
    "not_taken",
    "size_bytes",
]
