"""The pack's own sockets; everything else uses ComfyUI's types."""

from comfy_api.latest import io

WanS2VAudio = io.Custom("WAN_S2V_AUDIO")  # wan_s2v_model.audio_features.EncodedAudio
WanS2VPlan = io.Custom("WAN_S2V_PLAN")  # wan_s2v_model.pipeline.Plan
WanS2VClips = io.Custom("WAN_S2V_CLIPS")  # wan_s2v_model.clips.Clips
