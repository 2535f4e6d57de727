"""The three designs, each in a file of its own, all behind `greet.Line`."""
