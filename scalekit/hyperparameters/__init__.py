"""Family: published rules for hyperparameters, one file each."""
