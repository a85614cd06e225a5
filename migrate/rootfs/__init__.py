"""A root file system that goes along: compared, sent where the other side lacks it, placed."""
