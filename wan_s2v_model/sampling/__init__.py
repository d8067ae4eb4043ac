"""Noise levels, solvers, guidance, and the loop from clip to clip: change here how latents are made."""
