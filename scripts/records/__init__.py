"""What the nodes say and what saved graphs depend on, as records that are kept beside the code."""
