"""What a DAG run asks for: the fields of its form, how they are drawn, and the answers checked."""
