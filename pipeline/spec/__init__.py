"""What can be asked for: windows, configs, line-ups, studies, jobs, settings; light enough for a DAG file."""
