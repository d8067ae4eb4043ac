"""The pack's own sockets; everything else uses ComfyUI's types."""

from comfy_api.latest import io

WanS2VAudio = io.Custom("WAN_S2V_AUDIO")  # wan_s2v_model.audio_features.EncodedAudio
WanS2VPlan = io.Custom("WAN_S2V_PLAN")  # wan_s2v_model.pipeline.Plan
WanS2VGuidance = io.Custom("WAN_S2V_AUDIO_GUIDANCE")  # wan_s2v_model.guidance.AudioGuidance
WanS2VContinuitySettings = io.Custom("WAN_S2V_CONTINUITY")  # wan_s2v_model.anchors.Continuity
WanS2VClips = io.Custom("WAN_S2V_CLIPS")  # wan_s2v_model.clips.Clips
