"""One folder a model, with its protocol and its cohort function, and the resources of each environment."""
