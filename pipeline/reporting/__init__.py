"""What people see: comparisons, pages and MLflow."""
