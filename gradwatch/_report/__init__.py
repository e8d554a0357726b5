"""The report on a recorded run: what it says, and how it says it in a terminal, to programs and as a page."""
