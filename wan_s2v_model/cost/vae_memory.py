"""Into how many tiles a pass of the VAE has to be cut for the memory that is free."""

from dataclasses import dataclass

from ..constants import SPATIAL_STRIDE
from .vae_tiles import Grid, grids, tile_area

HEADROOM = 1.2  # what the allocator takes and the figures below do not count
SIXTEEN_BIT = 2  # bytes


@dataclass(frozen=True)
class Footprint:
    """Values that live at the peak in Wan2.1's VAE, per pixel; for bytes multiply by the size of a value.

    Attributes:
        video: with what the convolutions keep of the frames before. picture: of a single frame. coarse: in the layers between latents.
    """

    video: int
    picture: int
    coarse: int


# video of DECODE: measured on a GPU, 16.06 KB per pixel in float32. The others: tensors counted, plus the workspace that this leaves.
DECODE = Footprint(video=4015, picture=600, coarse=280)
ENCODE = Footprint(video=2850, picture=600, coarse=280)


@dataclass(frozen=True)
class VaePass:
    """One way through the VAE.

    Attributes:
        name: decode or encode. height, width: in latents. value_bytes: size of a value.
        width_factor: channels as a share of those of Wan2.1's VAE. weights_bytes: of weights that have no place on the device yet.
    """

    name: str
    footprint: Footprint
    height: int
    width: int
    value_bytes: int
    is_picture: bool = False
    width_factor: float = 1.0
    weights_bytes: float = 0

    def needed_bytes(self, grid: Grid = (1, 1)) -> float:
        """Device memory with a grid of tiles."""
        values = self.footprint.picture if self.is_picture else self.footprint.video
        fine = values * tile_area(self.height, self.width, grid)
        coarse = self.footprint.coarse * self.height * self.width
        pixels_per_latent = SPATIAL_STRIDE**2
        return self.weights_bytes + HEADROOM * max(fine, coarse) * pixels_per_latent * self.value_bytes * self.width_factor

    def work(self, grid: Grid) -> float:
        """Time as a multiple of that for the whole picture."""
        return grid[0] * grid[1] * tile_area(self.height, self.width, grid) / (self.height * self.width)


def choose_grid(vae_pass: VaePass, free_bytes: float) -> Grid:
    """The fewest tiles that fit, one if possible; the smallest there are if none does."""
    choices = grids(vae_pass.height, vae_pass.width)
    return next((grid for grid in choices if vae_pass.needed_bytes(grid) <= free_bytes), choices[-1])


def describe_choice(vae_pass: VaePass, grid: Grid, free_bytes: float) -> str:
    """One line for the log: what was chosen and why."""
    needed, free = vae_pass.needed_bytes(grid), _gigabytes(free_bytes)
    text = f"VAE {vae_pass.name} {vae_pass.width * SPATIAL_STRIDE}x{vae_pass.height * SPATIAL_STRIDE}: "
    if grid == (1, 1):
        text += f"whole picture, needs {_gigabytes(needed)}, {free} can be had"
    else:
        text += (
            f"{grid[0] * grid[1]} tiles, each needs {_gigabytes(needed)}, because the whole picture needs "
            f"{_gigabytes(vae_pass.needed_bytes())} and {free} can be had; the same result in {vae_pass.work(grid):.1f} times the time"
        )
    if needed > free_bytes:
        text += ". This may run out of memory"
    if needed > free_bytes or grid != (1, 1):
        smaller_values = "dtype bf16 in the VAE loader, " if vae_pass.value_bytes > SIXTEEN_BIT else ""
        text += f". What helps: a smaller size, {smaller_values}other programs closed"
    return text + "."


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
