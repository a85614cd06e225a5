"""Mount namespaces: looking at their mounts, and putting them back."""
