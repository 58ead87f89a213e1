"""The paper's training runs, and what they would take."""
