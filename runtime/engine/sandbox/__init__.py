"""One module per kind of state that belongs to a namespace, `dump` and `restore` side by side."""
