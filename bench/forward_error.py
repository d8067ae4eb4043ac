"""Error of the blocks and the head against float64: ours, and the official order of operations under bfloat16 autocast.

Four layers of full width with random bfloat16 weights, one of them with an audio injector. `random` activations are those of random
latents; `outliers` has eight channels fifty times and sixteen tokens twenty times as loud, as in trained transformers. Relative to the
float64 output: root mean square, and the largest difference. Ours has to be no larger than the official one. Called by
full_size_forward.py --error.
"""

import copy
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import full_size
import official_order
from rows import ROWS, Row, switched

LAYERS, INJECTED = 4, (1,)
LATENT_FRAMES, SIZE = 5, "832x480"  # short: float64 attention is slow
LOUD_CHANNELS, CHANNEL_GAIN = 8, 50.0
LOUD_TOKENS, TOKEN_GAIN = 16, 20.0
SEED = 0


COMPARED = (
    "ours",
    "ours, ComfyUI's attention",
    "ours, no fused kernels",
    "ours, bf16 residual",
    "ours, fp8 linears",
    "ours, fp8 linears and attention",
)


def main(bridge, tiny: bool) -> None:
    import torch

    model = build_model(tiny)
    wide_model = copy.deepcopy(model).double()
    print(f"{'':34s}{'random: rms':>14s}{'largest':>12s}{'outliers: rms':>16s}{'largest':>12s}")
    stacks = [make_stack(model, tiny, loud) for loud in (False, True)]
    truths = [official_order.run(wide_model, stack, torch.float64) for stack in stacks]
    runs = {"official order, bf16 autocast": lambda stack: official_order.run(model, stack, torch.float32)}
    for name in COMPARED:
        runs[name] = lambda stack, row=ROWS[name]: run_ours(model, stack, row)
    for name, run in runs.items():
        errors = [error(run(stack), truth) for stack, truth in zip(stacks, truths, strict=True)]
        print(f"{name:34s}{errors[0][0]:14.3e}{errors[0][1]:12.3e}{errors[1][0]:16.3e}{errors[1][1]:12.3e}", flush=True)


def build_model(tiny: bool):
    """Random bfloat16 weights, none of them 0 or 1."""
    import torch
    from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer

    config = replace(full_size.config(tiny), num_layers=LAYERS, audio_inject_layers=INJECTED)
    model = WanS2VTransformer(config, dtype=torch.bfloat16, device=full_size.device()).requires_grad_(False)
    generator = torch.Generator(full_size.device()).manual_seed(SEED)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
        is_gain = "norm" in name and name.endswith("weight")
        parameter.copy_(1 + 0.1 * noise if is_gain else noise / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.1 * noise)
    return model


def make_stack(model, tiny: bool, loud: bool) -> official_order.Stack:
    """What embeds tokens, time, prompt and sound gives for random inputs; `loud` adds the outliers."""
    import torch
    from wan_s2v_pack.wan_s2v_model.transformer.model import Conditions
    from wan_s2v_pack.wan_s2v_model.transformer.rope import THETA, token_positions

    inputs = full_size.make_inputs("64x64" if tiny else SIZE, tiny)
    x, reference, motion = (inputs[name].bfloat16() for name in ("x", "reference_latent", "reference_motion"))
    x = x[:, :, :LATENT_FRAMES]
    tokens, split = model.embed_tokens(x, Conditions(inputs["c_crossattn"], reference, motion_latents=motion))
    if loud:
        generator = torch.Generator().manual_seed(SEED)
        tokens[..., torch.randperm(tokens.shape[2], generator=generator)[:LOUD_CHANNELS]] *= CHANNEL_GAIN
        tokens[:, torch.randperm(tokens.shape[1], generator=generator)[:LOUD_TOKENS]] *= TOKEN_GAIN
    e_head, e = model.embed_time(1000 * inputs["t"])
    whole, local = model.casual_audio_encoder(inputs["audio_embed"][..., : 4 * LATENT_FRAMES])
    positions = token_positions(LATENT_FRAMES, *x.shape[3:], with_motion=True).to(x.device)
    channels = model.config.head_dim // 2
    angles = [
        positions[:, axis, None].double() * THETA ** (-torch.arange(count, dtype=torch.float64, device=x.device) / count)
        for axis, count in enumerate((channels - 2 * (channels // 3), channels // 3, channels // 3))
    ]
    return official_order.Stack(
        tokens, split, e_head, e, torch.cat(angles, dim=1), model.embed_text(inputs["c_crossattn"].bfloat16()), whole, local
    )


def run_ours(model, stack: official_order.Stack, row: Row):
    """Our blocks, injectors and head on the same inputs."""
    import torch
    from wan_s2v_pack.wan_s2v_model import comfy_bridge
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.kernels import pick_linears, wants_float8_attention
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import PRECISIONS
    from wan_s2v_pack.wan_s2v_model.kernels.linears import Float8Linears
    from wan_s2v_pack.wan_s2v_model.transformer.audio_injector import Voice
    from wan_s2v_pack.wan_s2v_model.transformer.blocks import Compute, Prompt, Residual

    device, dtype = stack.tokens.device, torch.bfloat16
    text = [Prompt(*block.project_text(stack.context), stack.context) for block in model.blocks]
    voices = [Voice(model.audio_injector.project(stack.whole, stack.local, dtype))]
    chosen = pick_linears(row.speed, device, dtype)
    linears = Float8Linears(dtype) if isinstance(chosen, Float8Linears) else chosen  # plain torch layers bring their weights otherwise
    attention = comfy_bridge.kernels.pick_attention(row.attention, device, wants_float8_attention(row.speed))
    stream = Residual(stack.tokens.to(PRECISIONS[row.precision] or dtype), stack.split)
    rope = stack.angles.cos().float(), stack.angles.sin().float()
    compute = Compute(attention, linears)
    with switched(row):
        for index, block in enumerate(model.blocks):
            stream = block(stream, stack.e, text[index], rope, compute)
            stream = model.audio_injector(stream, index, voices, compute)
        return model.head(stream.summed()[:, : stack.split], stack.e_head)


def error(out, truth) -> tuple[float, float]:
    """Root mean square and largest difference, relative to the root mean square and the largest value of the truth."""
    difference = out.double() - truth
    return float(difference.norm() / truth.norm()), float(difference.abs().max() / truth.abs().max())
