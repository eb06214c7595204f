"""From recordings on disk to hypnograms."""

from skleepkd.recording.stager import RecordingStager

__all__ = ["RecordingStager"]
