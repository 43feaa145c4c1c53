"""A platform on which a hospital runs its clinical models, as Dagster assets."""
