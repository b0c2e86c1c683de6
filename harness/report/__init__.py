"""Reports of a run for people and CI: console, failure text, JUnit, markdown, pictures."""
