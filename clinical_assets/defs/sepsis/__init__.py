"""The sepsis model - its protocol and its cohort function."""
