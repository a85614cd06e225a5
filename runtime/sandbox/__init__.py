"""What isolates a container: namespaces, mounts, cgroups, credentials, devices."""
