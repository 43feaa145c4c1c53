"""The chain of every model as Dagster assets, what watches it, and what people ask of it."""
