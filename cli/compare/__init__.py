"""`doctor --compare`: is what comes out of these model files right? One block of text, to paste into an issue."""
