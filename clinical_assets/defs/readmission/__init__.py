"""The readmission model - its protocol and its cohort function."""
