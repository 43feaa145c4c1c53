"""What runs beside the platform, in an environment of its own that has none of this package."""
