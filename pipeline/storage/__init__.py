"""The lake: documents, parquet and tensors, published whole and checked when read."""
