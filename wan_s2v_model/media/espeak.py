"""Text to speech by the command espeak-ng, and the WAV files that go to and come from a speech program."""

import io
import logging
import os
import shutil
import struct
import subprocess
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..untrusted import cut, shown
from .audio_input import HIGHEST_RATE_HZ, LOWEST_RATE_HZ, MOST_CHANNELS, read_audio
from .sound import SECTION_S, audible_mono, resample

logger = logging.getLogger("wan_s2v")

ESPEAK = "espeak-ng"
WINDOWS_PROGRAM = Path("eSpeak NG", "espeak-ng.exe")  # below the folder for programs; its installer leaves the PATH alone
WINDOWS_PROGRAMS = ("ProgramFiles", "ProgramFiles(x86)")
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # on Windows a console would open for a moment
ESPEAK_WORDS_PER_MINUTE = 175  # its own default
ESPEAK_TIMEOUT_S = 300
POLL_S = 0.1
MOST_SPEECH_BYTES = 512 * 2**20  # three hours of espeak-ng's sound
MOST_COMPLAINT = 10_000  # bytes
INT16_MAX = 32767
REFERENCE_MIN_HZ = 16000  # CosyVoice takes no lower rate
REFERENCE_LARGEST_HZ = 48000  # more makes the request larger and no voice clearer
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


def speak_with_espeak(text: str, language: str, speed: float, check_cancelled: Callable[[], None] = lambda: None) -> tuple[Tensor, int]:
    """Speak with the formant voice of espeak-ng: robotic, always the same for the same text.

    Args:
        language: a voice of `espeak-ng --voices`, e.g. en, en-us, de, cmn.
        speed: 1 is 175 words per minute.
        check_cancelled: called several times a second; what it raises ends espeak-ng.
    Returns:
        Waveform [1, T] in [-1, 1], sample rate in Hz.
    Raises:
        RuntimeError: the command is missing, fails, hangs, or makes no sound or too much.
    """
    program = find_espeak()
    if program is None:
        raise RuntimeError(espeak_problem())
    words_per_minute = str(round(ESPEAK_WORDS_PER_MINUTE * speed))
    command = [program, "-v", language, "-s", words_per_minute, "-b", "1", "--stdin", "--stdout"]  # -b 1: the text is UTF-8
    with tempfile.TemporaryFile() as sound, tempfile.TemporaryFile() as complaints, tempfile.TemporaryFile() as words:
        words.write(text.encode(errors="replace"))
        words.seek(0)
        streams: dict[str, Any] = {"stdin": words, "stdout": sound, "stderr": complaints}
        with subprocess.Popen(command, creationflags=NO_WINDOW, **streams) as process:
            try:
                _await(process, sound.fileno(), check_cancelled)
            finally:
                process.kill()  # does nothing after its end
        return _spoken(process.returncode, sound, complaints, (text, language))


def _await(process: "subprocess.Popen[bytes]", sound: int, check_cancelled: Callable[[], None]) -> None:
    last_s = time.monotonic() + ESPEAK_TIMEOUT_S
    while process.poll() is None:
        check_cancelled()
        if time.monotonic() > last_s:
            raise RuntimeError(f"espeak-ng has not ended after {ESPEAK_TIMEOUT_S} s. Use a shorter text.")
        if os.fstat(sound).st_size > MOST_SPEECH_BYTES:
            raise RuntimeError("espeak-ng has spoken for more than three hours. Use a shorter text.")
        time.sleep(POLL_S)


def _spoken(status: int, sound: BinaryIO, complaints: BinaryIO, said: tuple[str, str]) -> tuple[Tensor, int]:
    """What espeak-ng wrote; `said`: the text and its language."""
    complaints.seek(0)
    sound.seek(0)
    text, language = said
    if status:
        complaint = cut(complaints.read(MOST_COMPLAINT).decode(errors="replace"), 300)
        raise RuntimeError(f"espeak-ng failed with language {shown(language)}: {complaint} `espeak-ng --voices` lists its languages.")
    data = sound.read(MOST_SPEECH_BYTES + 1)
    if not data:
        raise RuntimeError(f"espeak-ng found nothing to speak in the text {shown(text)}. Write words.")
    return read_wav(data)


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
    wanted = min(max(sample_rate, REFERENCE_MIN_HZ), REFERENCE_LARGEST_HZ)
    if wanted != sample_rate:
        logger.info("reference_audio is resampled from %d Hz to %d Hz", sample_rate, wanted)
        mono, sample_rate = resample(mono, sample_rate, wanted), wanted
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
    except (wave.Error, EOFError, ValueError, ArithmeticError, struct.error, RuntimeError, OSError) as error:
        raise ValueError(f"The speech is not a WAV file ({cut(str(error))}).") from error
    if not 1 <= channels <= MOST_CHANNELS or not LOWEST_RATE_HZ <= sample_rate <= HIGHEST_RATE_HZ:
        raise ValueError(f"The speech is a WAV file of {channels} channels at {sample_rate:,} Hz, which no voice has.")
    if width != 2 or not samples:
        raise ValueError(f"The speech is a WAV file with {8 * width} bits and {len(samples)} bytes; 16 bits and a sample are needed.")
    whole = len(samples) - len(samples) % (2 * channels)
    if not whole:
        raise ValueError("The speech is a WAV file without a whole sample.")
    waveform = torch.frombuffer(samples[:whole], dtype=torch.int16).reshape(-1, channels)  # [T, C]
    return waveform[:, 0].float()[None] / (INT16_MAX + 1), sample_rate
