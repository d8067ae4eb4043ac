"""The real transformer at a tiny size, with seeded weights, and the inputs of one clip; the command `runs` on a folder of its own."""

import argparse
import math

import pytest
import torch
from wan_s2v_pack.cli import runs
from wan_s2v_pack.wan_s2v_model.transformer.config import WanS2VConfig
from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer

NUM_LATENT_FRAMES, HEIGHT, WIDTH = 2, 8, 12  # latents: 24 tokens per frame


def seeded_normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def fill_with_noise(module, seed=0):
    """Give every parameter a seeded value of a sensible size, none of them zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            is_gain = "norm" in name and name.endswith("weight")
            noise = 1 + 0.1 * noise if is_gain else 0.1 * noise
        elif name.endswith(("modulation", "weights", "padding_tokens", "cond_mask.weight")):
            noise = 0.5 * noise
        else:
            noise = noise / math.sqrt(parameter[0].numel())
        parameter.data.copy_(noise)
    return module.requires_grad_(False)


@pytest.fixture(scope="session")
def noise():
    return seeded_normal


@pytest.fixture(scope="session")
def randomised():
    return fill_with_noise


@pytest.fixture(scope="session")
def tiny_config():
    return WanS2VConfig(dim=256, ffn_dim=96, num_layers=3, text_dim=24, audio_dim=8, audio_inject_layers=(0, 2))


@pytest.fixture(scope="session")
def tiny_transformer(tiny_config):
    """Shared by all tests: do not change it."""
    return fill_with_noise(WanS2VTransformer(tiny_config))


@pytest.fixture
def clip_inputs(tiny_config):
    """Arguments of `WanS2VTransformer.forward` for a later clip with pose, batch 1."""
    picture = (1, 16, 1, HEIGHT, WIDTH)
    clip = (1, 16, NUM_LATENT_FRAMES, HEIGHT, WIDTH)
    return {
        "x": seeded_normal(*clip, seed=1),
        "timestep": torch.tensor([731.0]),
        "context": seeded_normal(1, 7, tiny_config.text_dim, seed=2),
        "audio_embedding": seeded_normal(1, 25, tiny_config.audio_dim, 4 * NUM_LATENT_FRAMES, seed=3),
        "ref_latents": seeded_normal(*picture, seed=4),
        "motion_latents": seeded_normal(1, 16, 19, HEIGHT, WIDTH, seed=5),
        "pose_latents": seeded_normal(*clip, seed=6),
    }


@pytest.fixture
def runs_folder(tmp_path):
    folder = tmp_path / "output" / "wan_s2v_runs"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def runs_command(runs_folder, capsys):
    """The command `runs`: arguments -> exit status, output, errors."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        runs.add_parser(parser.add_subparsers())
        options = parser.parse_args(["runs", *arguments, "--output-dir", str(runs_folder.parent)])
        status = options.run(options)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
