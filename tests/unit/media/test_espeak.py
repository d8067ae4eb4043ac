"""espeak-ng by a stand-in command and, where it is installed, by itself; WAV files in memory."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
import sys

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media import espeak
from wan_s2v_pack.wan_s2v_model.media.espeak import read_wav, reference_wav, require_reference, speak_with_espeak, write_wav

STAND_IN = """
import json, sys, time
text = sys.stdin.buffer.read().decode()
open({record!r}, "w").write(json.dumps([sys.argv[1:], text]))
if "wrong" in sys.argv:
    sys.exit("Error: no such voice")
if text == "forever":
    time.sleep(60)
if text != "...":
    sys.stdout.buffer.write(bytes.fromhex({wav!r}))
"""


def espeak_wav(num_samples: int) -> bytes:
    """A WAV file with the length that espeak-ng writes into a pipe."""
    data = bytearray(write_wav(torch.full((1, num_samples), 0.5), 22050))
    data[4:8] = struct.pack("<I", 0x7FFFF024)
    data[40:44] = struct.pack("<I", 0x7FFFF000)
    return bytes(data)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a command espeak-ng on the path; returns what it was called with."""
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")
    command, script = tmp_path / "espeak-ng", tmp_path / "stand_in.py"
    script.write_text(STAND_IN.format(record=str(tmp_path / "call.json"), wav=espeak_wav(1000).hex()))
    command.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(script)])} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return lambda: json.loads((tmp_path / "call.json").read_text())


@pytest.mark.parametrize("variable", ["ProgramFiles", "ProgramFiles(x86)"])
def test_espeak_is_found_where_its_installer_for_windows_puts_it(tmp_path, monkeypatch, variable):
    monkeypatch.setenv("PATH", "")
    for name in espeak.WINDOWS_PROGRAMS:
        monkeypatch.delenv(name, raising=False)
    assert "Windows: its installer" in espeak.espeak_problem()
    program = tmp_path / "eSpeak NG" / "espeak-ng.exe"
    program.parent.mkdir()
    program.touch()
    monkeypatch.setenv(variable, str(tmp_path))
    assert espeak.espeak_problem() == ""
    called = {}

    def start(command, *, creationflags, **streams):
        called.update(creationflags=creationflags, command=command)
        script = f"import sys; sys.stdout.buffer.write(bytes.fromhex({espeak_wav(1000).hex()!r}))"
        return popen([sys.executable, "-c", script], **streams)

    monkeypatch.setattr(espeak, "NO_WINDOW", 0x08000000)
    popen = espeak.subprocess.Popen
    monkeypatch.setattr(espeak.subprocess, "Popen", start)
    speak_with_espeak("hello", "en", 1.0)
    assert called["command"][0] == str(program)
    assert called["creationflags"] == 0x08000000


def test_espeak_gets_text_language_and_speed(stand_in):
    text = "Grüße --wav <speak> $HOME\n你好"
    waveform, sample_rate = speak_with_espeak(text, "de", 1.2)
    assert stand_in() == [["-v", "de", "-s", "210", "-b", "1", "--stdin", "--stdout"], text]
    assert sample_rate == 22050
    assert waveform.shape == (1, 1000)
    assert waveform[0, 0].item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "language", "message"),
    [
        ("Hello", "wrong", "language 'wrong': Error: no such voice `espeak-ng --voices` lists"),
        ("...", "en", r"nothing to speak in the text '\.\.\.'"),
        ("forever", "en", "has not ended after 0.5 s"),
    ],
)
def test_espeak_fails(text, language, message, stand_in, monkeypatch):
    monkeypatch.setattr(espeak, "ESPEAK_TIMEOUT_S", 0.5)
    with pytest.raises(RuntimeError, match=message):
        speak_with_espeak(text, language, 1.0)


def test_espeak_is_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "espeak-ng is not installed" in espeak.espeak_problem()
    with pytest.raises(RuntimeError, match="espeak-ng is not installed"):
        speak_with_espeak("Hello", "en", 1.0)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
class TestRealEspeak:
    def test_it_speaks_the_same_each_time(self):
        first, sample_rate = speak_with_espeak("Hello there. This is a test.", "en", 1.0)
        again, _ = speak_with_espeak("Hello there. This is a test.", "en", 1.0)
        assert torch.equal(first, again)
        assert 1.5 < first.shape[1] / sample_rate < 3.5
        assert 0.1 < first.abs().max() <= 1

    def test_speed_shortens(self):
        slow, fast = (speak_with_espeak("One two three four five six seven.", "en", speed)[0].shape[1] for speed in (0.5, 2.0))
        assert slow > 2 * fast

    def test_unknown_language(self):
        with pytest.raises(RuntimeError, match=r"language 'xx-none'.*voice does not exist"):
            speak_with_espeak("Hello", "xx-none", 1.0)


# --- WAV files


def test_wav_round_trip_keeps_16_bits():
    samples = torch.tensor([[0, 1, -1, 12345, -32767, 32767]]) / 32767
    waveform, sample_rate = read_wav(write_wav(samples, 44100))
    assert sample_rate == 44100
    assert (waveform * 32768).round().int().tolist() == [[0, 1, -1, 12345, -32767, 32767]]


def test_louder_samples_are_clipped():
    assert (read_wav(write_wav(torch.tensor([[3.0, -3.0]]), 16000))[0] * 32768).tolist() == [[32767, -32767]]


def test_first_channel_and_whole_samples_of_a_cut_file():
    stereo = bytearray(write_wav(torch.tensor([[0.5, -0.5, 0.25, 0.0]]), 16000))
    stereo[22:24], stereo[32:34] = struct.pack("<H", 2), struct.pack("<H", 4)  # two channels
    assert read_wav(bytes(stereo[:-1]))[0].shape == (1, 1)
    assert read_wav(bytes(stereo))[0][0].tolist() == pytest.approx([0.5, 0.25], abs=1e-4)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"ID3 and so on", espeak_wav(0)], ids=["empty", "cut", "mp3", "no samples"])
def test_what_is_no_speech(data):
    with pytest.raises(ValueError, match="The speech is"):
        read_wav(data)


# --- reference


def test_reference_is_the_mean_of_the_channels_of_the_first_sound():
    waveform = torch.zeros(2, 2, 24000)
    waveform[0, 0], waveform[0, 1], waveform[1] = 0.25, 0.75, -1.0
    samples, sample_rate = read_wav(reference_wav(waveform, 24000))
    assert (samples.shape, sample_rate) == ((1, 24000), 24000)
    assert samples.unique().tolist() == pytest.approx([0.5], abs=1e-4)


def test_low_rates_are_raised_to_what_cosyvoice_takes():
    samples, sample_rate = read_wav(reference_wav(torch.full((1, 1, 8000), 0.5), 8000))
    assert (samples.shape[1], sample_rate) == (16000, 16000)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(1, 1, 0), "reference_audio is empty"),
        (torch.zeros(1, 1, 30 * 16000 + 1600), r"lasts 30\.1 s; CosyVoice takes at most 30 s"),
        (torch.tensor([[[0.0, float("nan")]]]), "NaN or infinite"),
    ],
)
def test_references_that_cannot_be_used(waveform, message):
    with pytest.raises(ValueError, match=message):
        reference_wav(waveform, 16000)


def test_a_reference_at_an_odd_rate_keeps_its_length():
    """The filter ran along the channels, so that rates without a common divisor came out unchanged in length and filtered away."""
    samples, sample_rate = read_wav(reference_wav(0.5 * torch.ones(1, 1, 15_991), 15_991))
    assert (samples.shape[1], sample_rate) == (16_000, 16_000)
    assert samples[0, 1000:-1000].mean() == pytest.approx(0.5, abs=0.01)


def test_a_reference_in_opposite_phase_is_heard():
    voice = 0.5 * torch.sin(torch.arange(24_000.0) * 0.1)
    samples, _ = read_wav(require_reference({"waveform": torch.stack([voice, -voice]), "sample_rate": 24_000}))
    assert samples.abs().max() > 0.4
