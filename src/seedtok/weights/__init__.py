"""Foreign checkpoints to ours, and back: every tensor is used, or left out for a reason that is said."""
