"""What one month looks like and how far it is from the champion's training data; nothing about storage or repair."""

from clinical_assets.monitoring.drift import DriftMonitor, DriftReport
from clinical_assets.monitoring.profiles import profile_frame

__all__ = ["DriftMonitor", "DriftReport", "profile_frame"]
