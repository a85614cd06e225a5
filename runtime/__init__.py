"""One host: containers, sandboxes and the checkpoint/restore engine."""
