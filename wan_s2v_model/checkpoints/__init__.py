"""What a weights file is, and whether it fits: change here which files load and how others are refused."""
