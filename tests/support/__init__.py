"""What the tests share: waiting, running the command, and the search for leftovers."""
