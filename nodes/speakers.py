"""Several speakers in one picture."""

from typing import Any

from comfy_api.latest import io

from ..wan_s2v_model.audio.listening import rest
from ..wan_s2v_model.audio.selection import select
from ..wan_s2v_model.audio.speakers import EVERYWHERE, NOBODY, Speaker, Speakers, join, place_of, require_places, sound_of
from ..wan_s2v_model.audio.turns import parse_turns
from ..wan_s2v_model.constants import VIDEO_FPS
from ..wan_s2v_model.media.pictures import read_masks
from ..wan_s2v_model.runs.identity import note_rest
from .audio import listener_of
from .inputs import UNCONNECTED, checks_inputs
from .sockets import WanS2VAudio

MOST_SPEAKERS = 4
NUMBERS = range(1, MOST_SPEAKERS + 1)
LATEST_S = 1e5
SOUND = "What this speaker says, from Encode Audio (Wan S2V). With a mask or a box and without a sound it listens in silence."
PLACE = (
    "Where this speaker is, drawn on the very picture that Prepare Video gets, for example in the mask editor. "
    "A batch of masks moves with time."
)
BOX = "Where this speaker is, instead of a mask: left, top, width, height in pixels of the picture or percent. Right half: 50% 0 50% 100%"
START = "Second of the video at which the sound of this speaker begins, to the nearest frame."
GAIN = "Decibels by which this speaker is played louder, or softer if negative. The mouth does not notice."


class WanS2VSpeakers(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VSpeakers",
            display_name="Speakers (Wan S2V)",
            category="wan s2v/conditioning",
            description="Gives each person in the picture a sound of its own, or silence: two who talk in turn, or one who talks and "
            "others who listen.",
            search_aliases=["two people", "dialogue", "conversation", "podcast", "multi speaker", "mask", "who talks", "s2v"],
            inputs=[
                io.AudioEncoder.Input("audio_encoder", tooltip="That of the sounds. Hears what silence sounds like, for those who listen."),
                WanS2VAudio.Input("encoded_audio_1", optional=True, tooltip=SOUND),
                io.Mask.Input("mask_1", optional=True, tooltip=PLACE),
                WanS2VAudio.Input("encoded_audio_2", optional=True, tooltip=SOUND),
                io.Mask.Input("mask_2", optional=True, tooltip=PLACE),
                WanS2VAudio.Input("encoded_audio_3", optional=True, tooltip=SOUND),
                io.Mask.Input("mask_3", optional=True, tooltip=PLACE),
                WanS2VAudio.Input("encoded_audio_4", optional=True, tooltip=SOUND),
                io.Mask.Input("mask_4", optional=True, tooltip=PLACE),
                io.Combo.Input(
                    "nobody",
                    options=list(NOBODY),
                    default=NOBODY[0],
                    tooltip="What the rest of the picture hears. silence: nothing. nearest: the speaker who is nearest, for masks of faces "
                    "alone. everybody: the mean of all. everybody added: their sum, as Live-Avatar does.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Width of soft edges in pixels of the video. 0: a square of 16 pixels belongs to who has most of it.",
                ),
                io.String.Input(
                    "turns",
                    multiline=True,
                    default="",
                    tooltip="Who speaks when, a line for each change: 0:00 1, then 0:04.5 2, 0:09 1 and 2, 0:12 nobody. Empty: all sounds "
                    "are heard whole. Gives two speakers the parts of one recording, too.",
                ),
                io.String.Input("box_1", default="", tooltip=BOX),
                io.String.Input("box_2", default="", tooltip=BOX),
                io.String.Input("box_3", default="", tooltip=BOX, advanced=True),
                io.String.Input("box_4", default="", tooltip=BOX, advanced=True),
                io.Float.Input("start_1", default=0.0, min=0.0, max=LATEST_S, step=0.01, tooltip=START, advanced=True),
                io.Float.Input("start_2", default=0.0, min=0.0, max=LATEST_S, step=0.01, tooltip=START, advanced=True),
                io.Float.Input("start_3", default=0.0, min=0.0, max=LATEST_S, step=0.01, tooltip=START, advanced=True),
                io.Float.Input("start_4", default=0.0, min=0.0, max=LATEST_S, step=0.01, tooltip=START, advanced=True),
                io.Float.Input("gain_1", default=0.0, min=-60.0, max=30.0, step=0.5, tooltip=GAIN, advanced=True),
                io.Float.Input("gain_2", default=0.0, min=-60.0, max=30.0, step=0.5, tooltip=GAIN, advanced=True),
                io.Float.Input("gain_3", default=0.0, min=-60.0, max=30.0, step=0.5, tooltip=GAIN, advanced=True),
                io.Float.Input("gain_4", default=0.0, min=-60.0, max=30.0, step=0.5, tooltip=GAIN, advanced=True),
                io.Float.Input(
                    "mask_fps",
                    default=float(VIDEO_FPS),
                    min=0.01,
                    max=240.0,
                    step=0.001,
                    tooltip="Masks per second, where a mask is a batch that moves with the pose video.",
                    advanced=True,
                ),
                io.Audio.Input(
                    "played_audio",
                    optional=True,
                    tooltip="What the video plays instead of all speakers together, and how long it is: the finished mix, with music.",
                ),
            ],
            outputs=[WanS2VAudio.Output(display_name="encoded_audio", tooltip="All speakers as one sound, for Prepare Video (Wan S2V).")],
        )

    @classmethod
    def validate_inputs(cls, turns=None, box_1="", box_2="", box_3="", box_4="") -> bool | str:
        try:
            parse_turns("" if turns is None else str(turns))  # a connected text is not known yet
            for number, box in zip(NUMBERS, (box_1, box_2, box_3, box_4), strict=True):
                place_of(number, None, None if box is None else str(box))
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @checks_inputs
    def execute(cls, audio_encoder, nobody, feather, turns, mask_fps, played_audio=UNCONNECTED, **inputs) -> io.NodeOutput:
        speakers = tuple(filter(None, (_speaker(number, inputs) for number in NUMBERS)))
        require_places(speakers)
        if len(speakers) == 1 and speakers[0].is_unchanged and not turns.strip() and played_audio is UNCONNECTED:
            return io.NodeOutput(speakers[0].sound)
        silence = rest(listener_of(audio_encoder), next((speaker.sound.fps for speaker in speakers if speaker.sound), VIDEO_FPS))
        note_rest(silence, audio_encoder)
        played = None if played_audio is UNCONNECTED else select("played_audio", played_audio, 0.0, 0.0)
        return io.NodeOutput(join(Speakers(speakers, silence, parse_turns(turns), nobody, feather, mask_fps), played))


def _speaker(number: int, inputs: dict[str, Any]) -> Speaker | None:
    """What is connected for a speaker, None for nothing."""
    mask, start_s = inputs.get(f"mask_{number}"), inputs[f"start_{number}"]
    place = place_of(number, None if mask is None else read_masks(f"mask_{number}", mask), inputs[f"box_{number}"])
    sound = sound_of(number, inputs.get(f"encoded_audio_{number}"))
    if sound is None and place is None:
        return None
    start = round(start_s * (sound.fps if sound else VIDEO_FPS))
    return Speaker(number, EVERYWHERE if place is None else place, sound, start, inputs[f"gain_{number}"])
