"""The pack's own sockets; everything else uses ComfyUI's types."""

from comfy_api.latest import io

WanS2VAudio = io.Custom("WAN_S2V_AUDIO")  # wan_s2v_model.audio.features.EncodedAudio
WanS2VPoseSettings = io.Custom("WAN_S2V_POSE")  # wan_s2v_model.comfy_bridge.ConnectedPose
WanS2VPlan = io.Custom("WAN_S2V_PLAN")  # wan_s2v_model.conditioning.plan.Plan
WanS2VGuidance = io.Custom("WAN_S2V_AUDIO_GUIDANCE")  # wan_s2v_model.sampling.guidance.AudioGuidance
WanS2VContinuitySettings = io.Custom("WAN_S2V_CONTINUITY")  # wan_s2v_model.conditioning.plan.Continuity
WanS2VOptions = io.Custom("WAN_S2V_SAMPLING_OPTIONS")  # wan_s2v_model.sampling.guidance.SamplingOptions
WanS2VStepCacheSettings = io.Custom("WAN_S2V_STEP_CACHE")  # wan_s2v_model.sampling.step_cache.StepCache
WanS2VClips = io.Custom("WAN_S2V_CLIPS")  # wan_s2v_model.runs.clips.Clips
