"""From a sound to what the model hears: change here how a sound is chosen, prepared and encoded."""
