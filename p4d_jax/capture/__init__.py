"""Photo or video to the parameters of each frame."""

from p4d_jax.capture.album import capture_album
from p4d_jax.capture.clip import FilmCapture, capture_film
from p4d_jax.capture.landmarks import LandmarkDetector, Landmarker, Landmarks, detect_landmarks
from p4d_jax.capture.photo import Capture, capture_photo

__all__ = [
    "Capture",
    "FilmCapture",
    "LandmarkDetector",
    "Landmarker",
    "Landmarks",
    "capture_album",
    "capture_film",
    "capture_photo",
    "detect_landmarks",
]
