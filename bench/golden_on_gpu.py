"""The stored forward passes of the reference on this GPU, with the kernels that a video uses, against the stored outputs.

    COMFYUI_PATH=... python bench/golden_on_gpu.py [DIR]

DIR is a golden folder; without it the committed cases are used. Bfloat16 on the CPU, without kernels, is the yardstick for its rounding.
"""

import argparse
import lzma
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime

COMMITTED = comfy_runtime.ROOT / "tests" / "golden" / "data"
NEEDED = ("tiny_s2v.*", "forward/*.safetensors*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, nargs="?", default=COMMITTED)
    folder = parser.parse_args().folder.resolve()
    comfy_runtime.start(dynamic_vram=False)
    import torch
    from wan_s2v_pack.tests.golden.case import Case

    torch.backends.cudnn.allow_tf32 = False
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{'relative error (rms)':34s}{'float32':>12s}{'bfloat16':>12s}{'bfloat16, CPU':>16s}")
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        unpack(folder, Path(scratch))
        for path in sorted(Path(scratch).glob("forward/*.safetensors")):
            case = Case(Path(scratch), path)
            expected = case.tensors["out"]
            outs = run(case, gpu, torch.float32), run(case, gpu, torch.bfloat16), run(case, "cpu", torch.bfloat16)
            errors = [float((out - expected).norm() / expected.norm()) for out in outs]
            print(f"{path.stem:34s}{errors[0]:12.1e}{errors[1]:12.1e}{errors[2]:16.1e}", flush=True)


def unpack(folder: Path, target: Path) -> None:
    """Copy what is needed, decompressing it."""
    for path in (path for pattern in NEEDED for path in folder.glob(pattern)):
        file = target / path.relative_to(folder)
        file.parent.mkdir(exist_ok=True)
        data = path.read_bytes()
        (file.with_suffix("") if path.suffix == ".xz" else file).write_bytes(lzma.decompress(data) if path.suffix == ".xz" else data)


def run(case, device: str, dtype):
    """Output of a stored call, float32 on the CPU; on a GPU through the attention that the loader's `auto` picks."""
    import torch
    from wan_s2v_pack.tests.golden.cases_forward import build_model, contexts
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.kernels import pick_attention
    from wan_s2v_pack.wan_s2v_model.transformer.blocks import sdpa

    def given(tensor):
        return None if tensor is None else tensor.to(device, dtype)

    model = build_model(case).to(device=device, dtype=dtype)
    motion = None if case.setting("drop_motion_frames") else given(case.tensors["in.motion_latents"])
    return (
        model(
            given(case.tensors["in.x"]),
            case.tensors["in.t"].to(device),
            given(contexts(case)),
            audio_embedding=given(case.tensors["in.audio_input"]),
            ref_latents=given(case.tensors["in.ref_latents"]),
            motion_latents=motion,
            pose_latents=given(case.tensors["in.cond_states"]),
            attention=sdpa if device == "cpu" else pick_attention("auto", torch.device(device)),
        )
        .float()
        .cpu()
    )


if __name__ == "__main__":
    main()
