"""The network with the names of the checkpoint: change here what one model call computes."""
