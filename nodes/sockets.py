"""The pack's own sockets; everything else uses ComfyUI's types."""

from comfy_api.latest import io

WanS2VAudio = io.Custom("WAN_S2V_AUDIO")  # wan_s2v_model.audio.features.EncodedAudio
WanS2VPlan = io.Custom("WAN_S2V_PLAN")  # wan_s2v_model.conditioning.plan.Plan
WanS2VGuidance = io.Custom("WAN_S2V_AUDIO_GUIDANCE")  # wan_s2v_model.sampling.guidance.AudioGuidance
WanS2VContinuitySettings = io.Custom("WAN_S2V_CONTINUITY")  # wan_s2v_model.conditioning.plan.Continuity
WanS2VClips = io.Custom("WAN_S2V_CLIPS")  # wan_s2v_model.runs.clips.Clips
