"""What turns tasks into an image and back."""
