"""What each clip is told: change here how picture, prompt, pose and time are laid out over the clips."""
