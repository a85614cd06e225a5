"""Everything that depends on the processor architecture: registers, blobs, system call numbers."""
