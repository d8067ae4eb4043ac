"""Model files: which there are, where they lie, what they hold, and fetching them."""
