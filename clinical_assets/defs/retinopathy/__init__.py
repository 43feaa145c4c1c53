"""The retinopathy model - its cohort function; its protocol stands beside it once the model is switched on."""
