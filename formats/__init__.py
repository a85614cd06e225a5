"""What the bytes mean: images, records, frames. Knows nothing of Linux or containers' lives."""
