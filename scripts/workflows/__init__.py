"""The shipped workflows, their twins in API format and the blueprint, written from one description."""
