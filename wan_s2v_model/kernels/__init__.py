"""Arithmetic under the blocks, each piece with a plain twin in torch: change how fast something is computed here, never what."""
