"""From figures to answers."""
