"""The speed of one large matrix product, from which that of the whole model follows."""

import time

import torch

PRODUCT_SIZE = 4096  # rows and columns
PRODUCT_SIZE_ON_HOST = 512
NUM_PRODUCTS = 4
NUM_MATRICES = 4  # that live at once while the first is made


def product_bytes(dtype: torch.dtype) -> int:
    """Memory that the measurement takes."""
    return NUM_MATRICES * PRODUCT_SIZE**2 * dtype.itemsize


def measure_product(device: torch.device, dtype: torch.dtype, size: int = PRODUCT_SIZE) -> float:
    """Floating-point operations per second of a product of two matrices of `size` rows and columns."""
    values = torch.arange(size**2, device=device, dtype=torch.float32).sin().view(size, size).to(dtype)  # not zeros, which are faster
    out = torch.empty_like(values)

    def multiply(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            torch.mm(values, values, out=out)
        out[0, 0].item()  # waits for the device
        return time.perf_counter() - start

    multiply(1)
    return NUM_PRODUCTS * 2 * size**3 / multiply(NUM_PRODUCTS)
