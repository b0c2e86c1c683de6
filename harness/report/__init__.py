"""What people and CI read of a run: console, failure text, JUnit, markdown, pictures."""
