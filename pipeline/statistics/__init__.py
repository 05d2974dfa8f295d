"""Statistics of studies: paired losses, their intervals, and what follows from them; arrays in, numbers out."""
