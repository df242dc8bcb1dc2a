"""What the build asks of the dependencies; no part of the program."""
