"""The lake, the registry and the home as plain objects, and the Dagster resources that hand them out."""
