"""Maps on disk: what is in one, writing it whole or not at all, reading it without trust."""
