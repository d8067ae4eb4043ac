"""The nodes, in the order of the graph."""

from comfy_api.latest import ComfyExtension, io

from .audio import WanS2VAudioEncode, WanS2VTextToSpeech
from .directing import WanS2VAudioGuidance, WanS2VContinuity, WanS2VDraftOrFinal, WanS2VPose, WanS2VSamplingOptions, WanS2VStepCache
from .dub import WanS2VDub
from .live import WanS2VLiveSampler
from .loaders import WanS2VAudioEncoderLoader, WanS2VLoraLoader, WanS2VModelLoader, WanS2VTextEncoderLoader, WanS2VVAELoader
from .prepare import WanS2VPrepare
from .reports import WanS2VDriftReport, WanS2VSyncReport
from .sampling import WanS2VSampler
from .speakers import WanS2VSpeakers
from .text import WanS2VPromptSchedule, WanS2VTextEncode
from .video import WanS2VDecode, WanS2VFrameRate, WanS2VSaveVideo, WanS2VTail


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
            WanS2VSpeakers,
            WanS2VPose,
            WanS2VDub,
            WanS2VPrepare,
            WanS2VDraftOrFinal,
            WanS2VAudioGuidance,
            WanS2VContinuity,
            WanS2VSamplingOptions,
            WanS2VStepCache,
            WanS2VSampler,
            WanS2VLiveSampler,
            WanS2VDecode,
            WanS2VFrameRate,
            WanS2VTail,
            WanS2VDriftReport,
            WanS2VSaveVideo,
            WanS2VSyncReport,
        ]


async def comfy_entrypoint() -> WanS2VExtension:
    return WanS2VExtension()
