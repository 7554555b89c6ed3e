"""Looking at what is there: an entity's state in Redis, a request's way through the log."""
