"""Text: edits, the vocabulary, channels of slips, suspicion and the clinical invariants."""
