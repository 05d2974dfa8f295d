"""What a person fills in: fields, declared once for forms, files, confs and help."""
