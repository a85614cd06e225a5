"""Many hosts and many moments: transport, migration and the command line."""
