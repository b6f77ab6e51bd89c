"""How many metres a map unit has."""
