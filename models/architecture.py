"""What describes a network: plain data that a run config can hold and a wire can carry."""

from dataclasses import dataclass

from models.errors import ModelError

# What samples of one axis most likely are.
ROWS = ". Rows of a table are for model = 'mlp', which a run config can say"


@dataclass(frozen=True)
class Architecture:
    """A network before it is built.

    model    a name of `models.FAMILIES`, or ``module:function`` that makes a module of an Architecture
    shape    of one sample: (channels, height, width) of an image, (time, features) of a sequence
    classes  number of outputs
    width    units of the narrowest hidden layer; 0: the family's usual
    depth    layers, counted as the family's name counts them; 0: the family's usual
    norm     "batch", "layer" or "none"; "": the family's usual
    """

    model: str
    shape: tuple[int, ...]
    classes: int
    width: int = 0
    depth: int = 0
    norm: str = ""

    @property
    def image(self) -> tuple[int, int, int]:
        """(channels, height, width); raises `ModelError` when the samples are no images."""
        if len(self.shape) != 3:
            raise ModelError(
                f"{self.model}: shape {self.shape}: expected (channels, height, width)"
                f"{ROWS if len(self.shape) == 1 else ''}"
            )
        channels, height, width = self.shape
        return channels, height, width
