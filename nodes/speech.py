"""Text to speech, for those who have no recording."""

import logging

from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge, speech, speech_worker
from ..wan_s2v_model.speech_worker import SpeechRequest
from .linked_inputs import checks_inputs

logger = logging.getLogger("wan_s2v")

ESPEAK, COSYVOICE = "espeak-ng", "cosyvoice"
LANGUAGE = "en"
WORKER_ADDRESS = "127.0.0.1:8190"


class WanS2VTextToSpeech(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VTextToSpeech",
            display_name="Text to Speech (Wan S2V)",
            category="wan s2v/audio",
            description="Speaks a text: with espeak-ng's robotic voice, or in the voice of a reference clip with CosyVoice 2, "
            "which runs as a program of its own.",
            search_aliases=["tts", "voice clone", "cosyvoice", "espeak", "s2v"],
            inputs=[
                io.String.Input(
                    "text", multiline=True, default="", tooltip="What is said. Any length; CosyVoice speaks sentence by sentence."
                ),
                io.Combo.Input(
                    "voice",
                    options=[ESPEAK, COSYVOICE],
                    default=ESPEAK,
                    tooltip="espeak-ng: the command of that name, quick and robotic. "
                    "cosyvoice: the voice of reference_audio, through a worker that you start beside ComfyUI.",
                ),
                io.Audio.Input(
                    "reference_audio",
                    optional=True,
                    tooltip="3 to 30 s of the voice that cosyvoice imitates, clear and alone. Have the speaker's consent.",
                ),
                io.String.Input(
                    "reference_text",
                    multiline=True,
                    optional=True,
                    default="",
                    tooltip="The words of reference_audio. They make the voice more alike; empty lets cosyvoice take the timbre only, "
                    "as for a text in another language.",
                ),
                io.String.Input(
                    "language",
                    optional=True,
                    default=LANGUAGE,
                    tooltip="For espeak-ng, as `espeak-ng --voices` lists them: en, en-us, de, fr, cmn. cosyvoice sees it in the text.",
                ),
                io.Float.Input(
                    "speed",
                    optional=True,
                    default=1.0,
                    min=0.5,
                    max=2.0,
                    step=0.05,
                    tooltip="1 is the voice's own: 175 words a minute for espeak-ng.",
                ),
                io.String.Input(
                    "worker_address",
                    optional=True,
                    default=WORKER_ADDRESS,
                    tooltip="host:port of the cosyvoice worker, on this machine only. Not used by espeak-ng.",
                ),
                io.Int.Input(
                    "seed",
                    optional=True,
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # a new number makes a new video
                    tooltip="Another number gives another reading by cosyvoice. espeak-ng has only one.",
                ),
            ],
            outputs=[io.Audio.Output(display_name="audio", tooltip="The speech, mono. For Encode Audio (Wan S2V) or any other node.")],
        )

    @classmethod
    def validate_inputs(cls, text, voice, worker_address=WORKER_ADDRESS) -> bool | str:
        if text is not None and not text.strip():
            return "text is empty. Write what shall be said."
        if voice == ESPEAK:
            return speech.espeak_problem() or True
        if voice not in (COSYVOICE, None):
            return f"voice must be {ESPEAK} or {COSYVOICE}; got {voice!r}."
        try:
            speech_worker.parse_address(WORKER_ADDRESS if worker_address is None else worker_address)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @checks_inputs
    def execute(
        cls, text, voice, reference_audio=None, reference_text="", language=LANGUAGE, speed=1.0, worker_address=WORKER_ADDRESS, seed=0
    ) -> io.NodeOutput:
        if voice == ESPEAK:
            if reference_audio is not None:
                logger.warning("espeak-ng cannot imitate a voice: reference_audio is not used. Choose the voice cosyvoice for that.")
            waveform, sample_rate = speech.speak_with_espeak(text, language.strip() or LANGUAGE, speed)
        else:
            request = SpeechRequest(text, _reference(reference_audio), reference_text, language, speed, seed)
            waveform, sample_rate = _ask(worker_address, request)
        logger.info("spoke %d characters in %.1f s of sound", len(text), waveform.shape[1] / sample_rate)
        return io.NodeOutput({"waveform": waveform[None], "sample_rate": sample_rate})


def _reference(audio) -> bytes:
    if audio is None:
        raise ValueError("The voice cosyvoice needs reference_audio: connect 3 to 30 s of the voice to imitate, or choose espeak-ng.")
    return speech.reference_wav(audio["waveform"], int(audio["sample_rate"]))


def _ask(worker_address: str, request: SpeechRequest):
    address = speech_worker.parse_address(worker_address)
    check_cancelled = comfy_bridge.raise_if_interrupted
    worker = speech_worker.wait_until_ready(address, check_cancelled)
    logger.info("%s speaks at %s", worker.get("engine", "a speech worker"), address)
    return speech_worker.ask_worker(address, request, check_cancelled)
