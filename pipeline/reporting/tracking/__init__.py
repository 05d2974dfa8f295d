"""The one door to MLflow: one experiment per line-up or study, with its curves, stages, comparisons and selections."""
