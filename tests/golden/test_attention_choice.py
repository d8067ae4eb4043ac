"""Which attention runs, with what error, and what the node and the log say of it: kernels are emulated, the choice is the real one."""

import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fp8 import CPU, files, forward, relative_error  # noqa: F401

pytestmark = pytest.mark.comfy

OPTIONS = {"weight_dtype": "bf16", "precision": "official", "attention": "auto", "speed": "exact"}


@pytest.fixture
def kernels(bridge):
    module = pack_module("wan_s2v_model.comfy_bridge.kernels")
    module._best.cache_clear()
    yield module
    module._best.cache_clear()


@pytest.fixture
def comfy_runs(monkeypatch):
    """As if ComfyUI had been started with this attention."""
    import comfy.ldm.modules.attention as attention

    def start(function):
        function = getattr(attention, function) if isinstance(function, str) else function
        monkeypatch.setattr(attention, "optimized_attention", function)

    return start


@pytest.fixture
def gpu(kernels, monkeypatch):
    """A GPU of this compute capability, whose tensors lie on the CPU."""

    def make(*capability):
        device = torch.device("cuda", 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(kernels.comfy.model_management, "is_nvidia", lambda: True)
        monkeypatch.setattr(kernels.comfy.model_management, "get_torch_device", lambda: device)
        monkeypatch.setattr(kernels.comfy.model_management, "should_use_bf16", lambda _: capability >= (8, 0))
        for name in ("largest_difference", "rounding_error"):
            measure = getattr(kernels, name)
            monkeypatch.setattr(kernels, name, lambda kernel, _, dtype, measure=measure: measure(kernel, CPU, dtype))
        return device

    return make


@pytest.fixture
def install(kernels, monkeypatch):
    """Install a package: a module with these functions."""

    def put(package, **functions):
        monkeypatch.setitem(sys.modules, package, SimpleNamespace(__spec__=object(), **functions))

    monkeypatch.setattr(kernels, "_installed", lambda package: package in sys.modules)
    return put


def exactly(q, k, v, heads, **_):
    return pack_module("wan_s2v_model.transformer.blocks").sdpa(q, k, v, heads)


def emulated(q, k, v, heads, factor=1.0, smooth=True):
    """What a kernel in 8 bits computes, in float32 on rounded inputs; `factor` falsifies a scale."""
    quantise_heads = pack_module("wan_s2v_model.kernels.float8").quantise_heads
    rounded = []
    for tensor, is_smooth in ((q, False), (k, smooth), (v, False)):
        rounded.append(quantise_heads(tensor, heads, is_smooth).to(torch.float32).flatten(2))
    return exactly(factor * rounded[0], rounded[1], rounded[2], heads).to(q.dtype)


def sageattn(q, k, v, tensor_layout, factor=1.0):
    """SageAttention's function, [B, S, H, d]."""
    assert tensor_layout == "NHD"
    return emulated(*(t.flatten(2) for t in (q, k, v)), q.shape[2], factor).unflatten(2, (q.shape[2], -1))


def by_head(q, k, v, **_):
    """comfy-kitchen's and SageAttention 3's, [B, H, S, d]."""
    return sageattn(*(t.transpose(1, 2) for t in (q, k, v)), "NHD").transpose(1, 2)


def wrong(q, k, v, **_):
    return sageattn(q, k.flip(1), v, "NHD", factor=2)


def failing(*_, **__):
    raise RuntimeError("no kernel image\nmore")


KITCHEN = {"int8_attention": by_head, "int8_attention_is_available": lambda device: True}


# The self-test


@pytest.mark.parametrize(
    ("kernel", "works", "message"),
    [
        (emulated, True, ""),
        (lambda q, k, v, heads: emulated(q, k, v, heads, factor=1.3), False, "is wrong by"),
        (lambda q, k, v, heads: emulated(q, k.flip(0), v, heads), False, "is wrong by"),
        (lambda q, k, v, heads: torch.full_like(q, torch.nan), False, "is wrong by nan"),
        (failing, False, "does not run here (no kernel image)"),
    ],
)
def test_self_test_of_a_kernel_that_rounds(kernels, caplog, kernel, works, message):
    with caplog.at_level(logging.WARNING, "wan_s2v"):
        error = kernels._error_in_self_test("a kernel", kernel, CPU, is_exact=False)
    assert (error is not None) is works
    assert error is None or 0.02 < error < 0.1
    assert message in caplog.text
    assert bool(caplog.text) is not works


@pytest.mark.parametrize(
    ("kernel", "works", "message"),
    [
        (exactly, True, ""),
        (lambda q, k, v, heads: 1.1 * exactly(q, k, v, heads), False, "is wrong by"),
        (lambda q, k, v, heads: exactly(q, k, v, heads) + 0.1 * (k.shape[1] == 5), False, "is wrong by"),
        (lambda q, k, v, heads: torch.full_like(q, torch.nan), False, "is wrong by nan"),
        (failing, False, "does not run here (no kernel image)"),
    ],
    ids=["right", "all wrong", "few keys wrong", "nan", "failing"],
)
def test_self_test_of_an_exact_kernel(kernels, caplog, kernel, works, message):
    with caplog.at_level(logging.WARNING, "wan_s2v"):
        assert kernels._error_in_self_test("a kernel", kernel, CPU, is_exact=True) == (0.0 if works else None)
    assert message in caplog.text
    assert bool(caplog.text) is not works


def test_flash_attention_gets_float8_and_a_scale_for_each_head(kernels, monkeypatch):
    """A stand-in of fa3-fwd that multiplies the scales back: the result is the attention, within the self-test's tolerance."""
    seen = []

    def flash_attn_func(q, k, v, q_descale, k_descale, v_descale):
        seen.append((q.dtype, q.shape, q_descale.shape, q_descale.dtype))
        pairs = (q, q_descale), (k, k_descale), (v, v_descale)
        plain = [(values.float() * scale[:, None, :, None]).flatten(2) for values, scale in pairs]
        return exactly(*plain, q.shape[2]).unflatten(-1, (q.shape[2], -1)).bfloat16()

    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", SimpleNamespace(flash_attn_func=flash_attn_func))
    assert kernels._error_in_self_test("stand-in", kernels._flash3_float8, CPU, is_exact=False) is not None
    length = kernels.FEW_KEYS + 40
    assert seen == [(torch.float8_e4m3fn, (2, length, 4, 128), (2, 4), torch.float32)]


@pytest.mark.parametrize("name", ["_flash3_float8", "_sage", "_kitchen", "_sage3"])
def test_few_keys_are_attended_to_exactly(kernels, name):
    q, k, v = (torch.randn(1, length, 256, generator=torch.Generator().manual_seed(length)) for length in (40, 5, 6))
    torch.testing.assert_close(getattr(kernels, name)(q, k, v[:, :5], 2), exactly(q, k, v[:, :5], 2))


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 6), torch.bfloat16)])
def test_kernels_are_tried_in_the_type_in_which_the_card_computes(kernels, gpu, install, comfy_runs, capability, dtype):
    seen = []

    def noted(q, k, v, **named):
        seen.append(q.dtype)
        return sageattn(q, k, v, **named)

    comfy_runs("attention_pytorch")
    install("sageattention", sageattn=noted)
    assert kernels.choose_attention("sage", gpu(*capability)).error > 0
    assert seen == [dtype]


@pytest.mark.parametrize("name", ["_sage", "_sage3"])
def test_sage_gets_16_bits_of_a_model_in_float32(kernels, install, name):
    seen = []

    def noted(q, k, v, **_):
        seen.append({t.dtype for t in (q, k, v)})
        return q

    install("sageattention", sageattn=noted)
    install("sageattn3", sageattn3_blackwell=noted)
    q = torch.zeros(1, kernels.FEW_KEYS + 1, 256)
    assert getattr(kernels, name)(q, q, q, 2).dtype == torch.float32
    assert seen == [{torch.bfloat16}]


# The choice


@pytest.mark.parametrize(
    ("packages", "name"),
    [
        ({"sageattention": {"sageattn": sageattn}}, "SageAttention in 8 bits"),
        ({"sageattention": {"sageattn": sageattn}, "comfy_kitchen": KITCHEN}, "SageAttention in 8 bits"),
        ({"sageattention": {"sageattn": wrong}, "comfy_kitchen": KITCHEN}, "comfy-kitchen in int8"),
        ({"sageattention": {"sageattn": failing}, "comfy_kitchen": KITCHEN}, "comfy-kitchen in int8"),
        ({"comfy_kitchen": KITCHEN}, "comfy-kitchen in int8"),
        ({"sageattn3": {"sageattn3_blackwell": by_head}}, "SageAttention 3 in 4 bits"),
    ],
)
def test_sage_is_the_first_kernel_that_is_installed_and_right(kernels, gpu, install, comfy_runs, packages, name):
    comfy_runs("attention_pytorch")
    device = gpu(8, 6)
    for package, functions in packages.items():
        install(package, **functions)
    chosen = kernels.choose_attention("sage", device)
    assert chosen.name == name
    assert 0.02 < chosen.error < 0.1
    kernels.require_attention("sage")
    assert kernels.choose_attention("auto", device).error == 0, "exact stays the default"


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        (None, "SageAttention is not installed, and ComfyUI's comfy-kitchen has no attention in int8 for this device"),
        ({"sageattn": failing}, "SageAttention is installed, but fails its self-test on this GPU"),
        ({"sageattn": wrong}, "SageAttention is installed, but fails its self-test on this GPU"),
    ],
)
def test_sage_that_cannot_be_is_refused_in_words(kernels, gpu, install, comfy_runs, functions, words):
    comfy_runs("attention_pytorch")
    device = gpu(8, 6)
    if functions is not None:
        install("sageattention", **functions)
    with pytest.raises(ValueError, match=rf"^attention: sage cannot be used: {words}.*Choose attention: auto, or install"):
        kernels.require_attention("sage")
    assert kernels.choose_attention("sage", device).name == "PyTorch, as ComfyUI was started"


def test_sage_on_the_cpu_is_refused(bridge):
    with pytest.raises(ValueError, match=r"^attention: sage cannot be used: SageAttention is not installed"):
        bridge.require_attention("sage")
    bridge.require_attention("auto")
    bridge.require_attention("comfyui")


@pytest.mark.parametrize(("capability", "name"), [((8, 9), "PyTorch, as ComfyUI was started"), ((9, 0), "cuDNN"), ((12, 0), "cuDNN")])
def test_exact_is_the_default_on_every_card(kernels, gpu, install, comfy_runs, capability, name):
    comfy_runs("attention_pytorch")
    install("sageattention", sageattn=sageattn)
    chosen = kernels.choose_attention("auto", gpu(*capability))
    assert (chosen.name, chosen.error) == (name, 0.0)


def test_fp8_attention_leaves_the_choice_of_the_user_alone(kernels, gpu, install, comfy_runs):
    install("sageattention", sageattn=sageattn)
    device = gpu(8, 9)
    comfy_runs("attention_pytorch")
    assert kernels.choose_attention("auto", device, float8=True).name == "SageAttention in 8 bits"
    assert kernels.choose_attention("comfyui", device, float8=True).error == 0
    comfy_runs("attention_xformers")
    assert kernels.choose_attention("auto", device, float8=True).name == "xformers, as ComfyUI was started"


# What it is called


def described(bridge, model):
    return pack_module("wan_s2v_model.comfy_bridge.model").computation_of(bridge.with_s2v_forward(model), model.load_device)


def load(bridge, files, layout="bf16", **options):  # noqa: F811
    return bridge.load_diffusion_model(str(files[layout]), {**OPTIONS, **options})


@pytest.mark.parametrize(
    ("function", "is_exact", "words"),
    [
        ("attention_pytorch", True, "attention PyTorch, as ComfyUI was started"),
        ("attention_sub_quad", True, "attention sub-quadratic, as ComfyUI was started"),
        ("attention_sage", False, "attention SageAttention in 8 bits, as ComfyUI was started"),
        ("attention3_sage", False, "attention SageAttention 3 in 4 bits, as ComfyUI was started"),
        (exactly, False, f"attention of another node ({__name__}.exactly), exact or not"),
    ],
)
@pytest.mark.parametrize("setting", ["auto", "comfyui"])
def test_exact_is_said_only_of_exact_attention(bridge, kernels, files, comfy_runs, function, is_exact, words, setting):  # noqa: F811
    comfy_runs(function)
    computation = described(bridge, load(bridge, files, attention=setting))
    assert computation.is_exact is is_exact
    assert computation.text.startswith("computes exactly: " if is_exact else "computes not exactly: ")
    assert computation.text.endswith(f"linear layers in float32; {words}")


def test_attention_in_int8_of_newer_comfyui_is_known(kernels, comfy_runs):
    import comfy.ldm.modules.attention as attention

    def attention_comfy_kitchen_int8(*_, **__):
        pass

    attention_comfy_kitchen_int8.__module__ = attention.__name__
    comfy_runs(attention_comfy_kitchen_int8)
    chosen = kernels.choose_attention("auto", CPU)
    assert (chosen.name, chosen.error) == ("comfy-kitchen in int8, as ComfyUI was started", None)


def test_attention_that_another_node_puts_over_it_is_named(bridge, files, comfy_runs):  # noqa: F811
    comfy_runs("attention_pytorch")
    model = load(bridge, files).clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = exactly
    computation = described(bridge, model)
    assert not computation.is_exact
    assert "attention of another node" in computation.text


def test_layers_that_round_by_themselves_are_not_exact(bridge, files, comfy_runs, monkeypatch):  # noqa: F811
    """A packed file whose layers ComfyUI multiplies in float8, as it does on GPUs that can; before, that was "exact"."""
    comfy_runs("attention_pytorch")
    model = load(bridge, files, "dit_fp8_scaled")
    packed = [layer for layer in model.model.diffusion_model.modules() if getattr(layer, "quant_format", None)]
    for layer in packed:
        layer._full_precision_mm = True
    assert described(bridge, model).is_exact
    for layer in packed:
        layer._full_precision_mm = False
    computation = described(bridge, model)
    assert not computation.is_exact
    assert f"but {len(packed)} in float8_e4m3fn by ComfyUI" in computation.text


def test_sums_in_float16_are_not_exact(bridge, files, comfy_runs, monkeypatch):  # noqa: F811
    comfy_runs("attention_pytorch")
    model = load(bridge, files, weight_dtype="fp16")
    monkeypatch.setattr(model.model, "get_dtype_inference", lambda: torch.float16)
    assert described(bridge, model).is_exact
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_fp16_accumulation=True))
    assert "float16 with sums in float16" in described(bridge, model).text


@pytest.mark.parametrize(
    ("speed", "words"),
    [
        ("fp8 linears", "speed: fp8 linears has no effect on linear layers: this device has no fp8 (GeForce 40, H100 and newer have)"),
        ("fp8 linears and attention", "No attention in fp8 runs here: it needs attention: auto, and fa3-fwd (H100) or SageAttention"),
    ],
)
def test_speed_without_effect_is_said(bridge, files, comfy_runs, speed, words):  # noqa: F811
    comfy_runs("attention_pytorch")
    text = described(bridge, load(bridge, files, speed=speed)).text
    assert words in text
    assert "has no effect" in text
    assert described(bridge, load(bridge, files)).text == text.partition(". ")[0]


def test_fp8_that_works_is_not_called_exact(bridge, kernels, files, comfy_runs, monkeypatch):  # noqa: F811
    comfy_runs("attention_pytorch")
    monkeypatch.setattr(kernels, "_has_float8", lambda device: True)
    computation = described(bridge, load(bridge, files, speed="fp8 linears"))
    assert not computation.is_exact
    assert computation.text == "computes not exactly: linear layers in fp8; attention PyTorch, as ComfyUI was started"


def test_loader_node_and_log_say_what_runs(bridge, files, comfy_runs, monkeypatch, caplog):  # noqa: F811
    display, shown = pack_module("wan_s2v_model.comfy_bridge.display"), []
    monkeypatch.setattr(display, "text_display", lambda: shown.append)
    comfy_runs("attention_sage")
    with caplog.at_level(logging.INFO, "wan_s2v"):
        bridge.show_computation(load(bridge, files))
    expected = "computes not exactly: linear layers in float32; attention SageAttention in 8 bits, as ComfyUI was started"
    assert shown == [expected]
    assert expected in caplog.text


def test_full_gpu_does_not_keep_a_model_from_loading(bridge, files, monkeypatch):  # noqa: F811
    display = pack_module("wan_s2v_model.comfy_bridge.display")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(display, "computation_of", full)
    assert "too full to try its kernels now" in display.computation_in_words(load(bridge, files))


def test_sage_runs_in_a_forward(bridge, kernels, files, gpu, install, comfy_runs, monkeypatch):  # noqa: F811
    """Of a clip with more tokens than text and sound have; the same kernel is named and used."""
    comfy_runs("attention_pytorch")
    exact, calls = forward(load(bridge, files)), []

    def noted(q, k, v, **named):
        calls.append(k.shape[1])
        return sageattn(q, k, v, **named)

    install("sageattention", sageattn=noted)
    monkeypatch.setattr(kernels, "FEW_KEYS", 20)
    chosen = kernels.Chosen("SageAttention", kernels._sage, 0.04)
    monkeypatch.setattr(pack_module("wan_s2v_model.comfy_bridge.model"), "pick_attention", lambda *_: chosen.run)
    fast = forward(load(bridge, files, attention="sage"))
    assert calls
    assert 1e-5 < relative_error(fast, exact) < 0.1
