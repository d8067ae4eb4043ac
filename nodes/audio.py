"""Sound: encoding it for the model, and text to speech."""

import logging
from functools import partial
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.audio.listening import Listener, listen
from ..wan_s2v_model.audio.preparation import NORMALISATIONS, SILENCES
from ..wan_s2v_model.audio.selection import select_sounds
from ..wan_s2v_model.constants import FRAME_RATES, VIDEO_FPS
from ..wan_s2v_model.limits import LARGEST_SEED
from ..wan_s2v_model.media.espeak import espeak_problem, require_reference, speak_with_espeak
from ..wan_s2v_model.media.speech_worker import DEFAULT_ADDRESS, SpeechRequest, parse_address, speak_with_worker
from ..wan_s2v_model.runs.identity import note_sound
from ..wan_s2v_model.untrusted import shown, text_problem
from .inputs import UNCONNECTED, checks_inputs
from .sockets import WanS2VAudio

logger = logging.getLogger("wan_s2v")
MEMORY_ADVICE = "Close other programs that use the GPU, or set dtype to fp16 in Load Wan S2V Audio Encoder."
ESPEAK, COSYVOICE = "espeak-ng", "cosyvoice"
LANGUAGE = "en"


def listener_of(audio_encoder) -> Listener:
    """What hears with an audio encoder; ValueError where it comes from another loader."""
    if not hasattr(audio_encoder, "hidden_layers"):
        raise ValueError(
            "This audio encoder is not ours: ComfyUI's own normalises the sound in another way. Use Load Wan S2V Audio Encoder."
        )
    run = partial(comfy_bridge.run_encoder, "audio encoding", audio_encoder, advice=MEMORY_ADVICE)
    return Listener(audio_encoder.hidden_layers, Path(folder_paths.get_temp_directory()), run)


class WanS2VAudioEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VAudioEncode",
            display_name="Encode Audio (Wan S2V)",
            category="wan s2v/conditioning",
            description="Listens to speech or singing. The chosen part drives the mouth and is played in the video.",
            search_aliases=["wav2vec2", "speech", "lip sync", "s2v"],
            inputs=[
                io.AudioEncoder.Input("audio_encoder", tooltip="wav2vec2 from Load Wan S2V Audio Encoder."),
                io.Audio.Input("audio", tooltip="Speech or song of any length, rate and number of channels."),
                io.Float.Input("start", default=0.0, min=0.0, max=1e6, step=0.01, tooltip="Seconds to skip at the beginning."),
                io.Float.Input("duration", default=0.0, min=0.0, max=1e6, step=0.01, tooltip="Seconds to use; 0 means to the end."),
                io.Audio.Input(
                    "driving_audio",
                    optional=True,
                    tooltip="What the model hears instead of audio, for example the vocals alone; audio is what the video plays. "
                    "start and duration choose the same part of both.",
                ),
                io.Combo.Input(
                    "normalisation",
                    optional=True,
                    options=list(NORMALISATIONS),
                    default="file",
                    tooltip="file: one level for the whole sound, as the reference. window: by the 10 s around, "
                    "for a voice that is quiet in some places.",
                    advanced=True,
                ),
                io.Float.Input(
                    "loudness",
                    optional=True,
                    default=0.0,
                    min=-60.0,
                    max=0.0,
                    step=0.5,
                    tooltip="Loudness in LUFS to bring the sound to, for example -16; 0 leaves it. Applies to what is heard and to what "
                    "is played: the model hears hardly a difference, the video becomes louder or quieter.",
                ),
                io.Combo.Input(
                    "silence",
                    optional=True,
                    options=list(SILENCES),
                    default="model",
                    tooltip="model: past its end the model hears zeros, as in the reference. rest: it hears real silence there. "
                    "rest in pauses: also in pauses of half a second or more, to calm the mouth.",
                ),
                io.Int.Input(
                    "sync_offset",
                    optional=True,
                    default=0,
                    min=-2000,
                    max=2000,
                    tooltip="Milliseconds by which the mouth moves later than the sound, or earlier if negative. "
                    "A matter of taste: 0 is in step.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "frame_rate",
                    optional=True,
                    options=[str(fps) for fps in FRAME_RATES],
                    default=str(VIDEO_FPS),
                    tooltip="Frames per second of the video that this sound drives. 16: for Sample Video, as the model was trained. "
                    "25: for Sample Video Live, whose LoRA was trained so.",
                    advanced=True,
                ),
            ],
            outputs=[WanS2VAudio.Output(display_name="encoded_audio", tooltip="What the model hears, with the sound that will be played.")],
        )

    @classmethod
    @checks_inputs
    def execute(
        cls,
        audio_encoder,
        audio,
        start,
        duration,
        driving_audio=UNCONNECTED,
        normalisation="file",
        loudness=0.0,
        silence="model",
        sync_offset=0,
        frame_rate=str(VIDEO_FPS),
    ) -> io.NodeOutput:
        if driving_audio is None:
            raise ValueError("There is no driving_audio: the video that it comes from has no sound. Connect a sound, or disconnect it.")
        driving_audio = None if driving_audio is UNCONNECTED else driving_audio
        played, heard = select_sounds(audio, driving_audio, start, duration, loudness)
        listener = listener_of(audio_encoder)
        options = {"normalisation": normalisation, "silence": silence, "delay_ms": sync_offset, "fps": int(frame_rate)}
        given = (played, heard) if loudness == 0 else select_sounds(audio, driving_audio, start, duration, 0.0)
        return io.NodeOutput(note_sound(listen(listener, played, heard, **options), audio_encoder, given, f"{loudness} {options}"))


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
                    default=DEFAULT_ADDRESS,
                    tooltip="host:port of the cosyvoice worker, on this machine only. Not used by espeak-ng.",
                ),
                io.Int.Input(
                    "seed",
                    optional=True,
                    default=0,
                    min=0,
                    max=LARGEST_SEED,
                    control_after_generate=io.ControlAfterGenerate.fixed,  # a new number makes a new video
                    tooltip="Another number gives another reading by cosyvoice. espeak-ng has only one.",
                ),
            ],
            outputs=[io.Audio.Output(display_name="audio", tooltip="The speech, mono. For Encode Audio (Wan S2V) or any other node.")],
        )

    @classmethod
    def validate_inputs(cls, text, voice, worker_address=DEFAULT_ADDRESS) -> bool | str:
        if text is not None and (problem := text_problem("text", str(text))):
            return problem
        if text is not None and not str(text).strip():
            return "text is empty. Write what shall be said."
        if voice is not None and not (isinstance(voice, str) and voice in (ESPEAK, COSYVOICE)):
            return f"voice must be {ESPEAK} or {COSYVOICE}; got {shown(voice)}."
        if voice == ESPEAK:
            return espeak_problem() or True
        try:
            parse_address(DEFAULT_ADDRESS if worker_address is None else str(worker_address))
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @checks_inputs
    def execute(
        cls, text, voice, reference_audio=None, reference_text="", language=LANGUAGE, speed=1.0, worker_address=DEFAULT_ADDRESS, seed=0
    ) -> io.NodeOutput:
        if voice == ESPEAK:
            if reference_audio is not None:
                logger.warning("espeak-ng cannot imitate a voice: reference_audio is not used. Choose the voice cosyvoice for that.")
            waveform, sample_rate = speak_with_espeak(text, language.strip() or LANGUAGE, speed, comfy_bridge.raise_if_interrupted)
        else:
            request = SpeechRequest(text, require_reference(reference_audio), reference_text, language, speed, seed)
            waveform, sample_rate = speak_with_worker(worker_address, request, comfy_bridge.raise_if_interrupted)
        logger.info("spoke %d characters in %.1f s of sound", len(text), waveform.shape[1] / sample_rate)
        return io.NodeOutput({"waveform": waveform[None], "sample_rate": sample_rate})
