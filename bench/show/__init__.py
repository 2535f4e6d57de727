"""From answers to what a person sees."""
