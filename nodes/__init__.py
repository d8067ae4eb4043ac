"""The nodes, in the order of the graph."""

from comfy_api.latest import ComfyExtension, io

from .audio import WanS2VAudioEncode
from .continuity import WanS2VContinuity, WanS2VTail
from .drift import WanS2VDriftReport
from .frame_rate import WanS2VFrameRate
from .guidance import WanS2VAudioGuidance
from .loaders import WanS2VAudioEncoderLoader, WanS2VModelLoader, WanS2VTextEncoderLoader, WanS2VVAELoader
from .loras import WanS2VLoraLoader
from .prepare import WanS2VPrepare
from .sampling import WanS2VSampler
from .speech import WanS2VTextToSpeech
from .sync import WanS2VSyncReport
from .text import WanS2VPromptSchedule, WanS2VTextEncode
from .video import WanS2VDecode, WanS2VSaveVideo


class WanS2VExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            WanS2VModelLoader,
            WanS2VTextEncoderLoader,
            WanS2VAudioEncoderLoader,
            WanS2VVAELoader,
            WanS2VLoraLoader,
            WanS2VTextEncode,
            WanS2VPromptSchedule,
            WanS2VTextToSpeech,
            WanS2VAudioEncode,
            WanS2VPrepare,
            WanS2VAudioGuidance,
            WanS2VContinuity,
            WanS2VSampler,
            WanS2VDecode,
            WanS2VFrameRate,
            WanS2VTail,
            WanS2VDriftReport,
            WanS2VSaveVideo,
            WanS2VSyncReport,
        ]


async def comfy_entrypoint() -> WanS2VExtension:
    return WanS2VExtension()
