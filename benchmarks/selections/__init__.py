"""What selections cost to make: in time, beside training, and in memory."""
