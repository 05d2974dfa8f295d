"""What all kinds of study share; a folder beside for each kind."""
