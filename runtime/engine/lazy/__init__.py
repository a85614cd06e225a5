"""Programs that run before all of their memory is there."""
