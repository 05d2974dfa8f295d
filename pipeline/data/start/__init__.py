"""How a log of one's own begins: a sample is looked at, and its schema and line-up are proposed, with the reason beside each line."""
