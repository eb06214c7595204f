"""Teachers that are ready: stagers trained on thousands of real nights, as classifiers."""

from .gssc import GsscStager
from .yasa import YasaStager

__all__ = ["GsscStager", "YasaStager"]
