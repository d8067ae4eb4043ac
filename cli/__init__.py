"""The command line of the pack: make a video, fetch model files, look after runs, find out what is wrong. No node imports it."""
