"""Text to speech by the command espeak-ng, and the WAV files that go to and come from a speech program."""

import io
import logging
import os
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .audio_input import read_audio
from .sound import SECTION_S, audible_mono, resample

logger = logging.getLogger("wan_s2v")

ESPEAK = "espeak-ng"
WINDOWS_PROGRAM = Path("eSpeak NG", "espeak-ng.exe")  # below the folder for programs; its installer leaves the PATH alone
WINDOWS_PROGRAMS = ("ProgramFiles", "ProgramFiles(x86)")
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # on Windows a console would open for a moment
ESPEAK_WORDS_PER_MINUTE = 175  # its own default
ESPEAK_TIMEOUT_S = 300
INT16_MAX = 32767
REFERENCE_MIN_HZ = 16000  # CosyVoice takes no lower rate
REFERENCE_MAX_S = 30.0  # nor more


def espeak_problem() -> str:
    """What is missing for `speak_with_espeak`, empty if nothing."""
    if find_espeak():
        return ""
    return (
        "espeak-ng is not installed: there is no such command. Install it (Debian and Ubuntu: apt install espeak-ng; macOS: brew install "
        "espeak-ng; Windows: its installer) and restart ComfyUI, choose the voice cosyvoice, or connect another node's AUDIO."
    )


def find_espeak() -> str | None:
    """The program, on the PATH or where its installer for Windows puts it; None if there is none."""
    folders = [Path(os.environ[name]) for name in WINDOWS_PROGRAMS if name in os.environ]
    installed = (str(program) for folder in folders if (program := folder / WINDOWS_PROGRAM).is_file())
    return shutil.which(ESPEAK) or next(installed, None)


def speak_with_espeak(text: str, language: str, speed: float) -> tuple[Tensor, int]:
    """Speak with the formant voice of espeak-ng: robotic, always the same for the same text.

    Args:
        language: a voice of `espeak-ng --voices`, e.g. en, en-us, de, cmn.
        speed: 1 is 175 words per minute.
    Returns:
        Waveform [1, T] in [-1, 1], sample rate in Hz.
    Raises:
        RuntimeError: the command is missing, fails, hangs or makes no sound.
    """
    program = find_espeak()
    if program is None:
        raise RuntimeError(espeak_problem())
    words_per_minute = str(round(ESPEAK_WORDS_PER_MINUTE * speed))
    command = [program, "-v", language, "-s", words_per_minute, "-b", "1", "--stdin", "--stdout"]  # -b 1: the text is UTF-8
    try:
        result = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=ESPEAK_TIMEOUT_S, check=False, creationflags=NO_WINDOW
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"espeak-ng has not ended after {ESPEAK_TIMEOUT_S} s. Use a shorter text.") from error
    if result.returncode:
        complaint = result.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"espeak-ng failed with language {language!r}: {complaint} `espeak-ng --voices` lists its languages.")
    if not result.stdout:
        raise RuntimeError(f"espeak-ng found nothing to speak in the text {text[:60]!r}. Write words.")
    return read_wav(result.stdout)


def require_reference(audio: Any) -> bytes:
    """The AUDIO of a voice to imitate, as `reference_wav`.

    Raises:
        ValueError: there is none, or it is refused there.
    """
    if audio is None:
        raise ValueError("The voice cosyvoice needs reference_audio: connect 3 to 30 s of the voice to imitate, or choose espeak-ng.")
    sound = read_audio("reference_audio", audio)
    return reference_wav(sound.waveform[None], sound.sample_rate_hz)


def reference_wav(waveform: Tensor, sample_rate: int) -> bytes:
    """The clip of a voice to imitate as a mono WAV file of 16 bits.

    Args:
        waveform: [B, C, T]; the first of B is taken.
    Raises:
        ValueError: empty, longer than 30 s, NaN or infinite.
    """
    if waveform.numel() == 0:
        raise ValueError("reference_audio is empty. Connect 3 to 30 s of one clear voice.")
    mono = audible_mono(waveform[0].float().cpu(), SECTION_S * sample_rate)
    seconds = mono.shape[1] / sample_rate
    if seconds > REFERENCE_MAX_S:
        raise ValueError(
            f"reference_audio lasts {seconds:.1f} s; CosyVoice takes at most {REFERENCE_MAX_S:g} s. Trim it to one clear sentence."
        )
    if not torch.isfinite(mono).all():
        raise ValueError("reference_audio contains NaN or infinite samples. Load it again or check the node that made it.")
    if sample_rate < REFERENCE_MIN_HZ:
        logger.info("reference_audio is resampled from %d Hz to %d Hz", sample_rate, REFERENCE_MIN_HZ)
        mono, sample_rate = resample(mono, sample_rate, REFERENCE_MIN_HZ), REFERENCE_MIN_HZ
    return write_wav(mono, sample_rate)


def write_wav(mono: Tensor, sample_rate: int) -> bytes:
    """A WAV file of 16 bits from [1, T] in [-1, 1]; louder samples are clipped."""
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(sample_rate)
        target.writeframes((mono.clamp(-1, 1) * INT16_MAX).round().to(torch.int16).numpy().astype("<i2").tobytes())
    return file.getvalue()


def read_wav(data: bytes) -> tuple[Tensor, int]:
    """Waveform [1, T] in [-1, 1] and sample rate of a WAV file of 16 bits, of which the first channel is taken.

    The length in the header may be too large, as in a file that espeak-ng writes to a pipe.

    Raises:
        ValueError: not such a file, or without a sample.
    """
    try:
        with wave.open(io.BytesIO(data), "rb") as source:
            channels, width, sample_rate = source.getnchannels(), source.getsampwidth(), source.getframerate()
            samples = bytearray(source.readframes(source.getnframes()))
    except (wave.Error, EOFError) as error:
        raise ValueError(f"The speech is not a WAV file ({error}).") from error
    if width != 2 or not samples:
        raise ValueError(f"The speech is a WAV file with {8 * width} bits and {len(samples)} bytes; 16 bits and a sample are needed.")
    whole = len(samples) - len(samples) % (2 * channels)
    waveform = torch.frombuffer(samples[:whole], dtype=torch.int16).reshape(-1, channels)  # [T, C]
    return waveform[:, 0].float()[None] / (INT16_MAX + 1), sample_rate
