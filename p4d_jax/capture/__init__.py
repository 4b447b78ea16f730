"""Photo or video to the parameters of each frame."""
