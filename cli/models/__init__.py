"""Model files: which there are, where they lie, what they hold, and fetching them. Add a published file in `files.py`."""
