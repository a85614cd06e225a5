"""One module per kernel interface; the only home of ctypes. Raises plain OSError."""
